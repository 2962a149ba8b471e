// SPDX-License-Identifier: MIT
// The loss after a fixed number of steps over learning rates.
#include <cmath>

#include "claims.hpp"
#include "curves.hpp"
#include "with_and_without.hpp"

namespace claims {
namespace {

constexpr double kLearned = 1.0;  // a loss below this: guessing costs 2.3

/// log10 of the highest rate that ends below kLearned, for each seed; of the lowest rate where
/// none does.
std::vector<double> highest_borne(const std::vector<double>& rates, const Outcomes& outcomes) {
  std::vector<double> result(outcomes.front().size(), std::log10(rates.front()));
  for (std::size_t i = 0; i < rates.size(); ++i) {
    for (std::size_t seed = 0; seed < result.size(); ++seed) {
      if (outcomes[i][seed].final_loss() < kLearned) result[seed] = std::log10(rates[i]);
    }
  }
  return result;
}

}  // namespace

Report learning_rate(const Study& study) {
  const std::vector<double> rates{0.001, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0};
  Recipe recipe;
  recipe.network.kind = Kind::lenet;
  recipe.train_images = 3200;
  recipe.batch = 32;
  recipe.steps = study.steps(80);
  const auto compared = with_and_without(study, "learning rates", recipe, rates,
                                         [](Recipe& varied, double rate) { varied.rate = rate; });
  const auto& [with, without] = compared;

  Report report;
  report.setup = "LeNet with ReLU, batch 32, loss after " + std::to_string(recipe.steps) + " steps";
  report.findings.push_back(above("log10 of the highest learning rate that ends at a loss below 1",
                                  {"with BN", highest_borne(rates, with)},
                                  {"without", highest_borne(rates, without)}));
  report.findings.push_back(below("training loss at the best learning rate of each",
                                  {"with BN", combined(with, final_loss, lowest)},
                                  {"without", combined(without, final_loss, lowest)}));
  report.charts.push_back(chart_over(rates, compared, final_loss, "Training loss", "learning rate",
                                     plot::Axis::logarithmic));
  plot::Chart steps;
  steps.heading = "Training loss at two rates";
  steps.x_label = "step";
  steps.series = {loss_curve("rate 0.1, with BN", {0, true}, with[3]),
                  loss_curve("rate 1, with BN", {0, false}, with[5]),
                  loss_curve("rate 0.1, without BN", {1, true}, without[3]),
                  loss_curve("rate 1, without BN", {1, false}, without[5])};
  report.charts.push_back(steps);
  return report;
}

}  // namespace claims
