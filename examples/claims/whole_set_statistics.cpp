// SPDX-License-Identifier: MIT
// Steps that normalize with statistics of the whole training set, renewed every k steps, and take
// them as constants in backward, against mini-batches.
#include "claims.hpp"
#include "curves.hpp"

namespace claims {

Report whole_set_statistics(const Study& study) {
  const std::vector<int> periods{1, 5, 25};
  Recipe recipe;
  recipe.name = "mini-batches";
  recipe.train_images = 1000;
  recipe.test_images = 2000;
  recipe.steps = study.steps(200);
  recipe.schedule = Schedule::linear;
  std::vector<Recipe> recipes{recipe};
  recipe.network.statistics = Statistics::whole_set;
  for (const int period : periods) {
    recipe.renew_every = period;
    recipe.name = "k = " + std::to_string(period);
    recipes.push_back(recipe);
  }
  const auto outcomes = study.run("whole-set statistics", recipes);

  Report report;
  report.setup =
      "Two hidden layers of 128 ReLUs, 1000 images, batch 64, learning rate "
      "0.1 sinking to 0, " +
      std::to_string(recipe.steps) + " steps";
  plot::Chart chart;
  chart.heading = "Training loss";
  chart.x_label = "step";
  chart.series = {loss_curve("statistics of the mini-batch", {0, false}, outcomes[0])};
  for (std::size_t i = 1; i < recipes.size(); ++i) {
    const std::string every =
        periods[i - 1] == 1 ? "step" : std::to_string(periods[i - 1]) + " steps";
    report.findings.push_back(below("test accuracy: statistics of the whole set, renewed every " +
                                        every + ", lose less than 0.02",
                                    minus(side("mini-batches", outcomes[0], test_accuracy),
                                          side("whole set", outcomes[i], test_accuracy)),
                                    0.02));
    chart.series.push_back(loss_curve("statistics of the whole set, renewed every " + every,
                                      {static_cast<int>(i), false}, outcomes[i]));
  }
  report.charts.push_back(chart);
  return report;
}

}  // namespace claims
