// SPDX-License-Identifier: MIT
// Raw pixels through a batch norm before all, against standardized ones.
#include "claims.hpp"
#include "curves.hpp"

namespace claims {

Report preprocessing(const Study& study) {
  Recipe standardized;
  standardized.name = "standardized";
  standardized.network.kind = Kind::lenet;
  standardized.network.batch_norm = false;
  standardized.test_images = 2000;
  standardized.train_images = 3200;
  standardized.batch = 32;
  standardized.steps = study.steps(300);
  standardized.schedule = Schedule::linear;
  Recipe raw = standardized;
  raw.name = "raw";
  raw.raw_pixels = true;
  Recipe first = raw;
  first.name = "raw, BN first";
  first.network.normalize_input = true;
  const auto outcomes = study.run("preprocessing", {first, standardized, raw});

  Report report;
  report.setup =
      "LeNet with ReLU, no other batch norm, batch 32, learning rate 0.1 sinking to 0, " +
      std::to_string(standardized.steps) + " steps";
  report.findings.push_back(
      below("test accuracy: raw pixels (0 to 255) through BN lose less than 0.01",
            minus(side("standardized", outcomes[1], test_accuracy),
                  side("raw with BN first", outcomes[0], test_accuracy)),
            0.01));
  report.findings.push_back(above("test accuracy of raw pixels, with BN first and without",
                                  side("raw with BN first", outcomes[0], test_accuracy),
                                  side("raw", outcomes[2], test_accuracy)));
  plot::Chart chart;
  chart.heading = "Training loss";
  chart.x_label = "step";
  chart.series = {loss_curve("raw pixels, BN first", {0, false}, outcomes[0]),
                  loss_curve("standardized pixels", {2, false}, outcomes[1]),
                  loss_curve("raw pixels", {1, false}, outcomes[2])};
  report.charts.push_back(chart);
  return report;
}

}  // namespace claims
