// SPDX-License-Identifier: MIT
// Curves over the means of all seeds, in bands of their spread.
#pragma once

#include <string>
#include <vector>

#include "picture.hpp"
#include "values.hpp"

namespace claims {

struct Style {
  int colour = 0;  // by habit 0 is with batch norm, 1 without
  bool dashed = false;
};

/// values[i] are those of all seeds at x[i].
[[nodiscard]] plot::Series curve(const std::string& name, Style style, const std::vector<double>& x,
                                 const std::vector<std::vector<double>>& values);

/// The training loss over the steps, in fifty means at most.
[[nodiscard]] plot::Series loss_curve(const std::string& name, Style style,
                                      const std::vector<Outcome>& seeds);

/// measure over conditions that x names.
[[nodiscard]] plot::Series measure_curve(const std::string& name, Style style,
                                         const std::vector<double>& x,
                                         const std::vector<std::vector<Outcome>>& conditions,
                                         Measure measure);

}  // namespace claims
