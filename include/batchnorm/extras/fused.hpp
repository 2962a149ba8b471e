// SPDX-License-Identifier: MIT
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <array>
#include <cmath>
#include <string>
#include <type_traits>

#include "batchnorm/detail/in_parts.hpp"

namespace batchnorm {

// Activations for Fused. ----------

struct Identity {};  ///< z
struct Relu {};      ///< max(z, 0)
struct Relu6 {};     ///< min(max(z, 0), 6)
/// z where it is above 0, slope * z elsewhere. A slope is finite and at least 0.
struct LeakyRelu {
  double slope = 0.01;
};

}  // namespace batchnorm

// Their kernels, as in kernels.hpp.
namespace batchnorm::detail::plain {
#include "batchnorm/extras/fused_formulas.inc"
}  // namespace batchnorm::detail::plain
#if defined(__x86_64__) && !(defined(__AVX2__) && defined(__FMA__))
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
#endif
namespace batchnorm::detail::avx2 {
#include "batchnorm/extras/fused_formulas.inc"
}  // namespace batchnorm::detail::avx2
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif

namespace batchnorm {
namespace detail {

/// act(z) and act'(z) * dy of one value.
template <class Act>
[[nodiscard]] double activated(Act, double z, double slope) {
  if constexpr (std::is_same_v<Act, Identity>) return z;
  if (z <= 0) return std::is_same_v<Act, LeakyRelu> ? z * slope : 0;
  return std::is_same_v<Act, Relu6> && z >= 6 ? 6 : z;
}
template <class Act>
[[nodiscard]] double passed(Act, double z, double dy, double slope) {
  if constexpr (std::is_same_v<Act, Identity>) return dy;
  if (z <= 0) return std::is_same_v<Act, LeakyRelu> ? dy * slope : 0;
  return std::is_same_v<Act, Relu6> && z >= 6 ? 0 : dy;
}

/// What fused passes keep per channel, besides the scratch of all passes.
template <class A>
class FusedScratch {
 public:
  FusedScratch(Index channels, double slope)
      : slope_(slope), numbers_(channels + line_bytes, 3) {  // with room to read a vector
    numbers_.setZero();
    numbers_.col(2).setConstant(static_cast<A>(slope));
  }
  [[nodiscard]] A* scale_of_z() const { return numbers_.data(); }
  [[nodiscard]] A* shift_of_z() const { return numbers_.data() + numbers_.rows(); }
  [[nodiscard]] A* slopes() const { return numbers_.data() + 2 * numbers_.rows(); }
  [[nodiscard]] double slope() const { return slope_; }

 private:
  double slope_;
  mutable Eigen::Array<A, Eigen::Dynamic, Eigen::Dynamic> numbers_;
};

/// y = act(z) or act(z + r), with the layer's y for z.
template <class T, class Act>
class FusedForward final : public Forward<T> {
 public:
  using A = ParamOf<T>;

  /// r.data is null where there is none.
  FusedForward(const Pass<T, double>& pass, const View<T>& y, const View<const T>& r,
               const FusedScratch<A>& numbers)
      : Forward<T>(pass, r.data ? Operands<T>{2, {pass.x, r}, y} : Operands<T>{1, {pass.x, {}}, y}),
        r_(r),
        numbers_(&numbers) {}

 private:
  using Base = Forward<T>;

  void map(const Part& part) const override {
    A* const* const k = this->factors;
    const A* const numbers[] = {k[mean], k[scale], k[shift], numbers_->slopes()};
    with_kernels([&](auto kernels) {
      fused_with(kernels, Act()).normalize(this->plan.loops, part, this->kernel_operands, numbers);
    });
  }
  void normalize_exactly(Index c, const exact::Statistics& statistics) const override {
    const double gamma = this->affine.gamma(c), beta = this->affine.beta(c);
    const auto one = [&](const T* px, double r, T* py) {
      const double z = exact::normalized(static_cast<double>(*px), statistics, gamma, beta) + r;
      exact::put(py, activated(Act(), z, numbers_->slope()));
    };
    if (r_.data) {
      const auto f = [&](const T* px, const T* pr, T* py) {
        one(px, static_cast<double>(*pr), py);
      };
      exact::for_each(c, f, this->x, r_, this->y_);
    } else {
      exact::for_each(
          c, [&](const T* px, T* py) { one(px, 0, py); }, this->x, this->y_);
    }
  }

  View<const T> r_;
  const FusedScratch<A>* numbers_;
};

/// dx, dgamma and dbeta from dy with respect to y = act(z), z made again from x.
template <class T, class Act>
class FusedBackward final : public Backward<T> {
 public:
  using A = ParamOf<T>;

