// SPDX-License-Identifier: MIT
#pragma once

#include <iterator>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "batchnorm/detail/in_parts.hpp"

namespace batchnorm {

/// Running statistics that are those of a whole data set: the mean of all values that reach a
/// layer and their variance, by the layer's estimate (Options::running_variance), in one pass.
/// For a network whose weights are done, or were averaged, or whose momentum was wrong:
///
///   Recalibration recalibration;
///   recalibration.add(bn1);
///   recalibration.add(bn2);
///   recalibration.run(batches, [&](const auto& x) { network.forward(x); },
///                     [](Recalibration::Progress at) { show(at.done, at.total); });
///
/// Batches may have any sizes: values count alike, and the variance between batches counts too.
/// (An average of the batches' variances, as PyTorch's update_bn takes it, weighs batches alike and
/// leaves the latter out.) In the pass layers are in training mode, so that a layer that follows
/// others sees what they make of each batch by its own statistics. num_batches_tracked() is then the
/// number of batches. A batch in which a channel is not finite is left out for this channel, unless
/// the layer's options propagate or reject it.
///
/// If anything throws, the layers have their running statistics and modes as before.
class Recalibration {
 public:
  struct Progress {
    std::size_t done;   ///< batches
    std::size_t total;  ///< of so many
  };

  /// A layer of the network, which must outlive this object and stay where it is. Throws
  /// std::logic_error if it tracks no running statistics.
  template <class Scalar, int spatial>
  void add(BatchNorm<Scalar, spatial>& layer) {
    if (!layer.options().track_running_stats) {
      in("add").misuse("expected a layer that tracks running statistics, got one that does not");
    }
    layers_.push_back(std::make_unique<Watched<Scalar, spatial>>(layer));
  }

  /// Calls forward(batch), which must use each layer once, for each batch of a range, and
  /// report(Progress) after each.
  template <class Batches, class Forward, class Report>
  void run(const Batches& batches, const Forward& forward, const Report& report) {
    const auto total =
        static_cast<std::size_t>(std::distance(std::begin(batches), std::end(batches)));
    if (total == 0) in("run").invalid("expected at least one batch, got none");
    const Pass pass(layers_);
    std::size_t done = 0;
    for (const auto& batch : batches) {
      forward(batch);
      for (std::size_t i = 0; i < layers_.size(); ++i) {
        if (layers_[i]->collect()) continue;
        in("run").misuse(
            "expected each batch to pass every layer's own forward once, in training mode; layer " +
            std::to_string(i) + " did not do so in batch " + std::to_string(done));
      }
      report(Progress{++done, total});
    }
    for (const auto& layer : layers_) layer->keep();
  }
  template <class Batches, class Forward>
  void run(const Batches& batches, const Forward& forward) {
    run(batches, forward, [](Progress) {});
  }

 private:
  [[nodiscard]] static detail::Where in(const char* call) { return {"Recalibration", call}; }

  class Layer {
   public:
    virtual ~Layer() = default;
    virtual void start() = 0;    // remembers the layer and puts it in training mode
    virtual bool collect() = 0;  // takes the last forward's moments; false if there was not one
    virtual void keep() = 0;     // what was collected instead of what was remembered
    virtual void end() = 0;      // leaves the layer as it is to be
  };

  template <class Scalar, int spatial>
  class Watched final : public Layer {
   public:
    explicit Watched(BatchNorm<Scalar, spatial>& layer) : layer_(layer), parts_(layer) {}

    void start() override {
      was_training_ = layer_.is_training();
      running_ = parts_.running();
      moments_ = Moments(layer_.num_features());
      batches_ = 0;
      layer_.train();
    }
    bool collect() override {
      const auto before = running_.num_batches_tracked + batches_;
      if (layer_.num_batches_tracked() != before + 1 || layer_.saved().count == 0) return false;
      ++batches_;
      const bool skip = layer_.options().non_finite == NonFinite::skip_update;
      const Moments batch = parts_.last_moments();
      for (Eigen::Index c = 0; c < batch.channels(); ++c) {
        if (detail::is_finite(batch.mean[c]) || !skip) moments_.merge(batch, c);
      }
      return true;
    }
    void keep() override { running_ = parts_.running_of(moments_, running_, batches_); }
    void end() override {
      parts_.set_running(running_);
      layer_.train(was_training_);
    }

   private:
    BatchNorm<Scalar, spatial>& layer_;
    detail::InParts<Scalar, spatial> parts_;
    bool was_training_ = true;
    typename detail::InParts<Scalar, spatial>::Running running_;  // what the layer is to have
    Moments moments_;                                             // of the batches so far
    std::int64_t batches_ = 0;
  };

  using Layers = std::vector<std::unique_ptr<Layer>>;

  /// Whatever ends the pass, the layers are left as they are to be.
  class Pass {
   public:
    explicit Pass(const Layers& layers) : layers_(layers) {
      for (const auto& layer : layers_) layer->start();
    }
    ~Pass() {
      for (const auto& layer : layers_) layer->end();
    }
    Pass(const Pass&) = delete;
    Pass& operator=(const Pass&) = delete;

   private:
    const Layers& layers_;
  };

  Layers layers_;
};

}  // namespace batchnorm
