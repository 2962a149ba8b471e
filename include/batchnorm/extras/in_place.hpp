// SPDX-License-Identifier: MIT
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>

#include "batchnorm/extras/fused.hpp"

namespace batchnorm {

/// A layer, and an activation that can be inverted, that writes y over x: a network need not keep x
/// for backward, which computes x_hat from y (Rota Bulo, Porzi and Kontschieder, 2017, arXiv
/// 1712.02616).
///
///   InPlace in_place(bn, LeakyRelu{0.1});  // or Identity(); a slope above 0
///   in_place.forward(x);                   // x now holds y = act(gamma * x_hat + beta)
///   in_place.backward(y, dy, dx);          // y is that x; adds to bn.grad_gamma(), bn.grad_beta()
///
///   z = act^-1(y)     x_hat = (z - beta) / gamma     dz = act'(z) * dy
///   dx = gamma * inv_std * (dz - dbeta / n - x_hat * dgamma / n)
///
/// Where there is an activation, backward overwrites y with z: to call it again, give it y again.
/// dx may be dy. gamma and beta may change between the two calls: x_hat is computed with those of
/// the forward.
///
/// y was rounded once, by u * |y|. So x_hat has an error of u * (|x_hat| + |beta / gamma|). forward
/// throws std::domain_error, before x is overwritten, where few digits of x_hat or dx would be
/// left: where |beta / gamma| is above 1000 (half 100, bfloat16 16), or |gamma| is not between 1e-9
/// and 1e9 (double 1e-75 and 1e75), or so small that y would be subnormal. Use the layer's own
/// forward there, or keep gamma away from 0. backward throws std::domain_error where gamma^2 *
/// inv_std is too large or too small for Param. Half must hold z too, which with a slope below 1 is
/// larger than y.
///
/// Mode, statistics, options and other errors are the layer's. The layer must outlive this object
/// and stay where it is. A forward in place leaves nothing for the layer's own backward.
template <class Act, class Scalar, int spatial>
class InPlace {
  static_assert(std::is_same_v<Act, Identity> || std::is_same_v<Act, LeakyRelu>,
                "batchnorm: the activation must have an inverse: Identity or LeakyRelu");
  using View = detail::View;

 public:
  using Layer = BatchNorm<Scalar, spatial>;
  using Param = typename Layer::Param;
  using Index = Eigen::Index;

  /// Throws std::invalid_argument unless the slope is above 0, and it and 1 / slope are finite in
  /// the layer's Param.
  InPlace(Layer& layer, Act act) : layer_(&layer) {
    if constexpr (std::is_same_v<Act, LeakyRelu>) slope_ = act.slope;
    const auto slope = detail::narrow<Param>(slope_), inverse = detail::narrow<Param>(1 / slope_);
    const bool can_be_inverted = slope > 0 && detail::is_finite(static_cast<double>(slope)) &&
                                 detail::is_finite(static_cast<double>(inverse));
    if (!can_be_inverted)
      in("InPlace").invalid(
          {"expected a finite slope above 0, got ", slope_, ": 1 / slope must be finite too"});
    by_ = layer.core().next;  // for its memory: a forward must not allocate after it wrote y
    by_.shape = {};
    of_z_ = by_;
  }

  template <class X>
  void forward(X&& x) {
    auto& core = layer_->core();
    const auto where = in("forward");
    const auto f = [this, &core, &where](const auto& shape, const View& v) {
      const detail::Entered entered(core.in_use, where);
      for (Index c = 0; c < core.num_features; ++c) check_parameters(where, c);
      core.forward_by(where, shape, v, false, [this, &core, &v](const functional::Statistics* own) {
        detail::fused::write_y<Scalar, Act>(core, {{v, {}}, v}, own, all(slope_));
      });
      by_ = of_z_ = core.saved;
      by_.overwritten = v.size() > 0;
      core.saved.shape = {}, core.saved.count = 0;
      for (Index c = 0; c < core.num_features; ++c) {
        of_z_.mean[c] = core.affine().beta_of(c);
        of_z_.inv_std[c] = 1 / core.affine().gamma_of(c);
      }
    };
    detail::on_views_of<Scalar, spatial>(core, where, f, detail::Writes{"x", x});
  }

