// SPDX-License-Identifier: MIT
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <cstddef>
#include <string>

#include "batchnorm/detail/in_parts.hpp"

namespace batchnorm {

/// What a position of weight zero gets.
enum class ZeroWeight {
  zero,      ///< y = 0; dy there is not read, and dx = 0
  normalize  ///< y by the statistics of the others, and its dy counts
};

/// Weights for a forward, by weights(w).
template <class W>
struct Weights {
  const W& w;
};
/// w is a vector with a weight for each sample, or has one for each position: a matrix or tensor
/// (N, L), a tensor (N, H, W) or (N, D, H, W). Of any arithmetic type: a mask may be of bool.
template <class W>
[[nodiscard]] Weights<W> weights(const W& w) {
  return {w};
}

/// A layer's forward and backward for batches whose positions have weights, zero or more: masks of
/// padded sequences, sample weights.
///
///   Weighted weighted(bn);
///   auto y = weighted.forward(x, weights(w));      // moves bn's running statistics
///   auto dx = weighted.backward(x, dy);            // by the weights of that forward; adds to
///                                                  // bn.grad_gamma() and bn.grad_beta()
///
/// A channel's values x_i have their position's weight w_i, and
///
///   n = sum w      mu = sum w x / n      var = sum w (x - mu)^2 / n
///   dx = gamma * inv_std * (dy - w / n * (dbeta + x_hat * dgamma))
///
/// with dbeta and dgamma as without weights, so a loss is to weigh its terms itself. The running
/// variance, if unbiased, gets var * n / (n - sum w^2 / n), as gsl_stats_wvariance of the GNU
/// Scientific Library has it: n / (n - 1) for a mask of zeros and ones, and the same for weights of
/// any scale. Positions of weight zero have no part in the statistics, whatever x holds there, NaN
/// included. Under ZeroWeight::normalize, one that is not finite shows in its own y alone.
///
/// Options::single_value is judged by the positions of other weight than zero; if there is none the
/// batch is like an empty one: rejected, or y = 0, dx = 0 and nothing changes. In eval mode running
/// statistics normalize as always. Arguments, options and errors are the layer's;
/// std::invalid_argument also for weights that are negative, not finite or not of x's extents. A
/// call that throws changes nothing. y is as exact as the layer's; deviations of doubles beyond
/// 1e150, whose squares overflow, count as not finite. Sums and dx are simple loops on the calling
/// thread: calls take some five to ten times as long as the layer's. The layer must outlive this
/// object and stay where it is.
template <class Scalar, int spatial>
class Weighted {
 public:
  using Layer = BatchNorm<Scalar, spatial>;
  using Index = Eigen::Index;

  explicit Weighted(Layer& layer, ZeroWeight at_zero = ZeroWeight::zero)
      : parts_(layer), at_zero_(at_zero) {}

  template <class X, class W>
  [[nodiscard]] typename detail::Argument<X>::Plain forward(const X& x, Weights<W> by) {
    return detail::written(x, [&](const auto& values, auto& y) { forward(values, y, by); });
  }

  /// The same into y, apart from x.
  template <class X, class Y, class W>
  void forward(const X& x, Y&& y, Weights<W> by) {
    using detail::Bare;
    if constexpr (detail::is_tensor_ref<Bare<Y>>) {
      detail::by_way_of_plain(y, [&](auto& plain) { forward(x, plain, by); });
    } else {
      const detail::Where where = in("forward");
      parts_.on_views(where, x, y, [&](const auto& in_x, const auto& out_y, const auto& shape) {
        Use next = read(by.w, shape, where);
        const Eigen::ArrayXd w = in_order(next, detail::common_order<X, Bare<Y>>());
        const Moments m = measure(next, w.data(), in_x);
        next.saved = parts_.settle(m, where);
        next.is_empty = next.saved.batch_statistics && next.positive == 0;
        parts_.normalize(next.saved, in_x, out_y);
        if (next.is_empty || at_zero_ == ZeroWeight::zero) {
          for_each(in_x, [&](Index c, Index o, Index i, Index p) {
            if (w[p] == 0) *out_y.at(o, c, i) = Scalar(0);
          });
        }
        if (next.saved.batch_statistics) parts_.track(for_running_statistics(next, m));
        use_ = std::move(next);
      });
    }
  }

