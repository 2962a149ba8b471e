// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>

#include "batchnorm/layer.hpp"
#include "batchnorm/moments/merge.hpp"

namespace batchnorm::detail {

/// Sums of a batch's gradients, or of a part of it. They add up.
struct GradientSums {
  Eigen::VectorXd dbeta;   ///< (C) sum dy
  Eigen::VectorXd dgamma;  ///< (C) sum dy * x_hat
  Index count = 0;         ///< values per channel that are in them

  explicit GradientSums(Index channels) : dbeta(Eigen::VectorXd::Zero(channels)), dgamma(dbeta) {}
  void add(const GradientSums& other) {
    dbeta += other.dbeta;
    dgamma += other.dgamma;
    count += other.count;
  }
};

/// A layer's forward and backward in steps, between which the numbers of several parts of a batch
/// can be put together:
///   forward:   measure the parts, merge, settle, track, then normalize the parts
///   backward:  sum the parts' gradients, add, then write the parts' input gradients
/// A Saved made here is of the whole batch, so its shape is none.
template <class Scalar, int spatial>
class InParts {
 public:
  using Layer = BatchNorm<Scalar, spatial>;
  using In = View<const Scalar>;
  using Out = View<Scalar>;

  explicit InParts(Layer& layer) : layer_(&layer) {}

  [[nodiscard]] Layer& layer() const { return *layer_; }
  [[nodiscard]] Index channels() const { return layer_->num_features(); }
  /// Will running statistics normalize, whatever the batch?
  [[nodiscard]] bool is_by_running() const {
    return !layer_->is_training() && layer_->options().track_running_stats;
  }

  // Arguments. -----------------------------------------------------------------------------------

  /// Checks x and y as the layer does and calls f(view of x, view of y, shape).
  template <class X, class Y, class F>
  void on_views(const Where& where, const X& x, Y&& y, const F& f) const {
    Layer::template check_type<X>();
    Layer::template check_type<Bare<Y>>();
    if constexpr (is_tensor_ref<Bare<Y>>) {
      by_way_of_plain(y, [&](auto& plain) { on_views(where, x, plain, f); });
    } else {
      check_result<Scalar, Y>();
      constexpr int order = checked_order<X, Bare<Y>>();
      const auto& values = evaluated<order>(x);
      const Shape shape = layer_->checked_shape(values, where);
      check_same_shape("y", shape_of(y), shape, where);
      const In in = layer_->template view<const Scalar, order>(values);
      const Out out = layer_->template view<Scalar, order>(y);
      if (overlaps(in, out) || (in.size() > 0 && is_same_place(in, out))) {
        where.invalid("expected y apart from x, which backward needs, got them overlapping");
      }
      f(in, out, shape);
    }
  }
  /// The same with x, dy and dx.
  template <class X, class Dy, class Dx, class F>
  void on_views(const Where& where, const X& x, const Dy& dy, Dx&& dx, const F& f) const {
    Layer::template check_type<X>();
    Layer::template check_type<Dy>();
    Layer::template check_type<Bare<Dx>>();
    if constexpr (is_tensor_ref<Bare<Dx>>) {
      by_way_of_plain(dx, [&](auto& plain) { on_views(where, x, dy, plain, f); });
    } else {
      check_result<Scalar, Dx>();
      constexpr int order = checked_order<X, Dy, Bare<Dx>>();
      const auto& values = evaluated<order>(x);
      const auto& gradient = evaluated<order>(dy);
      const Shape shape = layer_->checked_shape(values, where);
      check_same_shape("dy", shape_of(gradient), shape, where);
      check_same_shape("dx", shape_of(dx), shape, where);
      const In in = layer_->template view<const Scalar, order>(values);
      const In in_dy = layer_->template view<const Scalar, order>(gradient);
      const Out out = layer_->template view<Scalar, order>(dx);
      if (overlaps(in, out) || (in.size() > 0 && is_same_place(in, out))) {
        where.invalid("expected dx apart from x, got them overlapping");
      }
      if (overlaps(in_dy, out) && !is_same_place(in_dy, out)) {
        where.invalid("expected dx apart from dy or dy itself, got them overlapping");
      }
      f(in, in_dy, out, shape);
    }
  }
  /// x alone.
  template <class X, class F>
  void on_view(const Where& where, const X& x, const F& f) const {
    Layer::template check_type<X>();
    constexpr int order = checked_order<X>();
    const auto& values = evaluated<order>(x);
    const Shape shape = layer_->checked_shape(values, where);
    f(layer_->template view<const Scalar, order>(values), shape);
  }
  /// x and dy.
  template <class X, class Dy, class F>
  void on_inputs(const Where& where, const X& x, const Dy& dy, const F& f) const {
    Layer::template check_type<X>();
    Layer::template check_type<Dy>();
    constexpr int order = checked_order<X, Dy>();
    const auto& values = evaluated<order>(x);
    const auto& gradient = evaluated<order>(dy);
    const Shape shape = layer_->checked_shape(values, where);
    check_same_shape("dy", shape_of(gradient), shape, where);
    f(layer_->template view<const Scalar, order>(values),
      layer_->template view<const Scalar, order>(gradient), shape);
  }

