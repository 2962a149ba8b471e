// SPDX-License-Identifier: MIT
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>

#include "batchnorm/detail/in_parts.hpp"

namespace batchnorm {

/// How far batch renormalization may correct: 1 / r_max <= r <= r_max and |d| <= d_max.
struct RenormLimits {
  double r_max = 1;
  double d_max = 0;
};

/// The limits over training: none, so plain batch normalization, for some batches, then rising
/// along straight lines. The defaults are the paper's. All that is counted is
/// bn.num_batches_tracked().
struct RenormSchedule {
  std::int64_t start = 5000;   ///< batches of r_max = 1, d_max = 0
  std::int64_t r_end = 40000;  ///< from here on r_max is the full one; not before start
  std::int64_t d_end = 25000;  ///< and d_max
  RenormLimits full{3, 5};

  /// The same limits from the first batch on.
  [[nodiscard]] static RenormSchedule constant(RenormLimits limits) { return {0, 0, 0, limits}; }

  [[nodiscard]] RenormLimits at(std::int64_t batches) const {
    const auto share = [&](std::int64_t end) {
      if (batches < start) return 0.0;
      if (batches >= end) return 1.0;
      return static_cast<double>(batches - start) / static_cast<double>(end - start);
    };
    return {1 + share(r_end) * (full.r_max - 1), share(d_end) * full.d_max};
  }
};

/// Batch renormalization (Ioffe, 2017, arXiv 1702.03275), for small batches or such that are not
/// drawn at random: training normalizes nearly as inference will.
///
///   BatchRenorm renorm(bn);
///   auto y = renorm.forward(x);             // moves bn's running statistics
///   auto dx = renorm.backward(x, dy);       // adds to bn.grad_gamma() and bn.grad_beta()
///
///   sigma = sqrt(running var + eps)         sigma_B = sqrt(var + eps)
///   r = sigma_B / sigma                     d = (mu - running mean) / sigma, both within their limits
///   x_hat = (x - mu) / sigma_B * r + d      y = gamma * x_hat + beta
///
/// with the running statistics before the batch moves them. r and d are constants to backward:
///
///   s = sum dy * (x - mu) / sigma_B         dbeta = sum dy       dgamma = r * s + d * dbeta
///   dx = gamma * r / sigma_B * (dy - dbeta / n - (x - mu) / sigma_B * s / n)
///
/// Unlike the paper's, whose moving average is one of sigma, the running variance stays the
/// layer's, so that eval mode and stored weights are. Eval mode is the layer's own. Arguments,
/// options and errors are the layer's, which must track running statistics, outlive this object and
/// stay where it is.
template <class Scalar, int spatial>
class BatchRenorm {
 public:
  using Layer = BatchNorm<Scalar, spatial>;
  using Index = Eigen::Index;

  /// Throws std::invalid_argument for a layer without running statistics, limits of r_max < 1 or
  /// d_max < 0, and a schedule that ends before it starts.
  explicit BatchRenorm(Layer& layer, RenormSchedule schedule = {})
      : parts_(layer), schedule_(schedule) {
    const detail::Where where = in("BatchRenorm");
    if (!layer.options().track_running_stats) {
      where.invalid("expected a layer with track_running_stats, got it switched off");
    }
    const RenormLimits full = schedule.full;
    if (!detail::is_finite(full.r_max) || full.r_max < 1) {
      where.invalid("expected a finite r_max of at least 1, got " + detail::number(full.r_max));
    }
    if (!detail::is_finite(full.d_max) || full.d_max < 0) {
      where.invalid("expected a finite d_max of at least 0, got " + detail::number(full.d_max));
    }
    if (schedule.start < 0 || schedule.r_end < schedule.start || schedule.d_end < schedule.start) {
      where.invalid("expected a schedule of 0 <= start <= r_end and d_end, got " +
                    std::to_string(schedule.start) + ", " + std::to_string(schedule.r_end) +
                    " and " + std::to_string(schedule.d_end));
    }
  }