  template <class X, class Dy>
  [[nodiscard]] typename detail::Argument<X>::Plain backward(const X& x, const Dy& dy) {
    return detail::written(x, [&](const auto& values, auto& dx) { backward(values, dy, dx); });
  }

  /// The same into dx, which may be dy.
  template <class X, class Dy, class Dx>
  void backward(const X& x, const Dy& dy, Dx&& dx) {
    using detail::Bare;
    if constexpr (detail::is_tensor_ref<Bare<Dx>>) {
      detail::by_way_of_plain(dx, [&](auto& plain) { backward(x, dy, plain); });
    } else {
      const detail::Where where = in("backward");
      parts_.on_views(
          where, x, dy, dx,
          [&](const auto& in_x, const auto& in_dy, const auto& out_dx, const auto& shape) {
            if (use_.shape.rank == 0) {
              where.misuse("expected a forward before backward: call forward(x, weights(w)) first");
            }
            if (shape != use_.shape) {
              where.invalid("expected the x of the last forward, of shape " + use_.shape.text() +
                            ", got one of " + shape.text());
            }
            const Eigen::ArrayXd w = in_order(use_, detail::common_order<X, Dy, Bare<Dx>>());
            const detail::GradientSums sums = sum_gradients(w.data(), in_x, in_dy);
            parts_.accumulate(sums);
            write_input_gradient(w.data(), sums, in_x, in_dy, out_dx);
          });
    }
  }

  /// The statistics that the last forward normalized with; its count is that of the positions of
  /// other weight than zero.
  [[nodiscard]] const Saved& saved() const { return use_.saved; }

 private:
  using Parts = detail::InParts<Scalar, spatial>;
  using In = detail::View<const Scalar>;
  using Out = detail::View<Scalar>;

  /// A forward's weights, and what it normalized with.
  struct Use {
    Eigen::ArrayXd w;         // of each position, row-major, largest 1
    double sum = 0;           // n
    double correction = 1;    // n / (n - sum w^2 / n), if positive > 1
    Index positive = 0;       // positions of other weight than zero
    bool is_empty = false;    // statistics of no values were asked for
    detail::Shape positions;  // (N, L) and the like
    detail::Shape shape;      // x's
    Saved saved;
  };

  [[nodiscard]] static detail::Where in(const char* call) { return {"Weighted", call}; }

  // Weights. -------------------------------------------------------------------------------------

  [[nodiscard]] detail::Shape positions_of(const detail::Shape& x) const {
    const bool last = parts_.layer().options().channel_axis == ChannelAxis::last;
    const int channel = last ? x.rank - 1 : 1;
    detail::Shape positions;
    for (int d = 0; d < x.rank; ++d) {
      if (d == channel) continue;
      positions.extents[static_cast<std::size_t>(positions.rank++)] =
          x.extents[static_cast<std::size_t>(d)];
    }
    return positions;
  }
  /// Coordinate d of the row-major position p.
  template <class F>
  static void for_coordinates(const detail::Shape& shape, Index p, const F& f) {
    for (int d = shape.rank; d-- > 0;) {
      const Index extent = shape.extents[static_cast<std::size_t>(d)];
      f(extent, p % extent);
      p /= extent;
    }
  }
  /// Where a row-major position lies in column-major order.
  [[nodiscard]] static Index column_major(const detail::Shape& shape, Index p) {
    Index place = 0;
    for_coordinates(shape, p, [&](Index extent, Index i) { place = place * extent + i; });
    return place;
  }

