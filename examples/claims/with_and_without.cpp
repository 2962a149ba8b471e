// SPDX-License-Identifier: MIT
#include "with_and_without.hpp"

#include <cstdio>
#include <iterator>

#include "curves.hpp"

namespace claims {

Overfitting overfitting(const Study& study) {
  Recipe recipe;
  recipe.train_images = 1000;
  recipe.test_images = 2000;
  recipe.batch = 50;
  recipe.steps = study.steps(600);
  recipe.schedule = Schedule::linear;
  return {recipe,
          "Two hidden layers of 128 ReLUs, 1000 training images, batch 50, learning rate "
          "0.1 sinking to 0, " +
              std::to_string(recipe.steps) + " steps"};
}

Compared with_and_without(const Study& study, const std::string& label, const Recipe& recipe,
                          const std::vector<double>& values,
                          const std::function<void(Recipe&, double)>& vary) {
  std::vector<Recipe> recipes;
  for (const bool batch_norm : {true, false}) {
    for (const double value : values) {
      recipes.push_back(recipe);
      recipes.back().network.batch_norm = batch_norm;
      char name[64];
      std::snprintf(name, sizeof name, "%g %s", value, batch_norm ? "with BN" : "without");
      recipes.back().name = name;
      vary(recipes.back(), value);
    }
  }
  Outcomes all = study.run(label, recipes);
  const auto middle = all.begin() + static_cast<std::ptrdiff_t>(values.size());
  return {{std::make_move_iterator(all.begin()), std::make_move_iterator(middle)},
          {std::make_move_iterator(middle), std::make_move_iterator(all.end())}};
}

plot::Chart chart_over(const std::vector<double>& values, const Compared& compared, Measure measure,
                       const std::string& heading, const std::string& x_label, plot::Axis x_axis) {
  plot::Chart chart;
  chart.heading = heading;
  chart.x_label = x_label;
  chart.x_axis = x_axis;
  chart.series = {measure_curve("with BN", {0, false}, values, compared.with, measure),
                  measure_curve("without BN", {1, false}, values, compared.without, measure)};
  return chart;
}

}  // namespace claims
