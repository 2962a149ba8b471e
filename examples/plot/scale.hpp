// SPDX-License-Identifier: MIT
// What an axis shows.
#pragma once

#include <string>
#include <vector>

namespace plot {

/// An interval with ticks: multiples of the step. On a logarithmic scale the ticks are powers of
/// the step; there step 0 stands for 1, 2 and 5 times the powers of ten.
struct Scale {
  double low = 0.0;
  double high = 1.0;
  double step = 0.2;
  bool logarithmic = false;

  /// Covers [low, high] with at most seven ticks, which are at least least_step apart.
  [[nodiscard]] static Scale around(double low, double high, double least_step = 0.0);

  /// From low to high, both positive, exactly; at most ten ticks between, as a rule.
  [[nodiscard]] static Scale powers(double low, double high);

  /// 0 at low, 1 at high; values outside count as the nearer end.
  [[nodiscard]] double position(double value) const;

  [[nodiscard]] std::vector<double> ticks() const;
  [[nodiscard]] std::string label(double tick) const;
};

}  // namespace plot
