// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <limits>
#include <type_traits>

#include "batchnorm/layer.hpp"

namespace batchnorm {

struct Identity {};  ///< z
struct Relu {};      ///< max(z, 0)
struct Relu6 {};     ///< min(max(z, 0), 6)
/// z where it is above 0, slope * z elsewhere. A slope is finite and at least 0.
struct LeakyRelu {
  double slope = 0.01;
};

// Formulas, as in detail/formulas.hpp.
namespace detail::fused {
using functional::Affine, functional::Call, functional::Normalizer;

/// result = a <= b ? then : otherwise, for numbers and in each lane of a vector.
template <class V>
BATCHNORM_INLINE void choose(const V& a, const V& b, const V& then, const V& otherwise, V& result) {
  result = a <= b ? then : otherwise;
}
enum class Pass { forward, backward };
/// Forward, v is z: act(z). Backward, v is dy: dz = act'(z) * dy. `slope` is that of LeakyRelu; for
/// Relu6 it is 6. All comparisons with NaN are false: where z is NaN, act(z) is NaN and dz is dy.
/// dz must be dy there: dx may be dy, which the slow path reads after the loops.
template <class Act, Pass pass, class V>
BATCHNORM_INLINE void activate(const V& z, const V& v, const V& slope, V& result) {
  constexpr bool is_leaky = std::is_same_v<Act, LeakyRelu>;
  result = v;
  if constexpr (std::is_same_v<Act, Relu6>) {
    choose(slope, z, pass == Pass::forward ? slope : V{}, v, result);
  }
  if constexpr (is_leaky) choose(z, V{}, v * slope, v, result);
  if constexpr (!is_leaky && !std::is_same_v<Act, Identity>) choose(z, V{}, V{}, result, result);
}
/// y = act(z) or act(z + r), with z = (x - mean) * scale + shift
template <class Act, bool with_r>
struct ActOfZ : FormulaOf<false, with_r ? 2 : 1, 4> {
  template <class V>
  static BATCHNORM_INLINE void of(const V& x, const V& mean, const V& scale, const V& shift,
                                  const V& slope, V& y) {
    const V z = (x - mean) * scale + shift;
    activate<Act, Pass::forward>(z, z, slope, y);
  }
  template <class V>
  static BATCHNORM_INLINE void of(const V& x, const V& r, const V& mean, const V& scale,
                                  const V& shift, const V& slope, V& y) {
    const V z = (x - mean) * scale + shift + r;
    activate<Act, Pass::forward>(z, z, slope, y);
  }
};
/// dz = act'(y) * dy. y = act(z) is on the same side of 0 and of 6 as z.
template <class Act>
struct DzOfY : FormulaOf<false, 2, 1> {
  template <class V>
  static BATCHNORM_INLINE void of(const V& y, const V& dy, const V& slope, V& dz) {
    activate<Act, Pass::backward>(y, dy, slope, dz);
  }
};
/// Computes z again from x, then dz, then one of three results. `count` coefficients: 5 for the
/// terms of Gradients, 7 for dx of InputGradient, 4 for dx = dz * scale by given statistics, where
/// x may be infinite.
template <class Act, int count>
struct OfDz : FormulaOf<count == 5, 2, count> {
  template <class V, class... Rest>
  static BATCHNORM_INLINE void of(const V& x, const V& dy, const V& mean, const V& scale,
                                  const V& z_shift, const V& slope, Rest&... rest) {
    V dz;
    activate<Act, Pass::backward>((x - mean) * scale + z_shift, dy, slope, dz);
    if constexpr (count == 4) ((rest = dz * scale), ...);
    if constexpr (count == 5) Gradients::of(x, dz, mean, rest...);
    if constexpr (count == 7) InputGradient::of(x, dz, mean, scale, rest...);
  }
};

// Passes, as in functional.hpp. T is the scalar, A its Param; `slopes` (C) are the activation's.

/// A formula's loops, which are chosen once in a program, with what they read and write.
template <class Formula, class T, class... A>
[[nodiscard]] Step step_of(const Operands& v, const A*... coefficients) {
  static const Loops loops = loops_of<Formula, T>();
  return {loops, sizeof(ParamOf<T>), {coefficients...}, v};
}
/// dz from y for a whole tensor: v is y, dy and dz, which may be y or dy.
template <class T, class Act, class A>
void map_dz(Operands v, const A* slopes, const Workers& workers) {
  const Plan plan = plan_for(v, false);
  run_all(plan, workers, step_of<DzOfY<Act>, T>(v, slopes));
}
/// y from v: x, r or an empty view, and y. y may be x if act is Identity or LeakyRelu: channels
/// that are set aside have a slope of 1, by which the loops copy them. Core::forward_by gives
/// `batch`.
template <class T, class Act, class A>
void write_y(Core<A>& core, const Operands& v, const functional::Statistics* batch,
             const A* slopes) {
  const Affine<A> affine = core.affine();
  const Normalizer by = core.normalizer(core.next);
  const Call<A> call(v, batch, core.workspace);
  const auto& k = call.k;
  const Step map =
      call.v.in[1].data
          ? step_of<ActOfZ<Act, true>, T>(call.v, k.mean, k.scale, k.shift, call.slope)
          : step_of<ActOfZ<Act, false>, T>(call.v, k.mean, k.scale, k.shift, call.slope);
  const auto settle = [&](Index c0, Index c1) {
    if (batch) finish_moments(call, c0, c1, core.options.eps, *batch);
    prepare_normalize(call, c0, c1, by, affine);
    for (Index c = c0; c < c1; ++c) call.slope[c] = k.fits[c] ? slopes[c] : A(1);
  };
  const Step sum = batch ? moments_step(call) : Step{};
  by_groups(call.plan, core.workers, batch ? &sum : nullptr, call.sums, settle, map);
  normalize_slowly(call, by, affine, [&call, slopes](Index o, Index c, Index i, auto z) {
    decltype(z) y, with_r = call.v.in[1].data ? z + call.v.in[1].value(o, c, i) : z;
    activate<Act, Pass::forward>(with_r, with_r, decltype(z){slopes[c]}, y);
    return y;
  });
}
/// z for the sums of a backward. Where z does not fit the loops, its shift is NaN, and inv_std does
/// not fit either, so that finish_gradients takes the slow path.
template <class A>
void prepare_z(const Call<A>& call, const Normalizer& by, const Affine<A>& affine) {
  prepare_normalize(call, 0, call.plan.channels, by, affine);
  prepare_gradients(call, by);  // sets mean and inv_std
  for (Index c = 0; c < call.plan.channels; ++c) {
    if (by.is_finite(c) && call.k.fits[c]) continue;
    call.k.shift[c] = not_a_number<A>();
    call.inv_std[c] = (std::numeric_limits<A>::max)();
  }
}
/// Prepares z for dx, after prepare_input_gradient, which sets the scale that z has too. Channels
/// that are set aside get a z_shift of NaN, by which dz is dy.
template <class A>
void finish_z(const Call<A>& call, Index c0, Index c1, const Normalizer& by, A* z_shift) {
  for (Index c = c0; c < c1; ++c) {
    if (!call.k.fits[c] || (is_nan(static_cast<double>(z_shift[c])) && by.is_finite(c))) {
      call.k.set_aside(c, true);
      call.mean_dy[c] = call.slope[c] = 0;
      z_shift[c] = not_a_number<A>();
    } else if (!by.of_batch) {
      call.k.mean[c] = static_cast<A>(by.mean[c]);
    }
  }
}
/// dx and `out` from x, dy and dx. Core::backward_by gives `by` and `out`.
template <class T, class Act, class A>
void write_dx(Core<A>& core, const Operands& operands, const Normalizer& by,
              const functional::GradientSums& out, const A* slopes) {
  const Affine<A> affine = core.affine();
  const Call<A> call(operands, true, core.workspace);
  const Operands &v = call.v, inputs{{v.in[0], v.in[1]}, {}};
  const auto& k = call.k;
  A* const z_shift = call.inv_std;  // for the map; inv_std is for the sums, which come first
  const Step sums =
      step_of<OfDz<Act, 5>, T>(inputs, k.mean, k.scale, k.shift, slopes, call.inv_std);
  const Step dx = by.of_batch ? step_of<OfDz<Act, 7>, T>(v, k.mean, k.scale, z_shift, slopes,
                                                         k.shift, call.mean_dy, call.slope)
                              : step_of<OfDz<Act, 4>, T>(v, k.mean, k.scale, z_shift, slopes);
  const auto dz_of = [&affine, slopes](Index c, const auto& s, auto x, auto dy) {
    decltype(x) z, dz, scale = affine.gamma_of(c) * s.inv_std, beta = affine.beta_of(c);
    Normalize::of(x, s.mean, scale, beta, z);
    activate<Act, Pass::backward>(z, dy, decltype(x){slopes[c]}, dz);
    return dz;
  };
  prepare_z(call, by, affine);
  const auto settle = [&](Index c0, Index c1) {
    finish_gradients(call, c0, c1, by, out, dz_of);
    std::copy(k.shift + c0, k.shift + c1, z_shift + c0);
    prepare_input_gradient(call, c0, c1, by, affine, out, call.n);
    finish_z(call, c0, c1, by, z_shift);
  };
  by_groups(call.plan, core.workers, &sums, call.sums, settle, dx);
  input_gradient_slowly(call, by, affine, nullptr, call.n, dz_of);
}

}  // namespace detail::fused

/// A residual r for Fused, by plus(r). It refers to r: make it in the call that uses it.
template <class R>
struct Plus {
  const R& r;
};
template <class R>
[[nodiscard]] Plus<R> plus(const R& r) {
  return {r};
}

/// A layer with its activation and, if given, a residual in one pass over memory:
///
///   Fused fused(bn, Relu());                          // or Identity(), Relu6(), LeakyRelu{0.2}
///   y = act(BN(x)):        fused.forward(x, y);                 fused.backward(x, dy, dx);
///   y = act(BN(x) + r):    fused.forward(x, y, plus(r));        fused.backward(x, y, dy, dx, dr);
///
/// backward is the layer's, with dz = act'(z) * dy for dy. No mask is kept: z is computed again
/// from x or, with a residual, y is compared. As in PyTorch, act' is 0 or the slope at 0, and 0 at
/// 6. y has one rounding less than the activation of the layer's y. A NaN stays NaN.
///
/// Mode, statistics, options, arguments and errors are the layer's; calls that write to memory of
/// the caller allocate nothing. y must not overlap x or r, in eval mode either. The layer must
/// outlive this object and stay where it is; its own backward is not valid after a fused forward.
/// Under -ffast-math, dx is not promised for channels beyond the range of the loops. ReLU follows
/// the addition, as in He et al., 2015, arXiv 1512.03385.
template <class Act, class Scalar, int spatial>
class Fused {
  using View = detail::View;

