// SPDX-License-Identifier: MIT
#pragma once

#include "batchnorm/detail/forward_steps.hpp"

// The steps of the backward pass, for channels [c0, c1).
namespace batchnorm::functional {

/// The factor of inv_std in the sums, so that products of small numbers keep their bits.
inline constexpr double enlarged = 0x1p40;

template <class A>
[[nodiscard]] Step sum_gradients(const Call<A>& call, const Normalizer& by) {
  for (Index c = 0; c < call.plan.channels; ++c) {
    call.k.mean[c] = static_cast<A>(by.mean[c]);
    call.inv_std[c] = static_cast<A>(by.inv_std[c] * enlarged);
  }
  const View &x = call.v.in[0], &dy = call.v.in[1];
  return {x.elements->gradients, sizeof(A), {call.k.mean, call.inv_std}, {{x, dy}, {}}};
}
/// dbeta = sum dy,  dgamma = sum dy * x_hat.  The loops used the mean as an A.
/// With an activation, dz(x, dy) stands for dy.
template <class A, class Dz = detail::exact::Dy>
void finish_gradients(const Call<A>& call, Index c0, Index c1, const Normalizer& by,
                      const GradientSums& out, const Dz& dz = {}) {
  const A *const mean = call.k.mean, *const inv_std = call.inv_std;
  const double *const sum_dy = call.sums.of(0).of[0], *const sum_dy_x_hat = call.sums.of(0).of[1];
  double *const dbeta = out.dbeta, *const dgamma = out.dgamma;
  for (Index c = c0; c < c1; ++c) {
    const double too_much = detail::rounding_error<A>(by.mean[c]) * by.inv_std[c];
    dbeta[c] = sum_dy[c];
    dgamma[c] = sum_dy_x_hat[c] * (1 / enlarged) - sum_dy[c] * too_much;
  }
  const auto is_good = [=](Index c) {
    return detail::fits_as_offset(mean[c]) & detail::fits_as_factor(inv_std[c]) &
           detail::is_finite(dbeta[c]) & detail::is_finite(dgamma[c]);
  };
  for_channels_but(c0, c1, is_good, [&](Index c) {
    if (!by.is_finite(c)) return;
    const View &x = call.v.in[0], &dy = call.v.in[1];
    const auto sums = detail::exact::sum_gradients<A>(x, dy, c, exactly(call, c, by), dz);
    dbeta[c] = detail::narrow<double>(sums.dbeta);
    dgamma[c] = detail::narrow<double>(sums.dgamma);
  });
}

/// dx = gamma * inv_std * (dy - dbeta / n - x_hat * dgamma / n) as
///   (dy - mean_dy) * scale + ((x - mean) * slope + shift)
/// By given statistics dx = gamma * inv_std * dy: a map of dy by mean 0 and beta 0.
template <class A>
void prepare_input_gradient(const Call<A>& call, Index c0, Index c1, const Normalizer& by,
                            const Affine<A>& affine, const GradientSums& sums, double n) {
  const MapCoefficients<A>& k = call.k;
  A *const mean = k.mean, *const scale = k.scale, *const shift = k.shift;
  A *const mean_dy = call.mean_dy, *const slope = call.slope;
  const double *const dbeta = sums.dbeta, *const dgamma = sums.dgamma;
  const double *const mu = by.mean, *const inv_std = by.inv_std, one_nth = 1 / n;
  copy_or_fill<A>(affine.gamma, 1, c0, c1, scale);
  if (!by.of_batch) {
    std::fill(call.v0 + c0, call.v0 + c1, 0.0), std::fill(shift + c0, shift + c1, A(0));
    return prepare_map(c0, c1, call.v0, inv_std, k);
  }
  std::fill(k.is_beyond + c0, k.is_beyond + c1, false);
  for (Index c = c0; c < c1; ++c) {
    const double gamma = static_cast<double>(scale[c]);
    const double m_dy = dbeta[c] * one_nth, m_dy_x_hat = dgamma[c] * one_nth;
    const double factor = gamma * inv_std[c], factor_x = -factor * (inv_std[c] * m_dy_x_hat);
    const double correction =
        -detail::rounding_error<A>(m_dy) * factor - detail::rounding_error<A>(mu[c]) * factor_x;
    mean[c] = static_cast<A>(mu[c]);
    scale[c] = detail::as_factor<A>(factor, gamma, inv_std[c]);
    slope[c] = detail::as_factor<A>(factor_x, gamma, inv_std[c], m_dy_x_hat);
    mean_dy[c] = static_cast<A>(m_dy);
    shift[c] = static_cast<A>(correction);
  }
  const auto fits = [=](Index c) {
    return detail::fits_as_offset(mean[c]) & detail::fits_as_factor(scale[c]) &
           detail::fits_as_offset(shift[c]) & detail::fits_as_offset(mean_dy[c]) &
           detail::fits_as_factor(slope[c]) & detail::fits_as_inv_std(static_cast<A>(inv_std[c]));
  };
  for_channels_but(c0, c1, fits, [&](Index c) {
    mean_dy[c] = slope[c] = 0;
    k.set_aside(c, by.is_finite(c));
  });
}
template <class A>
[[nodiscard]] Step map_input_gradient(const Call<A>& call, const Normalizer& by) {
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
template <class A, class Dz = detail::exact::Dy>
void input_gradient_beyond(const Call<A>& call, const Normalizer& by, const Affine<A>& affine,
                           const GradientSums* sums, double n, const Dz& dz = {}) {
  const View &x = call.v.in[0], &dy = call.v.in[1];
  for_beyond(call, by, [&](Index c, const detail::exact::Statistics<A>& s) {
    detail::exact::GradientSums<A> both;
    if (by.of_batch && sums) {
      const double dbeta = sums->dbeta[c], dgamma = sums->dgamma[c];
      both = {detail::wide<A>(dbeta), detail::wide<A>(dgamma),
              detail::is_finite(dbeta) && detail::is_finite(dgamma)};
    } else if (by.of_batch) {
      both = detail::exact::sum_gradients<A>(x, dy, c, s, dz);
    }
    const double gamma = both.finite ? affine.gamma_of(c) : detail::not_a_number<double>();
    const auto count = static_cast<detail::Wide<A>>(n);
    detail::exact::input_gradient<A>(x, dy, call.v.out, c, s, detail::wide<A>(gamma),
                                     both.dbeta / count, both.dgamma / count, dz);
  });
}

}  // namespace batchnorm::functional
