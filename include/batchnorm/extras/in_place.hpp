// SPDX-License-Identifier: MIT
#pragma once

#include <Eigen/Core>
#include <cmath>
#include <limits>
#include <string>
#include <type_traits>
#include <utility>

#include "batchnorm/extras/fused.hpp"

namespace batchnorm {
namespace detail {

/// v = act(v), in place.
template <class T, class Act>
class ActivateInPlace final : Steps {
 public:
  using A = ParamOf<T>;

  ActivateInPlace(const View<T>& v, double slope)
      : operands_{1, {v, {}}, v},
        plan_(plan_for(operands_, false)),
        numbers_(v.channels + line_bytes, 3) {  // with room to read a vector
    numbers_.col(0).setZero();
    numbers_.col(1).setOnes();
    numbers_.col(2).setConstant(static_cast<A>(slope));
  }
  void run(const Workers& workers) const { sweep(plan_, workers, *this, Sweep::maps); }

 private:
  void start(Index) const override {}      // GCOV_EXCL_LINE: a map alone sums nothing
  void sum(const Part&) const override {}  // GCOV_EXCL_LINE
  void finish(Index) const override {}     // GCOV_EXCL_LINE
  void prepare(Index) const override {}
  void map(const Part& part) const override {
    const A *const zeros = numbers_.data(), *const ones = zeros + numbers_.rows();
    const A* const numbers[] = {zeros, ones, zeros, ones + numbers_.rows()};
    with_kernels([&](auto kernels) {
      fused_with(kernels, Act()).normalize(plan_.loops, part, operands_, numbers);
    });
  }

  Operands<T> operands_;
  Plan plan_;
  Eigen::Array<A, Eigen::Dynamic, Eigen::Dynamic> numbers_;
};

}  // namespace detail

/// A layer, and an activation that can be inverted, that writes y over x: a network need not keep x
/// for backward, which has x_hat from y (Rota Bulo, Porzi and Kontschieder, 2017, arXiv
/// 1712.02616).
///
///   InPlace in_place(bn, LeakyRelu{0.1});     // or Identity(); a slope above 0
///   in_place.forward(x);                      // x now holds y = act(gamma * x_hat + beta)
///   in_place.backward(y, dy, dx);             // y is that x; adds to bn.grad_gamma(), bn.grad_beta()
///
///   z = act^-1(y)     x_hat = (z - beta) / gamma     dz = act'(z) * dy
///   dx = gamma * inv_std * (dz - dbeta / n - x_hat * dgamma / n)
///
/// backward overwrites y with z where there is an activation; dx may be dy. gamma and beta may
/// change between the two: the forward's are kept for x_hat.
///
/// y was rounded once, by u of it, and x_hat has that error magnified: u * (|x_hat| + |beta /
/// gamma|), and less of it where slope is small. Where it would be without digits forward throws
/// std::domain_error, before x is overwritten: for |gamma| below |beta| / 1000, or so small that y
/// would be denormal. Use the layer's own forward there, or keep gamma from 0.
///
/// Mode, statistics, options and other errors are the layer's. The layer must outlive this object
/// and stay where it is.
template <class Act, class Scalar, int spatial>
class InPlace {
  static_assert(std::is_same_v<Act, Identity> || std::is_same_v<Act, LeakyRelu>,
                "batchnorm: the activation must have an inverse: Identity or LeakyRelu");

 public:
  using Layer = BatchNorm<Scalar, spatial>;
  using Param = typename Layer::Param;
  using Index = Eigen::Index;

  /// Throws std::invalid_argument for a slope that is not finite and above 0.
  InPlace(Layer& layer, Act act)
      : parts_(layer), slope_(slope_of(act)), numbers_(layer.num_features(), slope_) {}

  template <class X>
  void forward(X&& x) {
    check_writable<X>();
    const detail::Where where = in("forward");
    parts_.on_view(where, x, [&](const In& in_x, const detail::Shape& shape) {
      check_parameters(where);
      const Moments m = parts_.measure(in_x);
      Saved by = parts_.settle(m, where);
      by.shape = shape;
      const Out y = over(in_x);
      parts_.normalize(by, in_x, y);
      if (in_x.size() > 0) activate(y, slope_);
      if (by.batch_statistics) parts_.track(m);
      by_ = std::move(by);
      gamma_ = gamma();
      beta_ = Eigen::VectorXd::Zero(parts_.channels());
      if (parts_.layer().options().shift) beta_ = parts_.layer().beta().template cast<double>();
    });
  }

