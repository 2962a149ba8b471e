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
  const Sums sums = call.sums.total(call.plan, c0, c1);
  const double n = call.n, one_nth = 1 / n;
  // The sums are exact enough if v0 is within 10 deviations of mu, because
  // sum d^2 = n * (var + (v0 - mu)^2), and if no square overflowed or lost bits. Where all squares
  // are 0, the channel counts as constant, even if its doubles differ by 1e-170.
  const auto finish = [=](double& mu, double& var, std::int64_t& fits, double v0, double d,
                          double dd) {
    mu = v0 + d * one_nth;
    var = (dd - d * d * one_nth) * one_nth;
    const std::int64_t v0_is_near = var * n >= 0.01 * dd;
    const std::int64_t has_bits = dd >= 0x1p-960, is_constant = dd == 0;
    fits = is_finite(d) & is_finite(dd) & v0_is_near & (has_bits | is_constant);
  };
  for_channels(c0, c1, finish, out.mean, out.var, call.k.fits, call.v0, sums.of[0], sums.of[1]);
  inverse_roots(out.var + c0, c1 - c0, eps, out.inv_std + c0);
  call.k.for_each_unfit(c0, c1, [&](Index c) {
    const auto measured = exact::measure<A>(call.v.in[0], c, eps);
    out.mean[c] = narrow<double>(measured.mean);
    out.var[c] = narrow<double>(measured.var);
    out.inv_std[c] = narrow<double>(measured.inv_std);
  });
}

/// Channels [c0, c1) of a parameter; if it is null, what stands for it.
template <class A>
void copy_or_fill(const A* parameter, A otherwise, Index c0, Index c1, A* to) {
  if (parameter) {
    std::copy(parameter + c0, parameter + c1, to + c0);
  } else {
    std::fill(to + c0, to + c1, otherwise);
  }
}
/// Computes the coefficients of y from the statistics, from gamma in k.scale and beta in k.shift:
///   (x - mu) * scale + beta = (x - mean) * scale + shift,  shift = beta - (mu - mean) * scale
/// where mean is mu rounded to A. |mu - mean| is at most |x - mu|, since each x is an A too: so the
/// correction of beta is never larger than y - beta.
template <class A>
void prepare_map(Index c0, Index c1, const Normalizer& by, const MapCoefficients<A>& k) {
  const auto prepare = [](A& mean, A& scale, A& shift, std::int64_t& fits, double mu,
                          double inv_std) {
    const double gamma = static_cast<double>(scale), factor = gamma * inv_std;
    const double correction = rounding_error<A>(mu) * factor;
    mean = static_cast<A>(mu);
    scale = static_cast<A>(factor);
    shift = static_cast<A>(static_cast<double>(shift) - correction);
    fits = fits_as_offset(mean) & fits_as_product(scale, gamma, inv_std) & fits_as_offset(shift);
  };
  for_channels(c0, c1, prepare, k.mean, k.scale, k.shift, k.fits, by.mean, by.inv_std);
  k.for_each_unfit(c0, c1, [&](Index c) { k.set_aside(c, by.is_finite(c)); });
}
template <class A>
void prepare_normalize(const Call<A>& call, Index c0, Index c1, const Normalizer& by,
                       const Affine<A>& affine) {
  copy_or_fill<A>(affine.gamma, 1, c0, c1, call.k.scale);
  copy_or_fill<A>(affine.beta, 0, c0, c1, call.k.shift);
  prepare_map(c0, c1, by, call.k);
}

/// Channel c's statistics in the wider type. A batch is measured again if its inv_std is a
/// subnormal double, which has lost bits; its var is then so large that eps adds nothing.
template <class A>
[[nodiscard]] exact::ChannelStatistics<A> wide_statistics(const Call<A>& call, Index c,
                                                          const Normalizer& by) {
  const auto bits = magnitude_bits(by.inv_std[c]);
  const auto least = magnitude_bits((std::numeric_limits<double>::min)());
  const bool is_subnormal = by.of_batch && bits != 0 && bits < least;
  if (is_subnormal) return exact::measure<A>(call.v.in[0], c, 0);
  return {wide<A>(by.mean[c]), 0, wide<A>(by.inv_std[c])};
}
/// Calls f(c, statistics) for the channels that were set aside.
template <class A, class F>
void for_each_slow_channel(const Call<A>& call, const Normalizer& by, const F& f) {
  call.k.for_each_unfit(0, call.plan.channels,
                        [&](Index c) { f(c, wide_statistics(call, c, by)); });
}
template <class A, class Y = decltype(exact::z_itself)>
void normalize_slowly(const Call<A>& call, const Normalizer& by, const Affine<A>& affine,
                      const Y& y_of = exact::z_itself) {
  for_each_slow_channel(call, by, [&](Index c, const exact::ChannelStatistics<A>& s) {
    const auto gamma = wide<A>(affine.gamma_of(c)), beta = wide<A>(affine.beta_of(c));
    exact::normalize<A>(call.v.in[0], call.v.out, c, s, gamma, beta, y_of);
  });
}

}  // namespace batchnorm::functional
