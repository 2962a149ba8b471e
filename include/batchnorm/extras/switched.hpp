// SPDX-License-Identifier: MIT
#pragma once

#include "batchnorm/moments/parts.hpp"

namespace batchnorm {

/// Which statistics normalize.
enum class Normalize {
  by_mode,  ///< the batch's in training mode, the running statistics in eval mode
  batch,
  running
};

/// Do the running statistics move towards the batch's?
enum class Update {
  by_mode,  ///< in training mode
  never,
  always
};

/// A layer whose statistics are chosen independently of its mode, whatever train() and eval() say:
///
///   Switched(bn, Normalize::running, Update::never)     frozen, for fine-tuning: frozen(bn)
///   Switched(bn, Normalize::by_mode, Update::never)     recomputes activations without a second
///                                                       update: recomputing(bn)
///   Switched(bn, Normalize::batch, Update::never)       the batch's statistics in eval mode too
///   Switched(bn, Normalize::running, Update::by_mode)   normalizes with the statistics from before
///                                                       the batch, then updates them
///
/// A frozen layer still computes gradients for gamma and beta: step them, or do not. backward is
/// the layer's: it differentiates the last forward with the statistics that this forward used.
/// Arguments, options, errors and promises are the layer's; Options::single_value and non_finite
/// apply to batch statistics that normalize or update. A call that throws leaves the layer and its
/// mode as they were. A forward that updates running statistics with which it normalizes allocates
/// memory. The layer must outlive this object and stay in place. Source of frozen layers: He et al.
/// (2015), arXiv 1512.03385, section on detection baselines.
template <class Scalar, int spatial>
class Switched {
 public:
  using Layer = BatchNorm<Scalar, spatial>;

  /// Throws std::invalid_argument for Normalize::running if the layer tracks no running statistics.
  Switched(Layer& layer, Normalize normalize, Update update)
      : layer_(&layer), normalize_(normalize), update_(update) {
    check_layer({"Switched", "Switched"});
  }

  template <class X>
  [[nodiscard]] detail::PlainOf<X> forward(const X& x) {
    return detail::written(x, [this](const auto& values, auto& y) { this->forward(values, y); });
  }
  /// The same into y: apart from x or, where running statistics normalize, x itself.
  template <class X, class Y>
  void forward(const X& x, Y&& y) {
    const auto f = [this](const auto&... shape_and_views) { forward_views(shape_and_views...); };
    detail::on_views_alone<Scalar, spatial>(layer_->core(), in_forward(), f, detail::Reads{"x", x},
                                            detail::Writes{"y", y});
  }

  template <class X, class Dy>
  [[nodiscard]] detail::PlainOf<X> backward(const X& x, const Dy& dy) {
    return layer_->backward(x, dy);
  }
  template <class X, class Dy, class Dx>
  void backward(const X& x, const Dy& dy, Dx&& dx) {
    layer_->backward(x, dy, dx);
  }

 private:
  using Core = detail::Core<typename Layer::Param>;
  struct KeepMode {
    bool& training;
    const bool before = training;
    ~KeepMode() { training = before; }
  };

  [[nodiscard]] static detail::Where in_forward() { return {"Switched", "forward"}; }
  void check_layer(const detail::Where& where) const {
    if (normalize_ == Normalize::running && !layer_->options().track_running_stats)
      where.invalid({"expected a layer with track_running_stats, got it switched off"});
  }
  void forward_views(const detail::Shape& shape, const detail::View& x, const detail::View& y) {
    check_layer(in_forward());  // another layer may have been assigned
    Core& core = layer_->core();
    const KeepMode keep{core.training};
    const bool updates = update_ == Update::by_mode ? keep.before : update_ == Update::always;
    const bool by_batch =
        normalize_ == Normalize::by_mode ? keep.before : normalize_ == Normalize::batch;
    core.training = by_batch || updates;
    if (by_batch && !updates) before_ = core.running;
    Saved batch;
    if (updates && !by_batch)
      batch = detail::completed(core, in_forward(), detail::measured(core, x));
    core.training = by_batch;
    core.forward_entered(in_forward(), shape, x, y);
    if (by_batch && !updates) core.running = before_;
    core.training = updates;
    if (updates && !by_batch) core.track(batch);
  }

  Layer* layer_;
  Normalize normalize_;
  Update update_;
  decltype(Core::running) before_{};  // kept, so that forward allocates nothing
};

/// Running statistics normalize and do not move.
template <class Scalar, int spatial>
[[nodiscard]] Switched<Scalar, spatial> frozen(BatchNorm<Scalar, spatial>& layer) {
  return {layer, Normalize::running, Update::never};
}
/// Like the layer, without an update.
template <class Scalar, int spatial>
[[nodiscard]] Switched<Scalar, spatial> recomputing(BatchNorm<Scalar, spatial>& layer) {
  return {layer, Normalize::by_mode, Update::never};
}

}  // namespace batchnorm
