// SPDX-License-Identifier: MIT
// Derivatives by central differences, to compare gradients with.
#pragma once

#include <algorithm>
#include <cmath>
#include <functional>

namespace testing {

/// The derivative of f() by v, which keeps its value. The error is about step^2 = 1e-10 by the
/// third derivative, and 1e-14 / step = 1e-9 by rounding, for sums of some hundred terms of size 1.
inline double derivative(double& v, const std::function<double()>& f, double step = 1e-5) {
  const double here = v;
  v = here + step;
  const double above = f();
  v = here - step;
  const double below = f();
  v = here;
  return (above - below) / (2 * step);
}
inline bool near(double got, double expected) {
  return std::abs(got - expected) <= 1e-7 * std::max(1.0, std::abs(expected));
}

}  // namespace testing