  template <class Y, class Dy, class Dx>
  void backward(Y&& y, const Dy& dy, Dx&& dx) {
    check_writable<Y>();
    const detail::Where where = in("backward");
    parts_.on_views(
        where, y, dy, dx,
        [&](const In& in_y, const In& in_dy, const Out& out_dx, const detail::Shape& shape) {
          if (by_.shape.rank == 0) {
            where.misuse("expected a forward before backward: call forward(x) first");
          }
          if (shape != by_.shape) {
            where.invalid("expected the y of the last forward, of shape " + by_.shape.text() +
                          ", got one of " + shape.text());
          }
          if (in_y.size() == 0) return;
          if constexpr (std::is_same_v<Act, Identity>) {
            differentiate(in_y, in_dy, out_dx);
          } else {
            detail::PassedBackward<Scalar, Act>(in_y, in_dy, out_dx, numbers_)
                .run(parts_.workers());
            activate(over(in_y), 1 / slope_);
            differentiate(in_y, out_dx, out_dx);
          }
        });
  }

  /// What the last forward normalized with.
  [[nodiscard]] const Saved& saved() const { return by_; }

 private:
  using In = detail::View<const Scalar>;
  using Out = detail::View<Scalar>;

  [[nodiscard]] static detail::Where in(const char* call) { return {"InPlace", call}; }

  [[nodiscard]] static double slope_of(const Act& act) {
    if constexpr (std::is_same_v<Act, LeakyRelu>) {
      if (!detail::is_finite(act.slope) || act.slope <= 0) {
        in("InPlace").invalid("expected a finite slope above 0, got " + detail::number(act.slope));
      }
      return act.slope;
    } else {
      return 1;
    }
  }
  template <class X>
  static constexpr void check_writable() {
    static_assert(detail::Argument<detail::Bare<X>>::is_direct &&
                      std::is_convertible_v<decltype(std::declval<X&>().data()), Scalar*>,
                  "batchnorm: x and y must be writable in place");
  }
  /// A view of x, which was found writable, to write y to.
  [[nodiscard]] static Out over(const In& v) {
    return {const_cast<Scalar*>(v.data),
            v.outer,
            v.channels,
            v.inner,
            v.outer_stride,
            v.channel_stride,
            v.inner_stride};
  }
  void activate(const Out& v, double slope) const {
    if constexpr (!std::is_same_v<Act, Identity>) {
      detail::ActivateInPlace<Scalar, Act>(v, slope).run(parts_.workers());
    }
  }

  [[nodiscard]] Eigen::VectorXd gamma() const {
    if (!parts_.layer().options().scale) return Eigen::VectorXd::Ones(parts_.channels());
    return parts_.layer().gamma().template cast<double>();
  }
  void check_parameters(const detail::Where& where) const {
    const Layer& layer = parts_.layer();
    if (!layer.options().scale) return;
    constexpr double smallest =
        std::is_same_v<Scalar, Eigen::half>
            ? 0x1p-14
            : static_cast<double>(
                  std::numeric_limits<Param>::min());  // normal; bfloat16's is float's
    for (Index c = 0; c < parts_.channels(); ++c) {
      const double gamma = std::abs(static_cast<double>(layer.gamma()[c]));
      const double beta = layer.options().shift ? static_cast<double>(layer.beta()[c]) : 0.0;
      if (gamma >= smallest && gamma >= std::abs(beta) / 1000) continue;
      where.domain("expected |gamma| of at least " + detail::number(smallest) +
                   " and |beta| / 1000, to have x_hat back from y, got gamma " +
                   detail::number(static_cast<double>(layer.gamma()[c])) + " and beta " +
                   detail::number(beta) + " in channel " + std::to_string(c) +
                   ": use the layer's own forward");
    }
  }

  /// The layer's backward with z for x: x_hat = (z - beta) * (1 / gamma), and dx by the factor
  /// gamma * inv_std.
  void differentiate(const In& z, const In& dz, const Out& dx) const {
    Saved by = by_;
    by.mean = beta_;
    by.inv_std = gamma_.cwiseInverse();
    const Eigen::Matrix<Param, Eigen::Dynamic, 1> factor =
        (gamma().array() * by_.inv_std.array() * gamma_.array()).template cast<Param>();
    parts_.accumulate(parts_.backward_with(by, {factor.data(), nullptr}, z, dz, dx));
  }

  detail::InParts<Scalar, spatial> parts_;
  double slope_;
  detail::FusedScratch<Param> numbers_;
  Saved by_;                      // the last forward's statistics
  Eigen::VectorXd gamma_, beta_;  // (C) and its parameters
};

template <class Act, class Scalar, int spatial>
InPlace(BatchNorm<Scalar, spatial>&, Act) -> InPlace<Act, Scalar, spatial>;

}  // namespace batchnorm
