// SPDX-License-Identifier: MIT
// The initial weights times a factor: those before batch norms, and all.
#include "claims.hpp"
#include "with_and_without.hpp"

namespace claims {

Report initial_scale(const Study& study) {
  const std::vector<double> scales{0.01, 0.1, 1.0, 10.0, 100.0};
  Recipe recipe;
  recipe.network.kind = Kind::lenet;
  recipe.train_images = 3200;
  recipe.batch = 32;
  recipe.steps = study.steps(80);
  const auto hidden =
      with_and_without(study, "scale of hidden weights", recipe, scales,
                       [](Recipe& varied, double scale) { varied.network.hidden_scale = scale; });
  const auto all = with_and_without(study, "scale of all weights", recipe, scales,
                                    [](Recipe& varied, double scale) {
                                      varied.network.hidden_scale = scale;
                                      varied.network.last_scale = scale;
                                    });

  Report report;
  report.setup = "LeNet with ReLU, batch 32, learning rate 0.1, loss after " +
                 std::to_string(recipe.steps) + " steps; weights times 0.01 to 100";
  const auto compare = [&](const std::string& which, const Compared& compared) {
    report.findings.push_back(below("highest minus lowest training loss over the scales, " + which,
                                    {"with BN", combined(compared.with, final_loss, range)},
                                    {"without", combined(compared.without, final_loss, range)}));
    report.charts.push_back(chart_over(scales, compared, final_loss, "Training loss, " + which,
                                       "scale of the initial weights", plot::Axis::logarithmic));
  };
  compare("weights before batch norms", hidden);
  compare("all weights", all);
  return report;
}

}  // namespace claims