  template <class Y, class Dy, class Dx>
  void backward(Y&& y, const Dy& dy, Dx&& dx) {
    auto& core = layer_->core();
    const auto where = in("backward");
    const auto f = [this, &core, &where](const auto& shape, const View& in_y, const View& in_dy,
                                         const View& out) {
      if (by_.shape.rank > 0 && by_.shape != shape) {
        where.invalid({"expected the y of the last forward, of shape ", by_.shape.text(),
                       ", got one of ", shape.text()});
      }
      core.backward_by(where, of_z_, shape, in_y, in_dy, out,
                       [this, &in_y, &in_dy, &out](auto by, auto sums) {
                         write_dx(in_y, in_dy, out, by, sums);
                       });
    };
    detail::on_views_of<Scalar, spatial>(core, where, f, detail::Writes{"y", y},
                                         detail::Reads{"dy", dy}, detail::Writes{"dx", dx});
  }

  /// What the last forward normalized with.
  [[nodiscard]] const Saved& saved() const { return by_; }

 private:
  [[nodiscard]] static detail::Where in(const char* call) { return {"InPlace", call}; }

  /// Throws std::domain_error unless x_hat of channel c can be computed from y.
  void check_parameters(const detail::Where& where, Index c) const {
    constexpr bool is_half = std::is_same_v<Scalar, Eigen::half>;  // bfloat16 has float's range
    constexpr double of_y =
        is_half ? 0x1p-14 : static_cast<double>((std::numeric_limits<Param>::min)());
    constexpr bool is_bfloat16 = std::is_same_v<Scalar, Eigen::bfloat16>;
    constexpr double of_beta = is_half ? 100 : is_bfloat16 ? 16 : 1000;  // the most for |gamma| = 1
    // With ordinary deviations gamma^2 * inv_std is in Param's range; backward checks it.
    constexpr double largest = std::is_same_v<Param, double> ? 1e75 : 1e9;
    const auto affine = layer_->core().affine();
    const double gamma = affine.gamma_of(c), beta = affine.beta_of(c);
    const double smallest = (std::max)(1 / largest, of_y / (std::min)(slope_, 1.0));
    const double by_beta = std::abs(beta) / of_beta;
    const bool fits = std::abs(gamma) >= smallest && std::abs(gamma) >= by_beta &&
                      std::abs(gamma) <= largest;  // NaN does not fit
    if (fits) return;
    where.domain({"expected |gamma| of at least ", smallest, " and |beta| / ", of_beta,
                  ", at most ", largest, ", to have x_hat back from y, got gamma ", gamma,
                  " and beta ", beta, " in channel ", c, ": use the layer's own forward"});
  }

  /// (C) this slope.
  [[nodiscard]] const Param* all(double slope) {
    slopes_.setConstant(layer_->num_features(), detail::narrow<Param>(slope));
    return slopes_.data();
  }

  /// The layer's backward with z instead of x. `by` makes x_hat = (z - beta) / gamma, with the
  /// parameters of the forward. factor_ stands for gamma: divided by that gamma, it is the factor
  /// of dx, which is inv_std times the gamma of now.
  void write_dx(const View& y, const View& dy, const View& dx, const functional::Normalizer& by,
                const functional::GradientSums& sums) {
    auto& core = layer_->core();
    factor_.resize(core.num_features);
    for (Index c = 0; c < core.num_features; ++c) {
      const double gamma = core.affine().gamma_of(c), inv_std = by_.inv_std[c];
      factor_[c] = detail::narrow<Param>(gamma * inv_std / by.inv_std[c]);
      if (detail::is_finite(gamma) && detail::is_finite(inv_std) &&
          !detail::fits_as_product(factor_[c], gamma, inv_std)) {
        in("backward")
            .domain({"expected gamma^2 * inv_std within the range of dx, got gamma ", gamma,
                     " and inv_std ", inv_std, " in channel ", c, ": use the layer's own forward"});
      }
    }
    if constexpr (!std::is_same_v<Act, Identity>) {
      detail::fused::map_dz<Scalar, Act>({{y, dy}, dx}, all(slope_), core.workers);
      // z = act^-1(y) is y * act'(y) with the inverse slope.
      detail::fused::map_dz<Scalar, Act>({{y, y}, y}, all(1 / slope_), core.workers);
    }
    const View& dz = std::is_same_v<Act, Identity> ? dy : dx;
    functional::backward<Param>(y, dz, by, {factor_.data(), nullptr}, sums, dx, core.resources());
  }

  Layer* layer_;
  double slope_ = 1;
  typename Layer::Vector slopes_, factor_;  // (C)
  Saved by_, of_z_;  // the statistics of the last forward; those that make x_hat from z
};

template <class Act, class Scalar, int spatial>
InPlace(BatchNorm<Scalar, spatial>&, Act) -> InPlace<Act, Scalar, spatial>;

}  // namespace batchnorm