  // The layer's own calls, by a pass of another kind. ----------------------------------------------

  template <class Pass, class... More>
  void forward_by(const In& x, const Out& y, const Shape& shape, const Where& where,
                  const More&... more) const {
    layer_->template forward_view<Pass>(x, y, shape, where, more...);
  }
  template <class Pass, class... More>
  void backward_by(const In& x, const In& dy, const Out& dx, const Shape& shape, const Where& where,
                   const More&... more) const {
    layer_->check_saved(layer_->saved(), shape, where);
    layer_->template backward_view<Pass>(layer_->saved(), x, dy, dx, where, more...);
  }
  void check_saved(const Shape& shape, const Where& where) const {
    layer_->check_saved(layer_->saved(), shape, where);
  }
  [[nodiscard]] const Workers& workers() const { return layer_->workers_; }
  /// Sums and dx by another gamma than the layer's.
  [[nodiscard]] GradientSums backward_with(const Saved& by, const Affine<ParamOf<Scalar>>& affine,
                                           const In& x, const In& dy, const Out& dx) const {
    const Normalizer<const double> given{by.mean.data(), by.inv_std.data(), by.batch_statistics};
    Backward<Scalar> pass({x, affine, given, layer_->workers_, layer_->scratch_}, dy, dx);
    pass.run();
    return sums_of(pass, x);
  }

  // Forward. -------------------------------------------------------------------------------------

  /// The moments of a part; only counted where running statistics will normalize.
  [[nodiscard]] Moments measure(const In& x) const {
    if (!is_by_running()) return moments_of_view<Scalar>(x, layer_->workers_, layer_->scratch_);
    Moments m(channels());
    m.count = static_cast<double>(x.count());
    return m;
  }

  /// What to normalize a batch of these moments with. Throws as the options say of a single value
  /// per channel and of values that are not finite; changes nothing.
  [[nodiscard]] Saved settle(const Moments& m, const Where& where) const {
    Saved by;
    by.count = static_cast<Index>(m.count[0]);
    by.batch_statistics = layer_->is_by_batch(by.count, where);
    if (!by.batch_statistics) {
      const auto var = layer_->running_var_.template cast<double>().array();
      by.mean = layer_->running_mean_.template cast<double>();
      by.inv_std = 1 / (var + layer_->options_.eps).sqrt();
      return by;
    }
    put_in_layer(m);
    if (by.count > 0 && layer_->options_.non_finite == NonFinite::reject) {
      for (Index c = 0; c < channels(); ++c) {
        if (layer_->is_finite_channel(c)) continue;
        where.domain("expected finite values, got some that are not in channel " +
                     std::to_string(c));
      }
    }
    by.mean = m.mean;
    by.inv_std = (layer_->scratch_.var.head(channels()) + layer_->options_.eps).sqrt().inverse();
    return by;
  }

  /// A training batch of these moments, which normalized it, moves the running statistics and
  /// counts.
  void track(const Moments& m) const {
    if (!layer_->is_training() || m.count[0] == 0) return;
    put_in_layer(m);
    layer_->next_.count = static_cast<Index>(m.count[0]);
    layer_->update_running_stats();
  }

  /// Writes y. The layer itself has nothing to differentiate then: its own backward is refused.
  void normalize(const Saved& by, const In& x, const Out& y) const {
    layer_->saved_.shape = {};
    layer_->saved_.count = 0;
    if (x.size() == 0) return;
    layer_->next_.mean = by.mean;
    layer_->next_.inv_std = by.inv_std;
    const Normalizer<double> given{layer_->next_.mean.data(), layer_->next_.inv_std.data(), false};
    Forward<Scalar>({x, layer_->affine(), given, layer_->workers_, layer_->scratch_}, y)
        .normalize();
  }

