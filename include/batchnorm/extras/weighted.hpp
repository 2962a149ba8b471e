// SPDX-License-Identifier: MIT
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <cstddef>
#include <limits>
#include <string>
#include <utility>

#include "batchnorm/detail/for_each_element.hpp"
#include "batchnorm/layer.hpp"

namespace batchnorm {

/// What happens at a position of weight zero.
enum class ZeroWeight {
  zero,      ///< y = 0; dy is not read, and dx = 0
  normalize  ///< y is computed by the statistics of the other positions, and dy is used
};

/// Weights for a forward, made by weights(w). They refer to w: make them in the call that uses
/// them.
template <class W>
struct Weights {
  const W& w;
};
/// w is a vector of weights for the samples, or has a weight for each position: a matrix or tensor
/// (N, L), a tensor (N, H, W) or (N, D, H, W). Its elements are of any arithmetic type, also bool.
template <class W>
[[nodiscard]] Weights<W> weights(const W& w) {
  return {w};
}

/// A layer's forward and backward for batches whose positions have weights of zero or more, such as
/// masks of padded sequences and sample weights.
///
///   Weighted weighted(bn);
///   auto y = weighted.forward(x, weights(w));   // moves bn's running statistics
///   auto dx = weighted.backward(x, dy);         // by the same w; adds to bn's gradients
///
/// Each value x_i of a channel has the weight w_i of its position, and
///
///   n = sum w      mu = sum w x / n      var = sum w (x - mu)^2 / n
///   dx = gamma * inv_std * (dy - w / n * (dbeta + x_hat * dgamma))
///
/// dbeta and dgamma are sums without weights: a loss multiplies its own terms by the weights. An
/// unbiased running variance gets var * n / (n - sum w^2 / n), as gsl_stats_wvariance of the GNU
/// Scientific Library has it: n / (n - 1) for a mask, and the same for weights of any scale. Values
/// at positions of weight zero do not enter the statistics, even if they are NaN. With
/// ZeroWeight::normalize, a value there that is not finite affects its own y only.
///
/// Options::single_value looks at the number of positions whose weight is not zero. If there is
/// none, the batch counts as empty: it is rejected, or y = 0, dx = 0 and nothing changes. Options
/// and errors are the layer's; weights that are negative, not finite or not of x's extents are a
/// std::invalid_argument. A call that throws changes nothing. y is as exact as the layer's.
/// In double this holds for some thousands of values per channel: of a million values, y has an
/// error of 1e-13. Squares of deviations beyond 1e150 overflow, and then count as not finite. Sums
/// and dx are simple loops on the calling thread: calls take five to ten times as long as the
/// layer's. The layer must outlive this object and must not be moved.
template <class Scalar, int spatial>
class Weighted {
 public:
  using Layer = BatchNorm<Scalar, spatial>;
  using Index = Eigen::Index;

  explicit Weighted(Layer& layer, ZeroWeight at_zero = ZeroWeight::zero)
      : layer_(&layer), at_zero_(at_zero) {}

  template <class X, class W>
  [[nodiscard]] detail::PlainOf<X> forward(const X& x, Weights<W> by) {
    return detail::written(
        x, [this, &by](const auto& values, auto& y) { this->forward(values, y, by); });
  }
  /// The same into y, apart from x.
  template <class X, class Y, class W>
  void forward(const X& x, Y&& y, Weights<W> by) {
    const auto f = [this, &by](bool col_major, const Shape& shape, const View& in_x,
                               const View& out_y) {
      write_forward(read(by.w, shape, in_x.count()), col_major, in_x, out_y);
    };
    on_views("forward", f, detail::Reads{"x", x}, detail::Writes{"y", y});
  }

  template <class X, class Dy>
  [[nodiscard]] detail::PlainOf<X> backward(const X& x, const Dy& dy) {
    return detail::written(
        x, [this, &dy](const auto& values, auto& dx) { this->backward(values, dy, dx); });
  }
  /// The same into dx, which may be dy.
  template <class X, class Dy, class Dx>
  void backward(const X& x, const Dy& dy, Dx&& dx) {
    const auto f = [this](bool col_major, const Shape& shape, const View& in_x, const View& in_dy,
                          const View& out_dx) {
      write_backward(shape, col_major, in_x, in_dy, out_dx);
    };
    on_views("backward", f, detail::Reads{"x", x}, detail::Reads{"dy", dy},
             detail::Writes{"dx", dx});
  }

  /// The statistics that the last forward normalized with. The count is the number of positions
  /// whose weight is not zero.
  [[nodiscard]] const Saved& saved() const { return use_.saved; }

 private:
  using View = detail::View;
  using Shape = detail::Shape;
  using Array = Eigen::ArrayXd;

