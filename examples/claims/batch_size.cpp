// SPDX-License-Identifier: MIT
// The same number of images in batches of 2 to 256.
#include <algorithm>

#include "claims.hpp"
#include "with_and_without.hpp"

namespace claims {

Report batch_size(const Study& study) {
  const std::vector<double> sizes{2, 4, 8, 16, 64, 256};
  const int images = 64 * study.steps(100);
  Recipe recipe;
  recipe.network.width = 64;
  const auto compared =
      with_and_without(study, "batch sizes", recipe, sizes, [images](Recipe& varied, double size) {
        varied.batch = static_cast<std::size_t>(size);
        varied.steps = std::max(1, images / static_cast<int>(size));
        varied.rate = 0.1 * size / 64.0;
      });
  const auto& [with, without] = compared;

  Report report;
  report.setup = "Two hidden layers of 64 ReLUs, " + std::to_string(images) +
                 " images, learning rate 0.1 * batch / 64";
  report.findings.push_back(above("highest minus lowest test accuracy over the sizes",
                                  {"with BN", combined(with, test_accuracy, range)},
                                  {"without", combined(without, test_accuracy, range)}));
  report.findings.push_back(above("increase of the test accuracy by batches of 64 instead of 2",
                                  gain("with BN", with[0], with[4], test_accuracy),
                                  gain("without", without[0], without[4], test_accuracy)));
  const std::string x_label = "images in a batch";
  report.charts = {
      chart_over(sizes, compared, test_accuracy, "Test accuracy", x_label, plot::Axis::logarithmic),
      chart_over(sizes, compared, final_loss, "Training loss", x_label, plot::Axis::logarithmic)};
  return report;
}

}  // namespace claims