  // Running statistics. --------------------------------------------------------------------------

  struct Running {
    typename Layer::Vector mean, var;
    std::int64_t num_batches_tracked = 0;
    Eigen::Array<std::int64_t, Eigen::Dynamic, 2> skipped;
  };
  [[nodiscard]] Running running() const {
    return {layer_->running_mean_, layer_->running_var_, layer_->num_batches_tracked_,
            layer_->skipped_};
  }
  /// The same, without allocations from the second time on.
  void get_running(Running& running) const {
    running.mean = layer_->running_mean_;
    running.var = layer_->running_var_;
    running.num_batches_tracked = layer_->num_batches_tracked_;
    running.skipped = layer_->skipped_;
  }
  void set_running(const Running& running) const {
    layer_->running_mean_ = running.mean;
    layer_->running_var_ = running.var;
    layer_->num_batches_tracked_ = running.num_batches_tracked;
    layer_->skipped_ = running.skipped;
  }
  /// Of a data set's moments, by the layer's estimate of the variance; `otherwise` of what there is
  /// none of: a channel without values, an unbiased variance of one value.
  [[nodiscard]] Running running_of(const Moments& m, Running otherwise,
                                   std::int64_t batches) const {
    using Param = typename Layer::Param;
    const bool unbiased = layer_->options_.running_variance == VarianceEstimate::unbiased;
    const Eigen::ArrayXd var = m.var(layer_->options_.running_variance);
    for (Index c = 0; c < channels(); ++c) {
      if (m.count[c] > 0) otherwise.mean[c] = saturated<Param>(m.mean[c]);
      if (m.count[c] > (unbiased ? 1 : 0)) otherwise.var[c] = saturated<Param>(var[c]);
    }
    otherwise.num_batches_tracked = batches;
    otherwise.skipped.setZero();
    return otherwise;
  }

  /// Of the layer's last forward, by the batch's statistics.
  [[nodiscard]] Moments last_moments() const {
    Moments m(channels());
    m.count = static_cast<double>(layer_->saved_.count);
    m.mean = layer_->saved_.mean.array();
    m.m2 = layer_->scratch_.var.head(channels()) * m.count;
    return m;
  }

  // Backward. ------------------------------------------------------------------------------------

  [[nodiscard]] GradientSums sum_gradients(const Saved& by, const In& x, const In& dy) const {
    if (x.size() == 0) return GradientSums(channels());
    auto pass = backward_pass(by, x, dy, unwritten(dy));
    pass.sum_gradients();
    return sums_of(pass, x);
  }

  /// Adds a part's sums to the layer's gradients.
  void accumulate(const GradientSums& sums) const {
    layer_->accumulate(sums.dgamma.data(), sums.dbeta.data());
  }

  /// A part's dx by the sums of the whole batch.
  void write_input_gradient(const Saved& by, const GradientSums& sums, const In& x, const In& dy,
                            const Out& dx) const {
    if (x.size() == 0) return;
    backward_pass(by, x, dy, dx)
        .write_input_gradient(sums.dbeta.data(), sums.dgamma.data(), by.count);
  }

 private:
  [[nodiscard]] GradientSums sums_of(const Backward<Scalar>& pass, const In& x) const {
    GradientSums sums(channels());
    std::copy_n(pass.dbeta(), channels(), sums.dbeta.data());
    std::copy_n(pass.dgamma(), channels(), sums.dgamma.data());
    sums.count = x.count();
    return sums;
  }

  /// To where the layer's own methods look for a batch's mean and variance. A sum of squares beyond
  /// double's range counts as values that are not finite.
  void put_in_layer(const Moments& m) const {
    layer_->scratch_.reserve(channels(), 1);
    layer_->next_.mean = m.mean;
    for (Index c = 0; c < channels(); ++c) {
      const bool finite = is_finite(m.mean[c]) && is_finite(m.m2[c]);
      layer_->scratch_.var[c] = finite ? m.m2[c] / m.count[c] : not_a_number<double>();
    }
  }
  [[nodiscard]] Backward<Scalar> backward_pass(const Saved& by, const In& x, const In& dy,
                                               const Out& dx) const {
    const Normalizer<const double> given{by.mean.data(), by.inv_std.data(), by.batch_statistics};
    return Backward<Scalar>({x, layer_->affine(), given, layer_->workers_, layer_->scratch_}, dy,
                            dx);
  }

  Layer* layer_;
};

}  // namespace batchnorm::detail