  /// A forward's weights, and what it normalized with.
  struct Use {
    Array w[2];             // of each position, row-major and column-major; the largest is 1
    double sum = 0;         // n
    double correction = 1;  // n / (n - sum w^2 / n), divided by what running.take() applies
    bool is_empty = false;  // were the statistics of no values asked for?
    Shape shape;            // x's
    Saved saved;            // without a shape, so that the layer's own backward refuses it
  };

  [[nodiscard]] static detail::Where in(const char* call) { return {"Weighted", call}; }
  template <class F, class... A>
  void on_views(const char* call, const F& f, const A&... arguments) const {
    const auto with_order = [&f](const auto&... views) {
      f(detail::common_order<typename A::Type...>() == Eigen::ColMajor, views...);
    };
    detail::on_views_of<Scalar, spatial>(layer_->core(), in(call), with_order, arguments...);
  }

  // Weights. -------------------------------------------------------------------------------------

  template <class W>
  [[nodiscard]] Use read(const W& w, const Shape& x, Index count) const {
    const auto& values = detail::evaluated<detail::Argument<W>::order>(w);
    Shape positions = x;  // without the channels
    positions.extents[static_cast<std::size_t>(--positions.rank)] = 0;
    for (std::size_t d = detail::channel_of(x, layer_->options().channel_axis); d < 4; ++d)
      positions.extents[d] = x.extents[d + 1];
    const Shape samples{{x.extents[0]}, 1}, shape = detail::shape_of(values);
    bool is_vector = false;
    if constexpr (detail::is_matrix<W>) is_vector = W::IsVectorAtCompileTime;
    const Shape got = is_vector && shape != positions ? Shape{{values.size()}, 1} : shape;
    if (got != positions && got != samples) {
      const std::string more = positions == samples ? "" : " or " + positions.text();
      in("forward").invalid(
          {"expected weights of shape ", samples.text(), more, ", got ", got.text()});
    }
    const Index each = got == positions ? 1 : count / std::max<Index>(x.extents[0], 1);
    Use use;
    use.shape = x;
    for (Array& all : use.w) all.resize(count);
    Index p = 0;
    detail::for_each_element(
        values, [&use, &p, &shape, &values, each](const auto& index, const auto& element) {
          const auto v = static_cast<double>(element);
          if (!detail::is_finite(v) || v < 0)
            in("forward").invalid({"expected finite weights of at least 0, got ", v});
          Index place = 0;  // in column-major order
          for (std::size_t d = index.size(); d > 0; --d)
            place = place * shape.extents[d - 1] + index[d - 1];
          for (Index k = 0; k < each; ++k) use.w[0][p++] = use.w[1][place + k * values.size()] = v;
        });
    summarize(use);
    return use;
  }
  static void summarize(Use& use) {
    Index largest = 0;
    const double max = use.w[0].size() > 0 ? use.w[0].maxCoeff(&largest) : 0;
    if (max == 0) return;
    // A weight above 0 stays above 0.
    constexpr double smallest = (std::numeric_limits<double>::min)();
    for (Array& all : use.w) all = (all > 0).select(((all / max).max)(smallest), 0.0);
    use.saved.count = (use.w[0] > 0).count();
    Array others = use.w[0];  // all but the largest, beside which small weights would lose digits
    others[largest] = 0;
    use.sum = 1 + others.sum();
    const double unbiased = others.sum() + (others * (use.sum - others)).sum();  // sum w (n - w)
    const auto k = static_cast<double>(use.saved.count);
    if (k > 1) use.correction = use.sum / (unbiased / use.sum) * ((k - 1) / k);
  }

  // Values. --------------------------------------------------------------------------------------