 public:
  using Layer = BatchNorm<Scalar, spatial>;
  using Param = typename Layer::Param;

  /// Throws std::invalid_argument for a slope that is negative, or not finite in the layer's Param.
  Fused(Layer& layer, Act act) : layer_(&layer) {
    double slope = std::is_same_v<Act, Relu6> ? 6 : 0;
    if constexpr (std::is_same_v<Act, LeakyRelu>) slope = act.slope;
    slope_ = detail::narrow<Param>(slope);
    const detail::Where where{"Fused", "Fused"};
    if (!detail::is_finite(static_cast<double>(slope_)) || slope < 0)
      where.invalid({"expected a finite slope of at least 0, got ", slope});
  }

  template <class X>
  [[nodiscard]] auto forward(const X& x) {
    return detail::written(x, [this](const auto& values, auto& y) { this->forward(values, y); });
  }
  template <class X, class R>
  [[nodiscard]] auto forward(const X& x, Plus<R> residual) {
    return detail::written(
        x, [this, &residual](const auto& values, auto& y) { this->forward(values, y, residual); });
  }
  /// The same into y. `residual` is plus(r) or left out.
  template <class X, class Y, class... R>
  void forward(const X& x, Y&& y, Plus<R>... residual) {
    auto& core = layer_->core();
    const detail::Where where{"Fused", "forward"};
    const auto f = [this, &core, &where](const auto& shape, const View& in_x, const View& out_y,
                                         const auto&... r) {
      check_apart(where, "y", out_y, "x, which backward needs", in_x);
      (check_apart(where, "y", out_y, "r", r), ...);
      const detail::Entered entered(core.in_use, where);
      core.forward_by(
          where, shape, in_x, false,
          [this, &core, &in_x, &out_y, &r...](const functional::Statistics* own) {
            detail::fused::write_y<Scalar, Act>(core, {{in_x, r...}, out_y}, own, slopes());
          });
      has_residual_ = sizeof...(R) > 0;
    };
    detail::on_views_of<Scalar, spatial>(core, where, f, detail::Reads{"x", x},
                                         detail::Writes{"y", y}, detail::Reads{"r", residual.r}...);
  }

