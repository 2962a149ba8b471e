// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <utility>

#include "batchnorm/detail/view.hpp"

// The long way round, for the rare channel whose sums, differences or coefficients do not fit the
// kernels' type: value by value in double, on values scaled by a power of two. Only what is
// computed differs, not what is promised.
namespace batchnorm::detail::exact {

/// x_hat = (x * shrink - mean) * inv_std: statistics of a channel's values times a power of two.
struct Statistics {
  double shrink, mean, inv_std;

  [[nodiscard]] double x_hat(double x) const { return (x * shrink - mean) * inv_std; }
};

/// Calls f(p, ...) with pointers to each value of channel c in every view, in order.
template <class F, class... T>
void for_each(Index c, const F& f, const View<T>&... v) {
  const Index outer[] = {v.outer...}, inner[] = {v.inner...};
  for (Index o = 0; o < outer[0]; ++o) {
    for (Index i = 0; i < inner[0]; ++i) f(v.at(o, c, i)...);
  }
}

/// A channel's mean and sum of squared deviations with the power of two that its values were
/// multiplied by: 1 unless squares would overflow. mean and m2 are those of the scaled values; m2
/// is NaN where a value is not finite.
struct ScaledMoment {
  double shrink, mean, m2;
};

template <class T>
[[nodiscard]] ScaledMoment moment(const View<T>& x, Index c) {
  double largest = 0, sum = 0;
  bool finite = true;
  for_each(
      c,
      [&](const T* p) {
        const double v = static_cast<double>(*p);
        finite = finite && is_finite(v);
        largest = std::max(largest, std::abs(v));
        sum += v;
      },
      x);
  const double n = static_cast<double>(x.count());
  if (!finite) return {1, sum / n, not_a_number<double>()};

  const double shrink = largest > 0x1p500 ? 0x1p-1000 : 1;
  const double first = static_cast<double>(*x.at(0, c, 0)) * shrink;
  double d = 0;
  for_each(
      c, [&](const T* p) { d += static_cast<double>(*p) * shrink - first; }, x);
  const double mean = first + d / n;
  double residue = 0, m2 = 0;
  for_each(
      c,
      [&](const T* p) {
        const double v = static_cast<double>(*p) * shrink - mean;
        residue += v;
        m2 += v * v;
      },
      x);
  return {shrink, mean + residue / n, m2 - residue * (residue / n)};
}

/// The statistics to normalize channel c with. Where a batch's inv_std is beyond a double, as when
/// values of 1e308 spread as far, it is measured again from x.
template <class T>
[[nodiscard]] Statistics statistics(const View<T>& x, Index c, double mean, double inv_std,
                                    bool of_batch) {
  if (of_batch && inv_std < 0x1p-1000) {
    const ScaledMoment scaled = moment(x, c);
    const double n = static_cast<double>(x.count());
    return {scaled.shrink, scaled.mean, 1 / std::sqrt(scaled.m2 / n)};
  }
  constexpr double shrink = 0x1p-4;  // of two values of 1e308, the difference still fits
  return {shrink, mean * shrink, inv_std / shrink};
}

/// a * b * c, overflowing or vanishing on the way only where the product itself does.
[[nodiscard]] inline double product(double a, double b, double c) {
  if (std::abs(a) > std::abs(b)) std::swap(a, b);
  if (std::abs(b) > std::abs(c)) std::swap(b, c);
  if (std::abs(a) > std::abs(b)) std::swap(a, b);
  return a * c * b;  // the smallest with the largest
}

/// gamma * x_hat + beta. By quarters, that gamma * x_hat does not overflow where beta brings it back;
/// by ldexp, since -ffast-math would cancel plain factors.
[[nodiscard]] inline double normalized(double x, const Statistics& s, double gamma, double beta) {
  const double d = x * s.shrink - s.mean;
  const double quarter = product(d, s.inv_std, std::ldexp(gamma, -2)) + std::ldexp(beta, -2);
  return std::ldexp(quarter, 2);
}

/// A result to memory. A NaN is written by its bits: Eigen's rounding to 16 bits adds to those of
/// any number, and under -ffast-math takes every one for a number.
template <class T>
void put(T* to, double v) {
  if constexpr (sizeof(T) == 2) {
    if (is_nan(v)) {
      *to = Eigen::numext::bit_cast<T>(std::uint16_t{0x7fff});
      return;
    }
  }
  *to = T(narrow<ParamOf<T>>(v));
}

template <class T>
void normalize(const View<const T>& x, const View<T>& y, Index c, const Statistics& s, double gamma,
               double beta) {
  for_each(
      c, [&](const T* px, T* py) { put(py, normalized(static_cast<double>(*px), s, gamma, beta)); },
      x, y);
}

/// sum dy and sum dy * x_hat of channel c.
template <class T>
[[nodiscard]] std::array<double, 2> gradient_sums(const View<const T>& x, const View<const T>& dy,
                                                  Index c, const Statistics& s) {
  double sum_dy = 0, sum_dy_x_hat = 0;
  for_each(
      c,
      [&](const T* px, const T* pdy) {
        const double d = static_cast<double>(*pdy);
        sum_dy += d;
        sum_dy_x_hat += d * s.x_hat(static_cast<double>(*px));
      },
      x, dy);
  return {sum_dy, sum_dy_x_hat};
}

/// dx = factor * (dy - mean_dy - x_hat * mean_dy_x_hat), with factor = gamma * inv_std.
template <class T>
void input_gradient(const View<const T>& x, const View<const T>& dy, const View<T>& dx, Index c,
                    const Statistics& s, double gamma, double mean_dy, double mean_dy_x_hat) {
  for_each(
      c,
      [&](const T* px, const T* pdy, T* pdx) {
        // Given statistics leave no x in dx, and no infinity of it.
        const double x_part =
            mean_dy_x_hat == 0 ? 0 : s.x_hat(static_cast<double>(*px)) * mean_dy_x_hat;
        const double d = static_cast<double>(*pdy) - mean_dy - x_part;
        put(pdx, product(gamma, d, s.inv_std) * s.shrink);
      },
      x, dy, dx);
}

}  // namespace batchnorm::detail::exact