  template <class W>
  [[nodiscard]] Use read(const W& w, const detail::Shape& x, const detail::Where& where) const {
    using Argument = detail::Argument<W>;
    const auto& values = detail::evaluated<Argument::order>(w);
    Use use;
    use.shape = x;
    use.positions = positions_of(x);
    detail::Shape got = detail::shape_of(values), samples;
    if constexpr (Argument::is_vector) got = samples_only(values.size());
    samples = samples_only(x.extents[0]);
    if (got != use.positions && got != samples) {
      where.invalid("expected weights of shape " + samples.text() +
                    (use.positions == samples ? "" : " or " + use.positions.text()) + ", got " +
                    got.text());
    }
    Index size = 1;
    for (int d = 0; d < use.positions.rank; ++d) {
      size *= use.positions.extents[static_cast<std::size_t>(d)];
    }
    use.w.resize(size);
    const Index each = got == use.positions ? 1 : size / std::max<Index>(x.extents[0], 1);
    for (Index p = 0; p < size; ++p) {
      const double v = weight_at(values, got, p / each);
      if (!detail::is_finite(v) || v < 0) {
        where.invalid("expected finite weights of at least 0, got " + detail::number(v));
      }
      use.w[p] = v;
    }
    summarize(use);
    return use;
  }
  [[nodiscard]] static detail::Shape samples_only(Index n) {
    detail::Shape shape;
    shape.rank = 1;
    shape.extents[0] = n;
    return shape;
  }
  template <class W>
  [[nodiscard]] static double weight_at(const W& w, const detail::Shape& shape, Index p) {
    if constexpr (detail::Argument<W>::is_vector) {
      return static_cast<double>(w.coeff(p));
    } else if constexpr (detail::is_matrix<W>) {
      return static_cast<double>(w.coeff(p / w.cols(), p % w.cols()));
    } else {
      const bool row_major = detail::Argument<W>::order == static_cast<int>(Eigen::RowMajor);
      return static_cast<double>(w.data()[row_major ? p : column_major(shape, p)]);
    }
  }
  static void summarize(Use& use) {
    if (use.w.size() == 0) return;
    Index largest;
    const double max = use.w.maxCoeff(&largest);
    if (max == 0) return;
    use.w /= max;
    use.positive = (use.w > 0).count();
    double rest = 0;  // all but the largest: taken from the sum, it would lose small ones
    for (Index p = 0; p < use.w.size(); ++p) rest += p == largest ? 0 : use.w[p];
    use.sum = use.w[largest] + rest;
    double unbiased = use.w[largest] * rest;  // n^2 - sum w^2 = sum w (n - w)
    for (Index p = 0; p < use.w.size(); ++p) {
      if (p != largest) unbiased += use.w[p] * (use.sum - use.w[p]);
    }
    if (use.positive > 1) use.correction = use.sum / (unbiased / use.sum);
  }
  /// The weights in the order in which a view of x goes through its positions.
  [[nodiscard]] static Eigen::ArrayXd in_order(const Use& use, int order) {
    if (order == static_cast<int>(Eigen::RowMajor)) return use.w;
    Eigen::ArrayXd w(use.w.size());
    for (Index p = 0; p < w.size(); ++p) w[column_major(use.positions, p)] = use.w[p];
    return w;
  }

  // Values. --------------------------------------------------------------------------------------

  /// Calls f(c, o, i, p) for the value of channel c at (o, i), which is position p.
  template <class F>
  static void for_each(const In& x, const F& f) {
    for (Index o = 0; o < x.outer; ++o) {
      for (Index c = 0; c < x.channels; ++c) {
        for (Index i = 0; i < x.inner; ++i) f(c, o, i, o * x.inner + i);
      }
    }
  }

  /// The sums of f(c, o, i, p), per channel.
  template <class F>
  static void sum_of_each(const In& x, Eigen::ArrayXd& sums, const F& f) {
    sums.setZero();
    for (Index o = 0; o < x.outer; ++o) {
      for (Index c = 0; c < x.channels; ++c) {
        double of_run = 0;
        for (Index i = 0; i < x.inner; ++i) of_run += f(c, o, i, o * x.inner + i);
        sums[c] += of_run;
      }
    }
  }