  [[nodiscard]] static Scalar& at(const View& v, Index o, Index c, Index i) {
    const Index offset = o * v.outer_stride + c * v.channel_stride + i * v.inner_stride;
    return static_cast<Scalar*>(v.data)[offset];
  }
  /// Calls f(o, c, i, p) for each value: channel c at (o, i), which is position p.
  template <class F>
  static void for_each(const View& x, const F& f) {
    for (Index o = 0; o < x.outer; ++o) {
      for (Index c = 0; c < x.channels; ++c) {
        for (Index i = 0; i < x.inner; ++i) f(o, c, i, o * x.inner + i);
      }
    }
  }
  /// (C) sum w * (x - center)^power
  template <int power>
  [[nodiscard]] static Array sum_about(const Array& center, const View& x, const Array& w) {
    Array sum = Array::Zero(x.channels);
    for (Index o = 0; o < x.outer; ++o) {
      for (Index c = 0; c < x.channels; ++c) {
        double of_run = 0;
        for (Index i = 0; i < x.inner; ++i) {
          const double w_p = w[o * x.inner + i],
                       d = static_cast<double>(at(x, o, c, i)) - center[c];
          of_run += w_p != 0 ? w_p * (power == 1 ? d : d * d) : 0;  // NaN * 0 would be NaN
        }
        sum[c] += of_run;
      }
    }
    return sum;
  }
  /// The weighted mean and variance of each channel. Sums are taken about v0, one of the values.
  void measure(Use& use, const Array& w, const View& x) const {
    Saved& batch = use.saved;
    batch.mean = batch.var = Eigen::VectorXd::Zero(x.channels);
    if (batch.count == 0 || layer_->core().is_by_running()) return;
    Index p = 0;
    w.maxCoeff(&p);
    Array v0(x.channels);
    x.elements->read(x.at(p / x.inner, 0, p % x.inner), x.channels, x.channel_stride, v0.data());
    for (double& v : v0) v = detail::is_finite(v) ? v : 0;  // infinity - infinity would be NaN
    batch.mean = v0 + sum_about<1>(v0, x, w) / use.sum;
    batch.var = sum_about<2>(batch.mean, x, w) / use.sum;
    for (double& var : batch.var)
      var = detail::is_finite(var) ? var : detail::not_a_number<double>();
  }

  void write_forward(Use next, bool col_major, const View& x, const View& y) {
    const detail::Where where = in("forward");
    auto& core = layer_->core();
    const detail::Entered entered(core.in_use, where);
    detail::check_apart(where, "y", y, "x, which backward needs", x);
    const Array& w = next.w[col_major];
    measure(next, w, x);
    core.complete(where, next.saved);
    next.is_empty = next.saved.batch_statistics && next.saved.count == 0;
    Saved batch = next.saved;
    if (core.options.running_variance == VarianceEstimate::unbiased) batch.var *= next.correction;
    const functional::Normalizer by{next.saved.mean.data(), next.saved.inv_std.data(), false};
    if (x.size() > 0) functional::normalize(x, by, core.affine(), y, core.resources());
    if (next.is_empty || at_zero_ == ZeroWeight::zero) {
      for_each(y, [&](Index o, Index c, Index i, Index p) {
        if (w[p] == 0) at(y, o, c, i) = Scalar(0);
      });
    }
    core.saved.shape = {}, core.saved.count = 0;  // the layer's own backward is refused
    core.track(batch);
    use_ = std::move(next);
  }
  void write_backward(const Shape& shape, bool col_major, const View& x, const View& dy,
                      const View& dx) {
    const detail::Where where = in("backward");
    auto& core = layer_->core();
    const detail::Entered entered(core.in_use, where);
    detail::check_shape_of_last(where, use_.shape, shape);
    detail::check_dx(where, x, dy, dx);
    write_input_gradient(use_.w[col_major], x, dy, dx);
  }
  void write_input_gradient(const Array& w, const View& x, const View& dy, const View& dx) {
    auto& core = layer_->core();
    const Array share = w / use_.sum, mean = use_.saved.mean, inv_std = use_.saved.inv_std;
    Array factor = inv_std, dbeta = Array::Zero(x.channels), dgamma = dbeta;
    for (Index c = 0; c < x.channels; ++c) factor[c] *= core.affine().gamma_of(c);
    const bool by_batch = use_.saved.batch_statistics;
    const bool skips_zeros = use_.is_empty || at_zero_ == ZeroWeight::zero;
    const auto is_skipped = [&](Index p, double v) {
      return w[p] == 0 && (skips_zeros || !detail::is_finite(v));
    };
    for_each(x, [&](Index o, Index c, Index i, Index p) {
      const auto v = static_cast<double>(at(x, o, c, i)), d = static_cast<double>(at(dy, o, c, i));
      if (is_skipped(p, v)) return;
      dbeta[c] += d;
      dgamma[c] += d * ((v - mean[c]) * inv_std[c]);
    });
    for_each(x, [&](Index o, Index c, Index i, Index p) {
      const auto v = static_cast<double>(at(x, o, c, i)), x_hat = (v - mean[c]) * inv_std[c];
      double d = is_skipped(p, v) ? 0 : static_cast<double>(at(dy, o, c, i));
      if (by_batch && w[p] != 0) d -= share[p] * (dbeta[c] + x_hat * dgamma[c]);
      if (!is_skipped(p, v)) d *= factor[c];
      detail::write_element<Scalar>(&at(dx, o, c, i),
                                    static_cast<double>(detail::narrow<typename Layer::Param>(d)));
    });
    core.accumulate(dbeta.data(), dgamma.data());
  }

  Layer* layer_;
  ZeroWeight at_zero_;
  Use use_;  // of the last forward
};

}  // namespace batchnorm