  FusedBackward(const Pass<T, const double>& pass, const View<const T>& dy, const View<T>& dx,
                const FusedScratch<A>& numbers)
      : Backward<T>(pass, dy, dx), numbers_(&numbers) {}

 private:
  using Base = Backward<T>;
  using Base::x, Base::by, Base::affine, Base::scratch, Base::factors;

  /// z = (x - mean) * scale + shift, with the numbers of the forward.
  void start(Index g) const override {
    Base::start(g);
    this->for_channels(g, [&](Index c) {
      const double scale_c = affine.gamma(c) * by.inv_std[c];
      numbers_->scale_of_z()[c] = static_cast<A>(scale_c);
      numbers_->shift_of_z()[c] =
          static_cast<A>(affine.beta(c) - rounding_of<A>(by.mean[c]) * scale_c);
    });
  }
  void sum(const Part& part) const override {
    const auto both = this->new_sums(part);
    const A* const numbers[] = {factors[0], factors[1], numbers_->scale_of_z(),
                                numbers_->shift_of_z(), numbers_->slopes()};
    with_kernels([&](auto kernels) {
      fused_with(kernels, Act())
          .gradient_sums(this->plan.loops, part, this->kernel_operands, numbers, both.data());
    });
  }
  void finish(Index g) const override {
    Base::finish(g);
    this->for_channels(g, [&](Index c) {
      if (z_fits(c) || !this->has_finite_statistics(c)) return;
      sum_exactly(c, exact::statistics(x, c, by.mean[c], by.inv_std[c], by.of_batch));
    });
  }
  void sum_exactly(Index c, const exact::Statistics& statistics) const override {
    std::array<double, 2> both{};
    const auto f = [&](const T* px, const T* pdy) {
      const double dz = dz_of(c, statistics, px, pdy);
      both[0] += dz;
      both[1] += dz * statistics.x_hat(static_cast<double>(*px));
    };
    exact::for_each(c, f, x, this->dy_);
    this->set_sums(c, both);
  }

  void prepare(Index g) const override {
    Base::prepare(g);
    this->for_channels(g, [&](Index c) {
      if (!this->has_finite_statistics(c)) return;
      if (scratch.long_way[c] || !z_fits(c)) {  // a copy, by a z that is on no side of 0
        scratch.long_way[c] = true;
        for (A* const k : factors) k[c] = 0;
        factors[scale][c] = 1;
        numbers_->shift_of_z()[c] = detail::not_a_number<A>();
      } else if (!by.of_batch) {
        factors[mean][c] = static_cast<A>(by.mean[c]);
      }
    });
  }
  void map(const Part& part) const override {
    A* const* const k = factors;
    A *const shift_of_z = numbers_->shift_of_z(), *const slopes = numbers_->slopes();
    const A* const of_batch[] = {k[mean],  k[scale],   k[shift], k[mean_dy],
                                 k[slope], shift_of_z, slopes};
    const A* const given[] = {k[mean], k[scale], shift_of_z, slopes};
    with_kernels([&](auto kernels) {
      const auto fused = fused_with(kernels, Act());
      if (by.of_batch) {
        fused.input_gradient(this->plan.loops, part, this->kernel_operands, of_batch);
      } else {
        fused.given_gradient(this->plan.loops, part, this->kernel_operands, given);
      }
    });
  }
  void map_exactly(Index c, const exact::Statistics& statistics) const override {
    const double mean_dz = this->mean_of(this->dbeta()[c]);
    const double mean_dz_x_hat = this->mean_of(this->dgamma()[c]);
    const auto f = [&](const T* px, const T* pdy, T* pdx) {
      const double x_part =
          mean_dz_x_hat == 0 ? 0 : statistics.x_hat(static_cast<double>(*px)) * mean_dz_x_hat;
      const double d = dz_of(c, statistics, px, pdy) - mean_dz - x_part;
      exact::put(pdx, exact::product(affine.gamma(c), d, statistics.inv_std) * statistics.shrink);
    };
    exact::for_each(c, f, x, this->dy_, this->dx_);
  }

  [[nodiscard]] double dz_of(Index c, const exact::Statistics& statistics, const T* px,
                             const T* pdy) const {
    const double z =
        exact::normalized(static_cast<double>(*px), statistics, affine.gamma(c), affine.beta(c));
    return passed(Act(), z, static_cast<double>(*pdy), numbers_->slope());
  }
  /// Can the kernels compute z, as in a forward?
  [[nodiscard]] bool z_fits(Index c) const {
    const A scale_c = numbers_->scale_of_z()[c];
    const double correction = rounding_of<A>(by.mean[c]) * affine.gamma(c) * by.inv_std[c];
    return fits_as_offset(static_cast<A>(by.mean[c])) & fits_as_factor(scale_c) &
           fits_as_offset(static_cast<A>(affine.beta(c))) &
           Bits<A>(magnitude_bits(correction) < magnitude_bits(1.0)) &
           fits_as_inv_std(static_cast<A>(by.inv_std[c]));
  }

