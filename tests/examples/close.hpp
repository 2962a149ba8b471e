// SPDX-License-Identifier: MIT
#pragma once

#include <cmath>

namespace testing {

/// given within a relative error of expected.
[[nodiscard]] inline bool close(double given, double expected, double relative) {
  return std::abs(given - expected) <= relative * std::abs(expected);
}

}  // namespace testing
