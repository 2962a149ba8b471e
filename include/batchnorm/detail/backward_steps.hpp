// SPDX-License-Identifier: MIT
#pragma once

#include "batchnorm/detail/forward_steps.hpp"

// The steps of the backward pass, for channels [c0, c1).
namespace batchnorm::functional {

/// The loops sum dy * x_hat * 2^40, so that products of small numbers keep their bits:
/// finish_gradients divides by it. If a product overflows, the slow path computes the channel.
inline constexpr double enlarged = 0x1p40;

template <class A>
void prepare_gradients(const Call<A>& call, const Normalizer& by) {
  const auto prepare = [](A& mean, A& enlarged_inv_std, double mu, double inv_std) {
    mean = static_cast<A>(mu);
    enlarged_inv_std = static_cast<A>(inv_std * enlarged);
  };
  for_channels(0, call.plan.channels, prepare, call.k.mean, call.inv_std, by.mean, by.inv_std);
}
template <class A>
[[nodiscard]] Step gradients_step(const Call<A>& call, const Normalizer& by) {
  prepare_gradients(call, by);
  const View &x = call.v.in[0], &dy = call.v.in[1];
  return {x.elements->gradients, sizeof(A), {call.k.mean, call.inv_std}, {{x, dy}, {}}};
}
/// dbeta = sum dy,  dgamma = sum dy * x_hat.  The loops use the mean rounded to A:
///   (x - mean) * inv_std = x_hat + too_much,  too_much = (mu - mean) * inv_std
/// With an activation, dz(c, statistics, x, dy) stands for dy.
template <class A, class Dz = decltype(exact::dy_itself)>
void finish_gradients(const Call<A>& call, Index c0, Index c1, const Normalizer& by,
                      const GradientSums& out, const Dz& dz = exact::dy_itself) {
  const Sums sums = call.sums.total(call.plan, c0, c1);
  const auto finish = [](double& dbeta, double& dgamma, std::int64_t& fits, double sum_dy,
                         double sum_dy_x_hat, double mu, double inv_std, A enlarged_inv_std) {
    const double too_much = rounding_error<A>(mu) * inv_std;
    dbeta = sum_dy;
    dgamma = sum_dy_x_hat * (1 / enlarged) - sum_dy * too_much;
    fits = fits_as_offset(static_cast<A>(mu)) & fits_as_factor(enlarged_inv_std) &
           is_finite(dbeta) & is_finite(dgamma);
  };
  for_channels(c0, c1, finish, out.dbeta, out.dgamma, call.k.fits, sums.of[0], sums.of[1], by.mean,
               by.inv_std, call.inv_std);
  call.k.for_each_unfit(c0, c1, [&](Index c) {
    if (!by.is_finite(c)) return;
    const View &x = call.v.in[0], &dy = call.v.in[1];
    const auto exact_sums = exact::sum_gradients<A>(x, dy, c, wide_statistics(call, c, by), dz);
    out.dbeta[c] = narrow<double>(exact_sums.dbeta);
    out.dgamma[c] = narrow<double>(exact_sums.dgamma);
  });
}

/// dx = gamma * inv_std * (dy - dbeta / n - x_hat * dgamma / n) as
///   (dy - mean_dy) * scale + ((x - mean) * slope + shift)
/// where shift makes up for the rounding of both means to A. By given statistics dx = gamma *
/// inv_std * dy: a map of dy by mean 0, for which v0 serves, and beta 0.
template <class A>
void prepare_input_gradient(const Call<A>& call, Index c0, Index c1, const Normalizer& by,
                            const Affine<A>& affine, const GradientSums& sums, double n) {
  const MapCoefficients<A>& k = call.k;
  copy_or_fill<A>(affine.gamma, 1, c0, c1, k.scale);  // gamma, until scale takes its place
  if (!by.of_batch) {
    std::fill(call.v0 + c0, call.v0 + c1, 0.0), std::fill(k.shift + c0, k.shift + c1, A(0));
    return prepare_map(c0, c1, {call.v0, by.inv_std, false}, k);
  }
  const double one_nth = 1 / n, inv_root_n = 1 / std::sqrt(n);
  const auto prepare = [=](A& mean, A& scale, A& shift, A& mean_dy, A& slope, std::int64_t& fits,
                           double mu, double inv_std, double dbeta, double dgamma) {
    const double gamma = static_cast<double>(scale);
    const double exact_mean_dy = dbeta * one_nth, mean_dy_x_hat = dgamma * one_nth;
    const double exact_scale = gamma * inv_std;
    const double exact_slope = -exact_scale * mean_dy_x_hat * inv_std;
    mean = static_cast<A>(mu);
    mean_dy = static_cast<A>(exact_mean_dy);
    scale = static_cast<A>(exact_scale);
    slope = static_cast<A>(exact_slope);
    shift = static_cast<A>(-rounding_error<A>(exact_mean_dy) * exact_scale -
                           rounding_error<A>(mu) * exact_slope);
    // The largest |(x - mean) * slope|: sum x_hat^2 <= n, so |x_hat| <= sqrt(n).
    const A most_of_x = scale * static_cast<A>(dgamma * inv_root_n);
    fits = fits_as_offset(mean) & fits_as_product(scale, gamma, inv_std) & fits_as_offset(shift) &
           fits_as_offset(mean_dy) & fits_as_product(slope, gamma, inv_std, mean_dy_x_hat) &
           fits_as_offset(most_of_x);
  };
  for_channels(c0, c1, prepare, k.mean, k.scale, k.shift, call.mean_dy, call.slope, k.fits, by.mean,
               by.inv_std, sums.dbeta, sums.dgamma);
  k.for_each_unfit(c0, c1, [&](Index c) {
    // In double, sums of finite floats are finite. So where a sum is not, dx is NaN.
    const bool finite_sums =
        std::is_same_v<A, double> || (is_finite(sums.dbeta[c]) && is_finite(sums.dgamma[c]));
    call.mean_dy[c] = call.slope[c] = 0;
    k.set_aside(c, by.is_finite(c) && finite_sums);
  });
}
template <class A>
[[nodiscard]] Step input_gradient_step(const Call<A>& call, const Normalizer& by) {
  const View &x = call.v.in[0], &dy = call.v.in[1];
  const MapCoefficients<A>& k = call.k;
  if (!by.of_batch) return k.step(dy, call.v.out);
  return {x.elements->input_gradient,
          sizeof(A),
          {k.mean, k.scale, k.shift, call.mean_dy, call.slope},
          call.v};
}
/// dx of the channels that were set aside. `sums` are those of the whole batch, of which x may be a
/// part; null if x is the whole batch.
template <class A, class Dz = decltype(exact::dy_itself)>
void input_gradient_slowly(const Call<A>& call, const Normalizer& by, const Affine<A>& affine,
                           const GradientSums* sums, double n, const Dz& dz = exact::dy_itself) {
  const View &x = call.v.in[0], &dy = call.v.in[1];
  for_each_slow_channel(call, by, [&](Index c, const exact::ChannelStatistics<A>& s) {
    exact::ChannelSums<A> both;
    if (by.of_batch && sums) {
      const double dbeta = sums->dbeta[c], dgamma = sums->dgamma[c];
      both = {wide<A>(dbeta), wide<A>(dgamma), is_finite(dbeta) && is_finite(dgamma)};
    } else if (by.of_batch) {
      both = exact::sum_gradients<A>(x, dy, c, s, dz);
    }
    const double gamma = both.finite ? affine.gamma_of(c) : not_a_number<double>();
    const auto count = static_cast<Wide<A>>(n);
    exact::input_gradient<A>(x, dy, call.v.out, c, s, wide<A>(gamma), both.dbeta / count,
                             both.dgamma / count, dz);
  });
}

}  // namespace batchnorm::functional
