// SPDX-License-Identifier: MIT
#pragma once

#include "batchnorm/detail/view.hpp"

// Batch normalization as a textbook has it, value by value in a wider type. The library uses it for
// the rare channel whose sums or coefficients do not fit the loops' type, as with values near the
// largest float.
namespace batchnorm::detail::exact {

/// Calls f(o, i) for the places of a channel's values.
template <class F>
void for_each(const View& v, const F& f) {
  for (Index o = 0; o < v.outer; ++o) {
    for (Index i = 0; i < v.inner; ++i) f(o, i);
  }
}
/// Writes w, rounded to A and then to the element's type.
template <class A>
void put(const View& v, Index o, Index c, Index i, Wide<A> w) {
  v.elements->write(v.at(o, c, i), static_cast<double>(narrow<A>(w)));
}

template <class A>
struct ChannelStatistics {
  Wide<A> mean, var, inv_std;
};

/// mu = sum x / n,  var = sum (x - mu)^2 / n,  inv_std = 1 / sqrt(var + eps)
/// In exact arithmetic sum (x - mu) is 0; what it is here corrects mu and var. var is NaN if a
/// value is not finite. var + eps is 0 here only where long double is no wider than double.
template <class A>
[[nodiscard]] ChannelStatistics<A> measure(const View& x, Index c, double eps) {
  const auto n = static_cast<Wide<A>>(x.count());
  Wide<A> sum = 0, sum_d = 0, sum_dd = 0;
  bool finite = true;
  for_each(x, [&](Index o, Index i) {
    sum += wide<A>(x.value(o, c, i));
    finite = finite && is_finite(x.value(o, c, i));
  });
  const Wide<A> mu = sum / n, nan = wide<A>(not_a_number<double>());
  if (!finite) return {mu, nan, nan};
  for_each(x, [&](Index o, Index i) {
    const Wide<A> d = wide<A>(x.value(o, c, i)) - mu;
    sum_d += d;
    sum_dd += d * d;
  });
  const Wide<A> var = (sum_dd - sum_d * (sum_d / n)) / n, radicand = var + wide<A>(eps);
  const bool positive = radicand > 0;
  const Wide<A> inv_std = positive ? 1 / std::sqrt(radicand) : 0;  // GCOV_EXCL_BR_LINE: as above
  return {mu + sum_d / n, var, inv_std};
}

/// y of a layer without an activation: z itself.
inline constexpr auto z_itself = [](Index, Index, Index, auto z) { return z; };
/// y = y_of(o, c, i, z),  z = gamma * (x - mu) * inv_std + beta
template <class A, class Y = decltype(z_itself)>
void normalize(const View& x, const View& y, Index c, const ChannelStatistics<A>& s, Wide<A> gamma,
               Wide<A> beta, const Y& y_of = z_itself) {
  const Wide<A> scale = gamma * s.inv_std;
  for_each(x, [&](Index o, Index i) {
    Wide<A> z;
    Normalize::of(wide<A>(x.value(o, c, i)), s.mean, scale, beta, z);
    put<A>(y, o, c, i, y_of(o, c, i, z));
  });
}

template <class A>
struct ChannelSums {
  Wide<A> dbeta = 0, dgamma = 0;
  bool finite = true;
};
/// dz of a layer without an activation: dy itself.
inline constexpr auto dy_itself = [](Index, const auto&, auto, auto dy) { return dy; };

/// dbeta = sum dz,  dgamma = sum dz * x_hat,  with dz = dz_of(c, statistics, x, dy)
template <class A, class Dz>
[[nodiscard]] ChannelSums<A> sum_gradients(const View& x, const View& dy, Index c,
                                           const ChannelStatistics<A>& s, const Dz& dz_of) {
  ChannelSums<A> sums;
  for_each(x, [&](Index o, Index i) {
    const Wide<A> x_oci = wide<A>(x.value(o, c, i));
    const Wide<A> dz = dz_of(c, s, x_oci, wide<A>(dy.value(o, c, i)));
    Terms<Wide<A>> terms;
    Gradients::of(x_oci, dz, s.mean, s.inv_std, terms);
    sums.dbeta += terms.first;
    sums.dgamma += terms.first * terms.factor;
    sums.finite = sums.finite && is_finite(dy.value(o, c, i));
  });
  return sums;
}

/// dx = gamma * inv_std * (dz - mean_dz - x_hat * mean_dz_x_hat)
template <class A, class Dz>
void input_gradient(const View& x, const View& dy, const View& dx, Index c,
                    const ChannelStatistics<A>& s, Wide<A> gamma, Wide<A> mean_dz,
                    Wide<A> mean_dz_x_hat, const Dz& dz_of) {
  const Wide<A> scale = gamma * s.inv_std, slope = -scale * s.inv_std * mean_dz_x_hat;
  for_each(x, [&](Index o, Index i) {
    const Wide<A> x_oci = wide<A>(x.value(o, c, i));
    const Wide<A> dz = dz_of(c, s, x_oci, wide<A>(dy.value(o, c, i)));
    const Wide<A> of_x = slope == 0 ? 0 : (x_oci - s.mean) * slope;  // not infinity * 0
    put<A>(dx, o, c, i, (dz - mean_dz) * scale + of_x);
  });
}

}  // namespace batchnorm::detail::exact
