// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "batchnorm/moments/parts.hpp"

namespace batchnorm {

/// How far batch renormalization may correct: 1 / r_max <= r <= r_max and |d| <= d_max.
struct RenormLimits {
  double r_max = 1;
  double d_max = 0;
};

/// The limits over training, by bn.num_batches_tracked(): first plain batch normalization, then
/// r_max and d_max rise linearly. The defaults are the paper's.
struct RenormSchedule {
  std::int64_t start = 5000;   ///< batches with r_max = 1 and d_max = 0
  std::int64_t r_end = 40000;  ///< r_max is full.r_max from this batch on; at least start
  std::int64_t d_end = 25000;  ///< d_max is full.d_max from this batch on; at least start
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

/// Batch renormalization (Ioffe, 2017, arXiv 1702.03275), for batches that are small or not drawn
/// at random: training normalizes nearly as inference will.
///
///   BatchRenorm renorm(bn);
///   auto y = renorm.forward(x);             // moves bn's running statistics
///   auto dx = renorm.backward(x, dy);       // adds to bn.grad_gamma() and bn.grad_beta()
///
///   sigma = sqrt(running var + eps)         sigma_B = sqrt(var + eps)
///   r = sigma_B / sigma                     d = (mu - running mean) / sigma, within their limits
///   x_hat = (x - mu) / sigma_B * r + d      y = gamma * x_hat + beta
///
/// with the running statistics before the batch moves them. If sigma or sigma_B is 0, r is 1 and d
/// 0. backward treats r and d as constants:
///
///   s = sum dy * (x - mu) / sigma_B         dbeta = sum dy       dgamma = r * s + d * dbeta
///   dx = gamma * r / sigma_B * (dy - dbeta / n - (x - mu) / sigma_B * s / n)
///
/// The paper averages sigma. Here the running variance stays the layer's, so that eval mode and
/// stored weights do not change. Eval mode is the layer's own. Arguments, options and errors are
/// the layer's, which must track running statistics, outlive this object and stay in place.
template <class Scalar, int spatial>
class BatchRenorm {
 public:
  using Layer = BatchNorm<Scalar, spatial>;
  using Index = Eigen::Index;

  /// Throws std::invalid_argument for a layer without running statistics, limits of r_max < 1 or
  /// d_max < 0, and a schedule that ends before it starts.
  explicit BatchRenorm(Layer& layer, RenormSchedule schedule = {})
      : core_(&layer.core()), schedule_(schedule) {
    const detail::Where where = in("BatchRenorm");
    const auto [start, r_end, d_end, full] = schedule;
    if (!core_->options.track_running_stats)
      where.invalid({"expected a layer with track_running_stats, got it switched off"});
    if (!detail::is_finite(full.r_max) || full.r_max < 1)
      where.invalid({"expected a finite r_max of at least 1, got ", full.r_max});
    if (!detail::is_finite(full.d_max) || full.d_max < 0)
      where.invalid({"expected a finite d_max of at least 0, got ", full.d_max});
    if (start < 0 || r_end < start || d_end < start) {
      where.invalid({"expected a schedule of 0 <= start <= r_end and d_end, got ", start, ", ",
                     r_end, " and ", d_end});
    }
  }

  template <class X>
  [[nodiscard]] detail::PlainOf<X> forward(const X& x) {
    return detail::written(x, [this](const auto& values, auto& y) { this->forward(values, y); });
  }
  /// The same into y, apart from x.
  template <class X, class Y>
  void forward(const X& x, Y&& y) {
    const detail::Where where = in("forward");
    const auto f = [this, &where](const auto& shape, const auto& in_x, const auto& out_y) {
      detail::check_y(where, in_x, out_y);
      core_->check_tracked(where);  // another layer may have been assigned
      Saved batch = detail::completed(*core_, where, detail::measured(*core_, in_x));
      batch.shape = shape;
      Correction correction = correction_of(batch);
      const auto& [r, d] = correction;
      Saved by = batch;  // (x - mu) * inv_std * r + d as (x - mean) * inv_std
      by.inv_std.array() *= r;
      by.mean.array() -= (d == 0).select(0, d / by.inv_std.array());
      detail::normalize(*core_, by, in_x, out_y);
      core_->track(batch);
      batch_ = std::move(batch);
      correction_ = std::move(correction);
    };
    detail::on_views_alone<Scalar, spatial>(*core_, where, f, detail::Reads{"x", x},
                                            detail::Writes{"y", y});
  }

  template <class X, class Dy>
  [[nodiscard]] detail::PlainOf<X> backward(const X& x, const Dy& dy) {
    return detail::written(
        x, [this, &dy](const auto& values, auto& dx) { this->backward(values, dy, dx); });
  }
  /// The same into dx, which may be dy.
  template <class X, class Dy, class Dx>
  void backward(const X& x, const Dy& dy, Dx&& dx) {
    const detail::Where where = in("backward");
    const auto f = [this, &where](const auto& shape, const auto& in_x, const auto& in_dy,
                                  const auto& out) {
      detail::check_dx(where, in_x, in_dy, out);
      detail::check_shape_of_last(where, batch_.shape, shape);
      detail::GradientSums sums = detail::gradient_sums(*core_, batch_, in_x, in_dy);  // dbeta, s
      detail::GradientSums gradients = sums;
      const auto& [r, d] = correction_;
      gradients.col(1) = r * sums.col(1) + d * sums.col(0);
      Saved by = batch_;
      by.inv_std.array() *= r;  // gamma * inv_std * r in place of gamma * inv_std
      sums.col(1) /= r;         // so that x_hat * s stays
      detail::input_gradient(*core_, by, sums, in_x, in_dy, out);
      core_->accumulate(&gradients(0, 0), &gradients(0, 1));
    };
    detail::on_views_alone<Scalar, spatial>(*core_, where, f, detail::Reads{"x", x},
                                            detail::Reads{"dy", dy}, detail::Writes{"dx", dx});
  }

  /// The limits for the next batch.
  [[nodiscard]] RenormLimits limits() const { return schedule_.at(core_->running.batches); }
  /// (C) the corrections of the last forward; 1 and 0 in eval mode.
  [[nodiscard]] const Eigen::ArrayXd& r() const { return correction_.r; }
  [[nodiscard]] const Eigen::ArrayXd& d() const { return correction_.d; }

 private:
  [[nodiscard]] static detail::Where in(const char* call) { return {"BatchRenorm", call}; }
  struct Correction {
    Eigen::ArrayXd r, d;  // (C)
  };
  [[nodiscard]] Correction correction_of(const Saved& batch) const {
    const Index channels = core_->num_features;
    Correction correction{Eigen::ArrayXd::Ones(channels), Eigen::ArrayXd::Zero(channels)};
    if (!core_->training || !batch.batch_statistics || batch.count == 0) return correction;
    const auto [r_max, d_max] = limits();
    for (Index c = 0; c < channels; ++c) {
      const double sigma =
          std::sqrt(static_cast<double>(core_->running.var[c]) + core_->options.eps);
      if (batch.inv_std[c] == 0 || sigma == 0) continue;
      const double moved = batch.mean[c] - static_cast<double>(core_->running.mean[c]);
      correction.r[c] = std::clamp(1 / batch.inv_std[c] / sigma, 1 / r_max, r_max);
      correction.d[c] = std::clamp(moved / sigma, -d_max, d_max);
    }
    return correction;
  }

  detail::Core<typename Layer::Param>* core_;
  RenormSchedule schedule_;
  Saved batch_;            // the statistics of the last forward, without the correction
  Correction correction_;  // that of the last forward
};

}  // namespace batchnorm