  template <class X>
  [[nodiscard]] typename detail::Argument<X>::Plain forward(const X& x) {
    return detail::written(x, [&](const auto& values, auto& y) { forward(values, y); });
  }
  /// The same into y, apart from x.
  template <class X, class Y>
  void forward(const X& x, Y&& y) {
    const detail::Where where = in("forward");
    parts_.on_views(where, x, y, [&](const auto& in_x, const auto& out_y, const auto& shape) {
      const Moments m = parts_.measure(in_x);
      Saved by = parts_.settle(m, where);
      by.shape = shape;
      Eigen::ArrayXd r = Eigen::ArrayXd::Ones(parts_.channels()), d = 0 * r;
      const bool renormalizes = parts_.layer().is_training() && by.batch_statistics;
      if (renormalizes && by.count > 0) correct(by, r, d);
      parts_.normalize(corrected(by, r, d), in_x, out_y);
      if (renormalizes) parts_.track(m);
      by_ = std::move(by);
      r_ = std::move(r);
      d_ = std::move(d);
    });
  }

  template <class X, class Dy>
  [[nodiscard]] typename detail::Argument<X>::Plain backward(const X& x, const Dy& dy) {
    return detail::written(x, [&](const auto& values, auto& dx) { backward(values, dy, dx); });
  }
  /// The same into dx, which may be dy.
  template <class X, class Dy, class Dx>
  void backward(const X& x, const Dy& dy, Dx&& dx) {
    const detail::Where where = in("backward");
    parts_.on_views(
        where, x, dy, dx,
        [&](const auto& in_x, const auto& in_dy, const auto& out_dx, const auto& shape) {
          if (by_.shape.rank == 0) {
            where.misuse("expected a forward before backward: call forward(x) first");
          }
          if (shape != by_.shape) {
            where.invalid("expected the x of the last forward, of shape " + by_.shape.text() +
                          ", got one of " + shape.text());
          }
          const detail::GradientSums sums = parts_.sum_gradients(by_, in_x, in_dy);
          detail::GradientSums all = sums;
          all.dgamma = r_ * sums.dgamma.array() + d_ * sums.dbeta.array();
          parts_.accumulate(all);
          // dx with gamma * r for gamma: by an inv_std, and so an x_hat, times r.
          Saved by = by_;
          by.inv_std.array() *= r_;
          all = sums;
          all.dgamma.array() /= r_;
          parts_.write_input_gradient(by, all, in_x, in_dy, out_dx);
        });
  }

  /// The limits for the next batch.
  [[nodiscard]] RenormLimits limits() const {
    return schedule_.at(parts_.layer().num_batches_tracked());
  }
  /// (C) what the last forward corrected by; 1 and 0 in eval mode.
  [[nodiscard]] const Eigen::ArrayXd& r() const { return r_; }
  [[nodiscard]] const Eigen::ArrayXd& d() const { return d_; }

 private:
  [[nodiscard]] static detail::Where in(const char* call) { return {"BatchRenorm", call}; }

  void correct(const Saved& by, Eigen::ArrayXd& r, Eigen::ArrayXd& d) const {
    const Layer& layer = parts_.layer();
    const RenormLimits limits = this->limits();
    for (Index c = 0; c < parts_.channels(); ++c) {
      const double var = static_cast<double>(layer.running_var()[c]);
      const double sigma = std::sqrt(var + layer.options().eps);
      const double shift = (by.mean[c] - static_cast<double>(layer.running_mean()[c])) / sigma;
      r[c] = std::clamp(1 / by.inv_std[c] / sigma, 1 / limits.r_max, limits.r_max);
      d[c] = std::clamp(shift, -limits.d_max, limits.d_max);
    }
  }
  /// (x - mu) * inv_std * r + d as (x - mean) * inv_std, to map it at once.
  [[nodiscard]] static Saved corrected(Saved by, const Eigen::ArrayXd& r, const Eigen::ArrayXd& d) {
    by.inv_std.array() *= r;
    by.mean.array() -= d / by.inv_std.array();
    return by;
  }

  detail::InParts<Scalar, spatial> parts_;
  RenormSchedule schedule_;
  Saved by_;              // the last forward's statistics, those of the batch in training
  Eigen::ArrayXd r_, d_;  // (C) and what they were corrected by
};

}  // namespace batchnorm
