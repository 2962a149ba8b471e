// SPDX-License-Identifier: MIT
// One recipe under several conditions, with batch norm and without.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "picture.hpp"
#include "study.hpp"
#include "values.hpp"

namespace claims {

/// A perceptron and few images, trained for so many steps that it overfits.
struct Overfitting {
  Recipe recipe;
  std::string setup;  // in words
};
[[nodiscard]] Overfitting overfitting(const Study& study);

struct Compared {
  Outcomes with, without;  // [condition][seed]
};

/// Calls vary(recipe, value) for each value on a copy of recipe.
[[nodiscard]] Compared with_and_without(const Study& study, const std::string& label,
                                        const Recipe& recipe, const std::vector<double>& values,
                                        const std::function<void(Recipe&, double)>& vary);

/// measure over the values, a curve with batch norm and one without.
[[nodiscard]] plot::Chart chart_over(const std::vector<double>& values, const Compared& compared,
                                     Measure measure, const std::string& heading,
                                     const std::string& x_label,
                                     plot::Axis x_axis = plot::Axis::linear);

}  // namespace claims
