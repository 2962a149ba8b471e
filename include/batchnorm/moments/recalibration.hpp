// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <list>
#include <variant>
#include <vector>

#include "batchnorm/moments/parts.hpp"

namespace batchnorm {

/// Computes running statistics of a whole data set in one pass: the mean of all values that reach a
/// layer, and their variance by the layer's estimate (Options::running_variance). For networks
/// whose weights are final, or were averaged, or whose momentum was wrong:
///
///   Recalibration recalibration;
///   recalibration.add(bn1);
///   recalibration.add(bn2);
///   recalibration.run(batches, [&](const auto& x) { network.forward(x); },
///                     [](Recalibration::Progress at) { show(at.done, at.total); });
///
/// Batches may have any sizes, but one value per channel only under SingleValue::accept: all values
/// weigh the same, and the variance between batches counts.
/// (PyTorch's update_bn averages the variances of batches: all batches weigh the same, and the
/// variance between them is lost.) During the pass the layers are in training mode, so each layer
/// sees what the layers before it compute by statistics of the batch. num_batches_tracked() becomes
/// the number of batches. A batch whose values in a channel are not finite is left out for this
/// channel, unless the layer's options propagate or reject such values.
///
/// After the pass the modes are as before. If the pass throws, the running statistics are as before
/// too.
class Recalibration {
 public:
  struct Progress {
    std::size_t done, total;  ///< batches
  };

  /// Adds a layer, which must outlive this object and stay in place. Throws std::logic_error if it
  /// does not track running statistics, or was added before.
  template <class Scalar, int spatial>
  void add(BatchNorm<Scalar, spatial>& layer) {
    const AnyCore core = &layer.core();
    layer.core().check_tracked(in("add"));
    if (std::find(layers_.begin(), layers_.end(), core) != layers_.end())
      in("add").misuse({"expected each layer once, got one again"});
    layers_.push_back(core);
  }

  /// Calls forward(batch), which must use each layer once, for each batch of a range, and
  /// report(Progress) after each.
  template <class Batches, class Forward, class Report>
  void run(const Batches& batches, const Forward& forward, const Report& report) const {
    const auto size = std::distance(std::begin(batches), std::end(batches));
    if (size == 0) in("run").invalid({"expected at least one batch, got none"});
    std::list<std::variant<Watched<float>, Watched<double>>> watched;
    for (const auto& layer : layers_)
      std::visit([&watched](auto* core) { watched.emplace_back(core); }, layer);
    Progress progress{0, static_cast<std::size_t>(size)};
    for (const auto& batch : batches) {
      forward(batch);
      std::size_t i = 0;
      for (auto& layer : watched) {
        if (!std::visit([](auto& one) { return one.collect(); }, layer)) {
          in("run").misuse(
              {"expected each batch to have values and to pass every layer's own forward once, in ",
               "training mode; layer ", i, " saw none in batch ", progress.done});
        }
        ++i;
      }
      ++progress.done;
      report(progress);
    }
    for (auto& layer : watched) std::visit([](auto& one) { one.keep(); }, layer);
  }
  template <class Batches, class Forward>
  void run(const Batches& batches, const Forward& forward) const {
    run(batches, forward, [](Progress) {});
  }

 private:
  using AnyCore = std::variant<detail::Core<float>*, detail::Core<double>*>;

  /// A layer during a pass. The destructor restores its mode, and its running statistics unless
  /// keep() was called.
  template <class Param>
  struct Watched {
    detail::Core<Param>* core;
    bool was_training;
    detail::RunningStatistics<typename detail::Core<Param>::Vector> running;
    Moments moments;  // of the batches so far
    std::int64_t batches = 0;

    Watched(detail::Core<Param>* c)
        : core(c), was_training(c->training), running(c->running), moments(c->num_features) {
      core->training = true;
      core->running.batches = 0;  // with it, the counts of skipped batches start anew
    }
    Watched(const Watched&) = delete;
    ~Watched() { core->running = running, core->training = was_training; }

    /// Takes the moments of the last forward. Returns false unless there was one forward, by the
    /// batch's statistics.
    [[nodiscard]] bool collect() {
      ++batches;
      const Saved& last = core->saved;
      if (core->running.batches != batches || last.count == 0 || !last.batch_statistics)
        return false;
      const Moments batch = detail::as_moments(last);
      const bool skip = core->options.non_finite == NonFinite::skip_update;
      for (Eigen::Index c = 0; c < batch.channels(); ++c) {
        if (!skip || detail::is_finite(batch.mean[c])) moments.merge(batch, c);
      }
      return true;
    }
    /// A channel without values, or whose variance is not defined, keeps its running statistics.
    void keep() {
      const VarianceEstimate estimate = core->options.running_variance;
      const Eigen::ArrayXd var = moments.var(estimate);
      const double fewest = estimate == VarianceEstimate::unbiased ? 2 : 1;
      for (Eigen::Index c = 0; c < var.size(); ++c) {
        const double mu = moments.mean[c];
        if (moments.count[c] > 0)
          running.mean[c] = detail::is_finite(mu) ? detail::saturated<Param>(mu) : Param(mu);
        if (moments.count[c] >= fewest) running.var[c] = detail::saturated<Param>(var[c]);
      }
      running.batches = running.counted = batches;
      running.skipped = core->running.skipped;
    }
  };

  [[nodiscard]] static detail::Where in(const char* call) { return {"Recalibration", call}; }

  std::vector<AnyCore> layers_;
};

}  // namespace batchnorm
