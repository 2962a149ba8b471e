// SPDX-License-Identifier: MIT
// BatchNorm3d in a 3-D convolution over stacked images.
#include "claims.hpp"
#include "curves.hpp"
#include "with_and_without.hpp"

namespace claims {

Report volumes(const Study& study) {
  const std::vector<double> rates{0.03, 0.3, 1.0};
  Recipe recipe;
  recipe.network.kind = Kind::volume_conv;
  recipe.train_images = 2000;
  recipe.test_images = 500;
  recipe.batch = 32;
  recipe.steps = study.steps(150);
  recipe.schedule = Schedule::linear;
  const auto [with, without] = with_and_without(
      study, "volumes", recipe, rates, [](Recipe& varied, double rate) { varied.rate = rate; });

  Report report;
  report.setup =
      "Two 3-D convolutions on volumes of 4 x 14 x 14, four images of a class, batch "
      "32, rates sinking to 0, " +
      std::to_string(recipe.steps) + " steps";
  report.findings.push_back(below("training loss at the best rate of each",
                                  {"with BN3d", combined(with, final_loss, lowest)},
                                  {"without", combined(without, final_loss, lowest)}));
  report.findings.push_back(below("training loss at the rate 1",
                                  side("with BN3d", with[2], final_loss),
                                  side("without", without[2], final_loss)));
  plot::Chart chart;
  chart.heading = "Training loss at the rate 0.3";
  chart.x_label = "step";
  chart.series = {loss_curve("with BN3d", {0, false}, with[1]),
                  loss_curve("without BN3d", {1, false}, without[1])};
  report.charts.push_back(chart);
  chart.heading = "Training loss at the rate 1";
  chart.series = {loss_curve("with BN3d", {0, false}, with[2]),
                  loss_curve("without BN3d", {1, false}, without[2])};
  report.charts.push_back(chart);
  return report;
}

}  // namespace claims
