// SPDX-License-Identifier: MIT
// Local response normalization, and random shifts and flips, each on and off.
#include "claims.hpp"
#include "curves.hpp"
#include "with_and_without.hpp"

namespace claims {
namespace {

/// The training loss under a condition, with the name `on`, and under condition 0.
plot::Chart loss_chart(const std::string& heading, const Compared& compared, std::size_t condition,
                       const std::string& on, const std::string& off) {
  const auto& [with, without] = compared;
  plot::Chart chart;
  chart.heading = "Training loss, " + heading;
  chart.x_label = "step";
  chart.series = {loss_curve("with BN, " + on, {0, false}, with[condition]),
                  loss_curve("with BN, " + off, {0, true}, with[0]),
                  loss_curve("without BN, " + on, {1, false}, without[condition]),
                  loss_curve("without BN, " + off, {1, true}, without[0])};
  return chart;
}

}  // namespace

Report response_norm_and_distortion(const Study& study) {
  const std::vector<double> conditions{0.0, 1.0, 2.0};  // neither, response norm, distortion
  Recipe recipe;
  recipe.network.kind = Kind::small_conv;
  recipe.train_images = 500;
  recipe.test_images = 2000;
  recipe.batch = 50;
  recipe.steps = study.steps(400);
  recipe.schedule = Schedule::linear;
  const auto compared = with_and_without(study, "LRN, distortion", recipe, conditions,
                                         [](Recipe& varied, double condition) {
                                           varied.network.response_norm = condition == 1.0;
                                           varied.distort = condition == 2.0;
                                         });
  const auto& [with, without] = compared;

  Report report;
  report.setup =
      "Two convolutions, 500 images of 14 x 14, batch 50, learning rate 0.1 sinking to 0, " +
      std::to_string(recipe.steps) + " steps; LRN as in AlexNet";
  const auto accuracy = [](const std::string& name, const std::vector<Outcome>& seeds) {
    return side(name, seeds, test_accuracy);
  };
  report.findings.push_back(below("test accuracy: BN without LRN loses less than 0.01",
                                  minus(accuracy("BN and LRN", with[1]), accuracy("BN", with[0])),
                                  0.01));
  report.findings.push_back(above("test accuracy, BN instead of LRN",
                                  minus(accuracy("BN", with[0]), accuracy("LRN", without[1])),
                                  0.0));
  report.findings.push_back(below("decrease of the test loss by shifts and flips of the images",
                                  gain("with BN", with[2], with[0], test_loss),
                                  gain("without", without[2], without[0], test_loss)));
  report.charts = {loss_chart("local response normalization", compared, 1, "LRN", "no LRN"),
                   loss_chart("shifts and flips", compared, 2, "distorted", "original")};
  return report;
}

}  // namespace claims
