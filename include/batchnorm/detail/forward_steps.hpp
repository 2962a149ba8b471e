// SPDX-License-Identifier: MIT
#pragma once

#include "batchnorm/detail/call.hpp"

// The steps of the forward pass, for channels [c0, c1).
namespace batchnorm::functional {

/// The step that sums d and d^2, about one of the channel's values, v0. So a mean that is large
/// against the deviation takes no digits from them, and a constant channel has variance 0.
template <class A>
[[nodiscard]] Step moments_step(const Call<A>& call) {
  const View& x = call.v.in[0];
  const void* const middle = x.at(x.outer / 2, 0, x.inner / 2);
  x.elements->read(middle, x.channels, x.channel_stride, call.v0);
  return {x.elements->moments, sizeof(double), {call.v0}, {{x, {}}, {}}};
}
/// mu = v0 + sum d / n,  var = (sum d^2 - (sum d)^2 / n) / n,  inv_std = 1 / sqrt(var + eps)
template <class A>
void finish_moments(const Call<A>& call, Index c0, Index c1, double eps, const Statistics& out) {
  const detail::Sums sums = call.sums.of(0);
  const double n = call.n, one_nth = 1 / n;
  const auto finish = [=](double& mu, double& var, double v0, double d, double dd) {
    mu = v0 + d * one_nth;
    var = (dd - d * d * one_nth) * one_nth;
  };
  for_channels(c0, c1, finish, out.mean, out.var, call.v0, sums.of[0], sums.of[1]);
  detail::inverse_roots(out.var + c0, c1 - c0, eps, out.inv_std + c0);
  // The sums are not exact enough if v0 lies far out, or if squares overflowed or lost bits. Where
  // all squares are 0, the channel counts as constant, even if its doubles differ by 1e-170.
  const auto is_good = [=](double var, double d, double dd) {
    const std::int64_t has_bits = dd >= 0x1p-960, is_constant = dd == 0;
    return detail::is_finite(d) & detail::is_finite(dd) & std::int64_t(var * n >= 0.01 * dd) &
           (has_bits | is_constant);
  };
  const auto measure_exactly = [&](Index c) {
    const auto measured = detail::exact::measure<A>(call.v.in[0], c, eps);
    out.mean[c] = detail::narrow<double>(measured.mean);
    out.var[c] = detail::narrow<double>(measured.var);
    out.inv_std[c] = detail::narrow<double>(measured.inv_std);
  };
  for_channels_but(c0, c1, is_good, measure_exactly, out.var, sums.of[0], sums.of[1]);
}

/// Channels [c0, c1) of a parameter; if it is null, what stands for it.
template <class A>
void copy_or_fill(const A* parameter, A otherwise, Index c0, Index c1, A* to) {
  for (Index c = c0; c < c1; ++c) to[c] = parameter ? parameter[c] : otherwise;
}
/// Computes the coefficients of y from the statistics, from gamma in k.scale and beta in k.shift.
template <class A>
void prepare_map(Index c0, Index c1, const Normalizer& by, const MapCoefficients<A>& k) {
  k.set_none_aside(c0, c1);
  const auto prepare = [](A& mean, A& scale, A& shift, double mu, double inv_std) {
    const double gamma = static_cast<double>(scale), factor = gamma * inv_std;
    const double correction = detail::rounding_error<A>(mu) * factor;
    mean = static_cast<A>(mu);
    scale = detail::as_factor<A>(factor, gamma, inv_std);
    shift = static_cast<A>(static_cast<double>(shift) - correction);
  };
  for_channels(c0, c1, prepare, k.mean, k.scale, k.shift, by.mean, by.inv_std);
  const auto fits = [](A mean, A scale, A shift, double inv_std) {
    return detail::fits_as_offset(mean) & detail::fits_as_factor(scale) &
           detail::fits_as_offset(shift) & detail::fits_as_offset_times(mean, scale) &
           detail::fits_as_factor(static_cast<A>(inv_std));
  };
  const auto set_aside = [&](Index c) { k.set_aside(c, by.is_finite(c)); };
  for_channels_but(c0, c1, fits, set_aside, k.mean, k.scale, k.shift, by.inv_std);
}
template <class A>
void prepare_normalize(const Call<A>& call, Index c0, Index c1, const Normalizer& by,
                       const Affine<A>& affine) {
  copy_or_fill<A>(affine.gamma, 1, c0, c1, call.k.scale);
  copy_or_fill<A>(affine.beta, 0, c0, c1, call.k.shift);
  prepare_map(c0, c1, by, call.k);
}

/// Channel c's statistics in the wider type. A batch is measured again if its inv_std is a
/// subnormal double, which has lost bits.
template <class A>
[[nodiscard]] detail::exact::Statistics<A> wide_statistics(const Call<A>& call, Index c,
                                                           const Normalizer& by) {
  const auto bits = detail::magnitude_bits(by.inv_std[c]);
  const auto least = detail::magnitude_bits((std::numeric_limits<double>::min)());
  const bool is_subnormal = by.of_batch && bits != 0 && bits < least;
  if (is_subnormal) return detail::exact::measure<A>(call.v.in[0], c, 0);
  return {detail::wide<A>(by.mean[c]), 0, detail::wide<A>(by.inv_std[c])};
}
/// Calls f(c, statistics) for the channels that were set aside.
template <class A, class F>
void for_beyond(const Call<A>& call, const Normalizer& by, const F& f) {
  for (Index c = 0; c < call.plan.channels; ++c) {
    if (call.k.is_beyond[c]) f(c, wide_statistics(call, c, by));
  }
}
template <class A, class Y = detail::exact::Z>
void normalize_beyond(const Call<A>& call, const Normalizer& by, const Affine<A>& affine,
                      const Y& y_of = {}) {
  for_beyond(call, by, [&](Index c, const detail::exact::Statistics<A>& s) {
    const auto gamma = detail::wide<A>(affine.gamma_of(c)),
               beta = detail::wide<A>(affine.beta_of(c));
    detail::exact::normalize<A>(call.v.in[0], call.v.out, c, s, gamma, beta, y_of);
  });
}

inline constexpr Index most_on_stack = 512;  // channels

/// Writes the numbers of all maps. The arrays must not overlap, so that compilers can vectorize the
/// loop.
template <class A, class MapOf>
void take_maps(Index channels, const MapOf& map_of, double* __restrict mu,
               double* __restrict var_eps, A* __restrict scale, A* __restrict shift) {
  for (Index c = 0; c < channels; ++c) {
    const ChannelMap m = map_of(c);
    mu[c] = m.mean;
    var_eps[c] = m.var_eps;
    scale[c] = static_cast<A>(m.gamma);
    shift[c] = static_cast<A>(m.beta);
  }
}
/// y by map_of(c) for so few channels that their numbers lie on the stack.
template <class A, class MapOf>
void apply_some_maps(const View& x, const View& y, const MapOf& map_of) {
  namespace exact = detail::exact;
  using detail::wide;
  A mean[most_on_stack], scale[most_on_stack], shift[most_on_stack];
  double mu[most_on_stack], inv_std[most_on_stack];
  char is_beyond[most_on_stack];
  const MapCoefficients<A> k{mean, scale, shift, is_beyond};
  take_maps(x.channels, map_of, mu, inv_std, scale, shift);
  detail::inverse_roots(inv_std, x.channels, 0, inv_std);
  prepare_map(0, x.channels, {mu, inv_std, false}, k);
  detail::Operands v{{x, {}}, y};
  const detail::Plan plan = detail::plan_for(v, false);
  detail::map_all(plan, detail::Workers(), k.step(v.in[0], v.out));
  for (Index c = 0; c < x.channels; ++c) {
    if (!is_beyond[c]) continue;
    const ChannelMap m = map_of(c);
    const exact::Statistics<A> given{wide<A>(m.mean), 0, wide<A>(inv_std[c])};
    exact::normalize<A>(x, y, c, given, wide<A>(m.gamma), wide<A>(m.beta));
  }
}

}  // namespace batchnorm::functional
