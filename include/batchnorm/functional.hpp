// SPDX-License-Identifier: MIT
#pragma once

#include "batchnorm/detail/backward_steps.hpp"
#include "batchnorm/detail/forward_steps.hpp"

// Batch normalization of views, as functions without state:
//
//   mu      = sum x / n              of a channel's n values
//   var     = sum (x - mu)^2 / n     the population variance
//   inv_std = 1 / sqrt(var + eps)    0 where var + eps is 0
//   x_hat   = (x - mu) * inv_std
//   y       = gamma * x_hat + beta
//
//   dbeta   = sum dy
//   dgamma  = sum dy * x_hat
//   dx      = gamma * inv_std * (dy - dbeta / n - x_hat * dgamma / n)
//
// An x acts on a loss in three ways: by its own y (dy), by mu (-dbeta / n), and by var, since
// d inv_std / dx = -inv_std^2 * x_hat / n (-x_hat * dgamma / n).
//
// Source: Ioffe and Szegedy, 2015, arXiv 1502.03167.
//
// Each direction has three steps: two sums per channel; from them a few coefficients per channel,
// computed in double; a map of all values, computed in A, float or double. The map takes
// differences before it multiplies, so that a mean that is large against the deviation costs no
// digits. What a mean loses when it is rounded to float is added to the shift; a mean in double
// keeps its error of half an ulp. Channels with coefficients beyond the range of A are left to
// detail/exact.hpp.
namespace batchnorm::functional {

/// Measures x: writes mean, var and inv_std.
template <class A>
void measure(const View& x, double eps, const Statistics& out, const Resources& with) {
  const Call<A> call({{x, {}}, {}}, true, with.workspace);
  run_all(call.plan, with.workers, moments_step(call), call.sums);
  finish_moments(call, 0, x.channels, eps, out);
}

/// y = gamma * (x - mean) * inv_std + beta, by given statistics.
template <class A>
void normalize(const View& x, const Normalizer& by, const Affine<A>& affine, const View& y,
               const Resources& with) {
  const Call<A> call({{x, {}}, y}, false, with.workspace);
  const auto settle = [&](Index c0, Index c1) { prepare_normalize(call, c0, c1, by, affine); };
  const Step map = call.k.step(call.v.in[0], call.v.out);
  by_groups(call.plan, with.workers, nullptr, {}, settle, map);
  normalize_slowly(call, by, affine);
}

/// Measures x, then writes y by x's own statistics: group by group, to map x from the cache.
template <class A>
void forward(const View& x, double eps, const Affine<A>& affine, const Statistics& out,
             const View& y, const Resources& with) {
  const Normalizer by{out.mean, out.inv_std, true};
  const Call<A> call({{x, {}}, y}, true, with.workspace);
  const auto settle = [&](Index c0, Index c1) {
    finish_moments(call, c0, c1, eps, out);       // mu, var, inv_std
    prepare_normalize(call, c0, c1, by, affine);  // mean, scale, shift
  };
  const Step sum = moments_step(call);                     // sum d, sum d^2
  const Step map = call.k.step(call.v.in[0], call.v.out);  // y = (x - mean) * scale + shift
  by_groups(call.plan, with.workers, &sum, call.sums, settle, map);
  normalize_slowly(call, by, affine);
}

/// dbeta = sum dy,  dgamma = sum dy * x_hat, of the whole batch or of a part: parts add up.
template <class A>
void sum_gradients(const View& x, const View& dy, const Normalizer& by, const GradientSums& out,
                   const Resources& with) {
  const Call<A> call({{x, dy}, {}}, true, with.workspace);
  run_all(call.plan, with.workers, gradients_step(call, by), call.sums);
  finish_gradients(call, 0, x.channels, by, out);
}

/// dx by the sums of the whole batch of n values per channel, of which x may be a part.
template <class A>
void input_gradient(const View& x, const View& dy, const Normalizer& by, const Affine<A>& affine,
                    const GradientSums& sums, double n, const View& dx, const Resources& with) {
  const Call<A> call({{x, dy}, dx}, false, with.workspace);
  prepare_input_gradient(call, 0, x.channels, by, affine, sums, n);
  run_all(call.plan, with.workers, input_gradient_step(call, by));
  input_gradient_slowly(call, by, affine, &sums, n);
}

/// dbeta and dgamma, then dx, group by group.
template <class A>
void backward(const View& x, const View& dy, const Normalizer& by, const Affine<A>& affine,
              const GradientSums& out, const View& dx, const Resources& with) {
  const Call<A> call({{x, dy}, dx}, true, with.workspace);
  const auto settle = [&](Index c0, Index c1) {
    finish_gradients(call, c0, c1, by, out);                        // dbeta, dgamma
    prepare_input_gradient(call, c0, c1, by, affine, out, call.n);  // scale, slope, shift
  };
  const Step sum = gradients_step(call, by);       // sum dy, sum dy * x_hat
  const Step map = input_gradient_step(call, by);  // dx
  by_groups(call.plan, with.workers, &sum, call.sums, settle, map);
  input_gradient_slowly(call, by, affine, nullptr, call.n);
}

/// y by map_of(c), a ChannelMap for each channel, on the calling thread. It allocates nothing, its
/// numbers lie on the stack, so that threads may call it at once. The bits of y are normalize's.
template <class A, class MapOf>
void apply_maps(const View& x, const View& y, const MapOf& map_of) {
  constexpr Index at_once = 512;  // channels, whose numbers lie on the stack
  A mean[at_once], scale[at_once], shift[at_once];
  double mu[at_once], inv_std[at_once];
  std::int64_t fits[at_once];
  const MapCoefficients<A> k{mean, scale, shift, fits};
  for (Index c0 = 0; c0 < x.channels && x.size() > 0; c0 += at_once) {
    const Index n = (std::min)(at_once, x.channels - c0);
    for (Index c = 0; c < n; ++c) {
      const ChannelMap m = map_of(c0 + c);
      mu[c] = m.mean;
      inv_std[c] = m.var_eps;  // until inverse_roots
      scale[c] = static_cast<A>(m.gamma);
      shift[c] = static_cast<A>(m.beta);
    }
    inverse_roots(inv_std, n, 0, inv_std);
    prepare_map(0, n, {mu, inv_std, false}, k);
    Operands v{{x.some(c0, c0 + n), {}}, y.some(c0, c0 + n)};
    const Plan plan = plan_for(v, false);
    run_all(plan, Workers(), k.step(v.in[0], v.out));
    k.for_each_unfit(0, n, [&](Index c) {
      const ChannelMap m = map_of(c0 + c);
      exact::normalize<A>(v.in[0], v.out, c, {wide<A>(mu[c]), 0, wide<A>(inv_std[c])},
                          wide<A>(m.gamma), wide<A>(m.beta));
    });
  }
}

}  // namespace batchnorm::functional