  /// After a forward without a residual. dx may be dy.
  template <class X, class Dy>
  [[nodiscard]] auto backward(const X& x, const Dy& dy) {
    return detail::written(
        x, [this, &dy](const auto& values, auto& dx) { this->backward(values, dy, dx); });
  }
  template <class X, class Dy, class Dx>
  void backward(const X& x, const Dy& dy, Dx&& dx) {
    auto& core = layer_->core();
    const detail::Where where{"Fused", "backward"};
    if (has_residual_) where.misuse({"expected backward(x, y, dy, dx, dr) after a residual"});
    const auto f = [this, &core, &where](const auto& shape, const View& in_x, const View& in_dy,
                                         const View& out) {
      core.backward_by(
          where, core.saved, shape, in_x, in_dy, out,
          [this, &core, &in_x, &in_dy, &out](auto by, auto sums) {
            detail::fused::write_dx<Scalar, Act>(core, {{in_x, in_dy}, out}, by, sums, slopes());
          });
    };
    detail::on_views_of<Scalar, spatial>(core, where, f, detail::Reads{"x", x},
                                         detail::Reads{"dy", dy}, detail::Writes{"dx", dx});
  }
  /// After a forward with a residual, which wrote y. dr is the gradient of r. dx or dr may be dy.
  template <class X, class Y, class Dy, class Dx, class Dr>
  void backward(const X& x, const Y& y, const Dy& dy, Dx&& dx, Dr&& dr) {
    auto& core = layer_->core();
    const detail::Where where{"Fused", "backward"};
    const auto f = [this, &core, &where](const auto& shape, const View& in_x, const View& in_y,
                                         const View& in_dy, const View& out, const View& out_dr) {
      check_apart(where, "dr", out_dr, "x", in_x);
      check_apart(where, "dr", out_dr, "dx", out);
      check_apart(where, "dr", out_dr, "y", in_y);
      check_same_or_apart(where, "dr", out_dr, "dy", in_dy);
      core.backward_by(
          where, core.saved, shape, in_x, in_dy, out,
          [this, &core, &in_x, &in_y, &in_dy, &out, &out_dr](auto by, auto sums) {
            detail::fused::map_dz<Scalar, Act>({{in_y, in_dy}, out_dr}, slopes(), core.workers);
            functional::backward<Param>(in_x, out_dr, by, core.affine(), sums, out,
                                        core.resources());
          });
    };
    detail::on_views_of<Scalar, spatial>(core, where, f, detail::Reads{"x", x},
                                         detail::Reads{"y", y}, detail::Reads{"dy", dy},
                                         detail::Writes{"dx", dx}, detail::Writes{"dr", dr});
  }

 private:
  /// (C) the slope. The layer may have become one of another size.
  [[nodiscard]] const Param* slopes() {
    slopes_.setConstant(layer_->num_features(), slope_);
    return slopes_.data();
  }

  Layer* layer_;
  Param slope_;
  typename Layer::Vector slopes_;
  bool has_residual_ = false;  // had the last forward one?
};

template <class Act, class Scalar, int spatial>
Fused(BatchNorm<Scalar, spatial>&, Act) -> Fused<Act, Scalar, spatial>;

}  // namespace batchnorm