  /// The count is of positions, the mean weighted, and m2 / count the weighted variance.
  [[nodiscard]] Moments measure(const Use& use, const double* w, const In& x) const {
    Moments m(x.channels);
    m.count = static_cast<double>(use.positive);
    if (use.positive == 0 || parts_.is_by_running()) return m;
    const Index first = std::max_element(w, w + use.w.size()) - w;
    Eigen::ArrayXd v0(x.channels), sum(x.channels);
    for (Index c = 0; c < x.channels; ++c) {
      v0[c] = static_cast<double>(*x.at(first / x.inner, c, first % x.inner));
    }
    // Multiplied by 0, what is not finite would not vanish.
    sum_of_each(x, sum, [&](Index c, Index o, Index i, Index p) {
      const double d = static_cast<double>(*x.at(o, c, i)) - v0[c];
      return w[p] != 0 ? w[p] * d : 0;
    });
    m.mean = v0 + sum / use.sum;
    sum_of_each(x, m.m2, [&](Index c, Index o, Index i, Index p) {
      const double d = static_cast<double>(*x.at(o, c, i)) - m.mean[c];
      return w[p] != 0 ? w[p] * (d * d) : 0;
    });
    m.m2 *= m.count / use.sum;
    return m;
  }
  /// The same with an m2 of which the layer's own n / (n - 1), n the count, makes what is unbiased
  /// for weights.
  [[nodiscard]] Moments for_running_statistics(const Use& use, Moments m) const {
    const bool unbiased = parts_.layer().options().running_variance == VarianceEstimate::unbiased;
    const double n = static_cast<double>(use.positive);
    if (unbiased && use.positive > 1) m.m2 *= use.correction * ((n - 1) / n);
    return m;
  }

  /// Has a position no part in gradients?
  [[nodiscard]] bool is_left_out(double w, double x) const {
    return w == 0 && (use_.is_empty || at_zero_ == ZeroWeight::zero || !detail::is_finite(x));
  }
  [[nodiscard]] double x_hat(double x, Index c) const {
    return (x - use_.saved.mean[c]) * use_.saved.inv_std[c];
  }

  [[nodiscard]] detail::GradientSums sum_gradients(const double* w, const In& x,
                                                   const In& dy) const {
    detail::GradientSums sums(x.channels);
    for_each(x, [&](Index c, Index o, Index i, Index p) {
      const double value = static_cast<double>(*x.at(o, c, i));
      if (is_left_out(w[p], value)) return;
      const double d = static_cast<double>(*dy.at(o, c, i));
      sums.dbeta[c] += d;
      sums.dgamma[c] += d * x_hat(value, c);
    });
    return sums;
  }
  void write_input_gradient(const double* w, const detail::GradientSums& sums, const In& x,
                            const In& dy, const Out& dx) const {
    const Layer& layer = parts_.layer();
    const bool of_batch = use_.saved.batch_statistics;
    for_each(x, [&](Index c, Index o, Index i, Index p) {
      const double value = static_cast<double>(*x.at(o, c, i));
      double d = 0;
      if (!is_left_out(w[p], value)) {
        const double gamma = layer.options().scale ? double{layer.gamma()[c]} : 1.0;
        d = static_cast<double>(*dy.at(o, c, i));
        if (of_batch && w[p] != 0) {
          d -= w[p] / use_.sum * (sums.dbeta[c] + x_hat(value, c) * sums.dgamma[c]);
        }
        d *= gamma * use_.saved.inv_std[c];
      }
      *dx.at(o, c, i) = Scalar(detail::narrow<typename Layer::Param>(d));
    });
  }

  Parts parts_;
  ZeroWeight at_zero_;
  Use use_;  // of the last forward
};

}  // namespace batchnorm