  const FusedScratch<A>* numbers_;
};

/// dz = act'(z) * dy from y = act(z).
template <class T, class Act>
class PassedBackward final : Steps {
 public:
  using A = ParamOf<T>;

  PassedBackward(const View<const T>& y, const View<const T>& dy, const View<T>& dz,
                 const FusedScratch<A>& numbers)
      : operands_{2, {y, dy}, dz}, plan_(plan_for(operands_, false)), numbers_(&numbers) {}
  void run(const Workers& workers) const { sweep(plan_, workers, *this, Sweep::maps); }

 private:
  void start(Index) const override {}      // GCOV_EXCL_LINE: a map alone sums nothing
  void sum(const Part&) const override {}  // GCOV_EXCL_LINE
  void finish(Index) const override {}     // GCOV_EXCL_LINE
  void prepare(Index) const override {}
  void map(const Part& part) const override {
    const A* const slopes[] = {numbers_->slopes()};
    with_kernels([&](auto kernels) {
      fused_with(kernels, Act()).passed_gradient(plan_.loops, part, operands_, slopes);
    });
  }

  Operands<T> operands_;
  Plan plan_;
  const FusedScratch<A>* numbers_;
};

}  // namespace detail

/// A residual r for Fused, by plus(r).
template <class R>
struct Plus {
  const R& r;
};
template <class R>
[[nodiscard]] Plus<R> plus(const R& r) {
  return {r};
}

/// A layer with its activation, and a residual, in one pass over memory:
///
///   Fused fused(bn, Relu());                          // or Identity(), Relu6(), LeakyRelu{0.2}
///   y = act(BN(x)):        fused.forward(x, y);                 fused.backward(x, dy, dx);
///   y = act(BN(x) + r):    fused.forward(x, y, plus(r));        fused.backward(x, y, dy, dx, dr);
///
/// with dz = act'(z) * dy, and the layer's own backward from dz: adds to bn.grad_gamma() and
/// bn.grad_beta(). No mask is kept: backward makes z again from x, or with a residual, whose
/// gradient is dz, sees in y on which side of 0 it was. act' is 0, or the slope, at 0 and 0 at 6,
/// as in PyTorch. y is the activation of the layer's y but for a rounding less. A NaN stays NaN.
///
/// Mode, statistics, options, arguments and errors are the layer's; calls into memory of yours
/// allocate nothing. y must not overlap x or r, in eval mode either. The layer must outlive this
/// object and stay where it is, and its own backward is no longer of use after a fused forward.
/// Under -ffast-math, dx is not promised for channels beyond the kernels' range. Source: ReLU after
/// the addition, as in He et al., 2015, arXiv 1512.03385.
template <class Act, class Scalar, int spatial>
class Fused {
 public:
  using Layer = BatchNorm<Scalar, spatial>;

  /// Throws std::invalid_argument for a slope that is negative or not finite.
  Fused(Layer& layer, Act act) : parts_(layer), numbers_(layer.num_features(), slope_of(act)) {}

  template <class X>
  [[nodiscard]] typename detail::Argument<X>::Plain forward(const X& x) {
    return detail::written(x, [&](const auto& values, auto& y) { forward(values, y); });
  }
  template <class X, class R>
  [[nodiscard]] typename detail::Argument<X>::Plain forward(const X& x, Plus<R> residual) {
    return detail::written(x, [&](const auto& values, auto& y) { forward(values, y, residual); });
  }
  template <class X, class Y>
  void forward(const X& x, Y&& y) {
    parts_.on_views(in("forward"), x, y, [&](const In& in_x, const Out& out_y, const auto& shape) {
      run_forward(in_x, out_y, shape, {});
    });
  }
  template <class X, class Y, class R>
  void forward(const X& x, Y&& y, Plus<R> residual) {
    using detail::Bare;
    if constexpr (detail::is_tensor_ref<Bare<Y>>) {
      detail::by_way_of_plain(y, [&](auto& plain) { forward(x, plain, residual); });
    } else {
      constexpr int order = detail::common_order<X, Bare<Y>, R>();
      check_order<order>();
      const auto& r = detail::evaluated<order>(residual.r);
      const detail::Where where = in("forward");
      parts_.on_views(where, x, y, [&](const In& in_x, const Out& out_y, const auto& shape) {
        const In in_r = view<const Scalar, order>("r", r, shape, where);
        check_apart("y", out_y, "r", in_r, where);
        run_forward(in_x, out_y, shape, in_r);
      });
    }
  }

