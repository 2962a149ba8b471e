// SPDX-License-Identifier: MIT
// Batch normalization by its definition, for one channel: what rounding errors are measured against.
#pragma once

#include <cmath>
#include <cstddef>
#include <vector>

namespace testing {

#ifdef __SIZEOF_FLOAT128__
__extension__ using Exact = __float128;
#else
using Exact = long double;  // has 113 bits where the other is not known
#endif

template <class Real>
Real size_of(Real v) {
  return v < 0 ? -v : v;
}

/// Square root of a long double's precision, and twice that by a step of Newton's.
template <class Real>
Real root(Real v) {
  const Real first = std::sqrt(static_cast<long double>(v));
  return first == 0 ? first : (first + v / first) / 2;
}

/// Real is Exact, or long double, whose 64 bits are many times faster and enough for float.
/// x_hat = (x - mean) / sqrt(var + eps), y = gamma * x_hat + beta,
/// dx = gamma / sqrt(var + eps) * (dy - sum dy / n - x_hat * sum(dy * x_hat) / n).
template <class Real>
class ExactChannel {
 public:
  template <class Scalar, class Param>
  ExactChannel(const std::vector<Scalar>& x, const std::vector<Scalar>& dy, Param gamma, Param beta,
               double eps)
      : gamma_(exact(gamma)), beta_(exact(beta)), n_(static_cast<Real>(x.size())) {
    for (const Scalar& v : x) mean += exact(v);
    mean /= n_;
    Real rest = 0;  // of the sum, by its roundings
    for (const Scalar& v : x) rest += exact(v) - mean;
    mean += rest / n_;
    for (const Scalar& v : x) var += (exact(v) - mean) * (exact(v) - mean);
    var /= n_;
    inv_std = 1 / root(var + static_cast<Real>(eps));
    for (std::size_t i = 0; i < x.size(); ++i) {
      const Real d = exact(dy[i]), product = d * x_hat(x[i]);
      sum_dy += d;
      size_dy += size_of(d);
      sum_dy_x_hat += product;
      size_dy_x_hat += size_of(product);
    }
  }

  Real mean = 0, var = 0, inv_std = 0;
  Real sum_dy = 0, size_dy = 0;              // sums of dy and |dy|
  Real sum_dy_x_hat = 0, size_dy_x_hat = 0;  // sums of dy * x_hat and |dy * x_hat|

  template <class Scalar>
  Real x_hat(Scalar x) const {
    return (exact(x) - mean) * inv_std;
  }
  template <class Scalar>
  Real y(Scalar x) const {
    return gamma_ * x_hat(x) + beta_;
  }
  template <class Scalar>
  Real dx(Scalar x, Scalar dy) const {
    return gamma_ * inv_std * (exact(dy) - sum_dy / n_ - x_hat(x) * (sum_dy_x_hat / n_));
  }

  /// What errors of y and dx are relative to: the sizes of the terms that they are made of.
  template <class Scalar>
  Real size_of_y(Scalar x) const {
    Real size = 1;
    for (const Real term : {gamma_ * x_hat(x), beta_}) {
      if (size_of(term) > size) size = size_of(term);
    }
    return size;
  }
  template <class Scalar>
  Real size_of_dx(Scalar x, Scalar dy) const {
    return size_of(gamma_ * inv_std) *
           (size_of(exact(dy)) + size_dy / n_ + size_of(x_hat(x)) * (size_dy_x_hat / n_));
  }

 private:
  static Real exact(double v) { return v; }
  template <class Narrow>
  static Real exact(const Narrow& v) {
    return static_cast<Real>(static_cast<double>(v));
  }

  Real gamma_, beta_, n_;
};

}  // namespace testing
