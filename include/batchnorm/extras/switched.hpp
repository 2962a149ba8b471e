// SPDX-License-Identifier: MIT
#pragma once

#include "batchnorm/detail/in_parts.hpp"

namespace batchnorm {

/// Which statistics normalize.
enum class Normalize {
  by_mode,  ///< the batch's in training mode, the running ones in eval mode
  batch,
  running
};

/// Do the running statistics move towards the batch's?
enum class Update {
  by_mode,  ///< in training mode
  never,
  always
};

/// A layer whose statistics are switched apart from its mode, and whatever train() and eval() say:
///
///   Switched(bn, Normalize::running, Update::never)     frozen: for fine-tuning; frozen(bn)
///   Switched(bn, Normalize::by_mode, Update::never)     activations made again for a backward, which
///                                                       are not to count twice; recomputing(bn)
///   Switched(bn, Normalize::batch, Update::never)       the batch's own in eval mode, too
///   Switched(bn, Normalize::running, Update::by_mode)   normalizes with what was known before the
///                                                       batch, and takes it in
///
/// A frozen layer still has gradients for gamma and beta: step them, or do not. backward is the
/// layer's and differentiates the last forward by whichever statistics it used. Arguments, options,
/// errors and what is promised are the layer's; Options::single_value and non_finite hold for batch
/// statistics that normalize or are taken in. A throw leaves the layer, its mode included, as it
/// was. The layer must outlive this object and stay where it is. Source: frozen layers as in He et
/// al., 2015, arXiv 1512.03385, section on detection baselines.
template <class Scalar, int spatial>
class Switched {
 public:
  using Layer = BatchNorm<Scalar, spatial>;

  /// Throws std::invalid_argument for Normalize::running and a layer that tracks none.
  Switched(Layer& layer, Normalize normalize, Update update)
      : parts_(layer), normalize_(normalize), update_(update) {
    if (normalize == Normalize::running && !layer.options().track_running_stats) {
      in("Switched").invalid("expected a layer with track_running_stats, got it switched off");
    }
  }

  template <class X>
  [[nodiscard]] typename detail::Argument<X>::Plain forward(const X& x) {
    return detail::written(x, [&](const auto& values, auto& y) { forward(values, y); });
  }
  /// The same into y: apart from x, or where running statistics normalize x itself.
  template <class X, class Y>
  void forward(const X& x, Y&& y) {
    Layer& layer = parts_.layer();
    const KeepMode keep(layer);
    const bool update =
        update_ == Update::by_mode ? layer.is_training() : update_ == Update::always;
    const bool by_batch =
        normalize_ == Normalize::by_mode ? layer.is_training() : normalize_ == Normalize::batch;
    if (by_batch == update) {
      layer.train(by_batch);
      layer.forward(x, y);
    } else if (by_batch) {
      parts_.get_running(before_);
      layer.train();
      layer.forward(x, y);
      parts_.set_running(before_);
    } else {
      layer.train();
      const auto& values = detail::evaluated<detail::Argument<X>::order>(x);
      Moments moments;
      bool takes_part = false;
      const detail::Where where = in("forward");
      parts_.on_view(where, values, [&](const auto& view, const auto&) {
        moments = parts_.measure(view);
        takes_part = parts_.settle(moments, where).batch_statistics;
      });
      layer.eval();
      layer.forward(values, y);
      layer.train();
      if (takes_part) parts_.track(moments);
    }
  }

  template <class X, class Dy>
  [[nodiscard]] typename detail::Argument<X>::Plain backward(const X& x, const Dy& dy) {
    return parts_.layer().backward(x, dy);
  }
  template <class X, class Dy, class Dx>
  void backward(const X& x, const Dy& dy, Dx&& dx) {
    parts_.layer().backward(x, dy, dx);
  }

 private:
  /// Restores a layer's mode.
  class KeepMode {
   public:
    explicit KeepMode(Layer& layer) : layer_(&layer), training_(layer.is_training()) {}
    KeepMode(const KeepMode&) = delete;
    KeepMode& operator=(const KeepMode&) = delete;
    ~KeepMode() { layer_->train(training_); }

   private:
    Layer* layer_;
    bool training_;
  };

  using Parts = detail::InParts<Scalar, spatial>;

  [[nodiscard]] static detail::Where in(const char* call) { return {"Switched", call}; }

  Parts parts_;
  Normalize normalize_;
  Update update_;
  typename Parts::Running before_;  // room for what an update is to leave
};

/// Running statistics, which stay as they are.
template <class Scalar, int spatial>
[[nodiscard]] Switched<Scalar, spatial> frozen(BatchNorm<Scalar, spatial>& layer) {
  return {layer, Normalize::running, Update::never};
}
/// As the layer, without a second update.
template <class Scalar, int spatial>
[[nodiscard]] Switched<Scalar, spatial> recomputing(BatchNorm<Scalar, spatial>& layer) {
  return {layer, Normalize::by_mode, Update::never};
}

}  // namespace batchnorm