  /// Of a forward without a residual. dx may be dy.
  template <class X, class Dy>
  [[nodiscard]] typename detail::Argument<X>::Plain backward(const X& x, const Dy& dy) {
    return detail::written(x, [&](const auto& values, auto& dx) { backward(values, dy, dx); });
  }
  template <class X, class Dy, class Dx>
  void backward(const X& x, const Dy& dy, Dx&& dx) {
    const detail::Where where = in("backward");
    if (has_residual_) {
      where.misuse(
          "expected the y and dr of a forward with a residual: "
          "backward(x, y, dy, dx, dr)");
    }
    parts_.on_views(where, x, dy, dx,
                    [&](const In& in_x, const In& in_dy, const Out& out, const auto& shape) {
                      parts_.template backward_by<detail::FusedBackward<Scalar, Act>>(
                          in_x, in_dy, out, shape, where, numbers_);
                    });
  }
  /// Of one with a residual: y is that forward's, dr the residual's gradient. dr may be dy.
  template <class X, class Y, class Dy, class Dx, class Dr>
  void backward(const X& x, const Y& y, const Dy& dy, Dx&& dx, Dr&& dr) {
    using detail::Bare;
    const detail::Where where = in("backward");
    constexpr int order = detail::common_order<X, Y, Dy, Bare<Dx>, Bare<Dr>>();
    check_order<order>();
    static_assert(detail::Argument<Bare<Dr>>::is_direct,
                  "batchnorm: dx and dr must be written in place: no expressions");
    const auto& values_y = detail::evaluated<order>(y);
    parts_.on_views(
        where, x, dy, dx, [&](const In& in_x, const In& in_dy, const Out& out, const auto& shape) {
          parts_.check_saved(shape, where);
          const In in_y = view<const Scalar, order>("y", values_y, shape, where);
          const Out out_dr = view<Scalar, order>("dr", dr, shape, where);
          check_apart("dr", out_dr, "x", in_x, where);
          check_apart("dr", out_dr, "dx", out, where);
          check_apart("dr", out_dr, "y", in_y, where);
          if (in_x.size() == 0) return;
          detail::PassedBackward<Scalar, Act>(in_y, in_dy, out_dr, numbers_).run(parts_.workers());
          parts_.template backward_by<detail::Backward<Scalar>>(in_x, out_dr, out, shape, where);
        });
  }

 private:
  using Parts = detail::InParts<Scalar, spatial>;
  using In = detail::View<const Scalar>;
  using Out = detail::View<Scalar>;

  [[nodiscard]] static detail::Where in(const char* call) { return {"Fused", call}; }

  [[nodiscard]] static double slope_of(const Act& act) {
    if constexpr (std::is_same_v<Act, LeakyRelu>) {
      if (!detail::is_finite(act.slope) || act.slope < 0) {
        in("Fused").invalid("expected a finite slope of at least 0, got " +
                            detail::number(act.slope));
      }
      return act.slope;
    } else {
      return 0;
    }
  }
  template <int order>
  static constexpr void check_order() {
    static_assert(order != detail::mixed_orders,
                  "batchnorm: x, y, r and their gradients must share a storage order");
  }
  template <class T, int order, class X>
  [[nodiscard]] detail::View<T> view(const char* what, X& x, const detail::Shape& expected,
                                     const detail::Where& where) const {
    static_assert(std::is_same_v<typename detail::Argument<detail::Bare<X>>::Scalar, Scalar>,
                  "batchnorm: x, y, r and their gradients must have the layer's Scalar");
    detail::check_same_shape(what, detail::shape_of(x), expected, where);
    return detail::view_of<T, order>(x, parts_.layer().options().channel_axis);
  }
  template <class T, class U>
  static void check_apart(const char* what, const detail::View<T>& a, const char* other,
                          const detail::View<U>& b, const detail::Where& where) {
    if (a.size() > 0 && (detail::overlaps(a, b) || detail::is_same_place(a, b))) {
      where.invalid(std::string("expected ") + what + " apart from " + other +
                    ", got them overlapping");
    }
  }

  void run_forward(const In& x, const Out& y, const detail::Shape& shape, const In& r) {
    parts_.template forward_by<detail::FusedForward<Scalar, Act>>(x, y, shape, in("forward"), r,
                                                                  numbers_);
    has_residual_ = r.data != nullptr;
  }

  Parts parts_;
  detail::FusedScratch<typename Layer::Param> numbers_;
  bool has_residual_ = false;  // had the last forward one?
};

template <class Act, class Scalar, int spatial>
Fused(BatchNorm<Scalar, spatial>&, Act) -> Fused<Act, Scalar, spatial>;

}  // namespace batchnorm
