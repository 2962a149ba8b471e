// SPDX-License-Identifier: MIT
#pragma once

#include "batchnorm/detail/scalar.hpp"

namespace batchnorm::detail {

/// Mean and sum of squared deviations of `count` values.
struct Moment {
  double count = 0, mean = 0, m2 = 0;
};

/// mean, m2 of two sets of values together, of which the second makes up `share` = b.n / (a.n +
/// b.n) (Chan, Golub and LeVeque, 1979):
///   delta = b.mean - a.mean,  mean = a.mean + delta * share,  m2 = a.m2 + b.m2 + delta^2 * a.n *
///   share
inline void merge(double a_n, double share, double b_mean, double b_m2, double& mean, double& m2) {
  const double delta = b_mean - mean;
  mean += delta * share;
  m2 += b_m2 + delta * delta * (a_n * share);
}

/// What a step works on: channels [c0, c1), of which blocks [b0, b1), in slab s.
struct Part {
  Index c0, c1, s, b0, b1;

  [[nodiscard]] Part only(Index b) const { return {c0, c1, s, b, b + 1}; }
};

/// Numbers per channel, rounded for the kernels:
///   x_hat = (x - mean) * inv_std              y = (x - mean) * scale + shift
///   dx = (dy - mean_dy) * scale + ((x - mean) * slope + shift)
/// Subtracting before scaling keeps the digits that x * scale + shift loses at a large mean; what
/// rounding takes from mean and mean_dy is made good in shift.
template <class A>
struct Coefficients {
  A *mean, *inv_std, *scale, *shift, *mean_dy, *slope;
};

}  // namespace batchnorm::detail
