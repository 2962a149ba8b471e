// SPDX-License-Identifier: MIT
#pragma once

#include "batchnorm/detail/scalar.hpp"

// The four formulas of batch normalization, as the loops compute them. V is a number or a vector of
// numbers. A formula takes its inputs (x; or x and dy), then the channel's coefficients, and last
// where its result goes. The slow path uses Normalize and Gradients too, in a wider type.
namespace batchnorm::detail {

/// What the loops must know of a formula: does it sum, or map? How many inputs and coefficients has
/// it? In which type is it computed, for parameters of type A?
template <bool sums, int number_of_inputs, int number_of_coefficients>
struct FormulaOf {
  static constexpr bool is_sum = sums;
  static constexpr int inputs = number_of_inputs, coefficients = number_of_coefficients;
  template <class A>
  using Number = A;
};

/// What one value adds to two sums: first, and first * factor.
template <class V>
struct Terms {
  V first, factor;
};

/// d and d^2 with d = x - v0, where v0 is one of the channel's values. In double for every type of
/// x: where gamma is large, the mean must be far more accurate than a float.
struct Moments : FormulaOf<true, 1, 1> {
  template <class>
  using Number = double;

  template <class V>
  static BATCHNORM_INLINE void of(const V& x, const V& v0, Terms<V>& sums) {
    const V d = x - v0;
    sums.first = d;
    sums.factor = d;
  }
};

/// dy and dy * x_hat with x_hat = (x - mean) * inv_std, where inv_std is enlarged, and so the sum
struct Gradients : FormulaOf<true, 2, 2> {
  template <class V>
  static BATCHNORM_INLINE void of(const V& x, const V& dy, const V& mean, const V& inv_std,
                                  Terms<V>& sums) {
    const V x_hat = (x - mean) * inv_std;
    sums.first = dy;
    sums.factor = x_hat;
  }
};

/// y = (x - mean) * scale + shift
struct Normalize : FormulaOf<false, 1, 3> {
  template <class V>
  static BATCHNORM_INLINE void of(const V& x, const V& mean, const V& scale, const V& shift, V& y) {
    y = (x - mean) * scale + shift;
  }
};

/// dx = (dy - mean_dy) * scale + ((x - mean) * slope + shift)
struct InputGradient : FormulaOf<false, 2, 5> {
  template <class V>
  static BATCHNORM_INLINE void of(const V& x, const V& dy, const V& mean, const V& scale,
                                  const V& shift, const V& mean_dy, const V& slope, V& dx) {
    dx = (dy - mean_dy) * scale + ((x - mean) * slope + shift);
  }
};

}  // namespace batchnorm::detail
