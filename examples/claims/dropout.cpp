// SPDX-License-Identifier: MIT
// Dropout of 0 to 50 % on a small training set, where it has something to do.
#include "claims.hpp"
#include "with_and_without.hpp"

namespace claims {

Report dropout(const Study& study) {
  const std::vector<double> shares{0.0, 0.05, 0.1, 0.4, 0.5};
  const auto [recipe, setup] = overfitting(study);
  const auto compared =
      with_and_without(study, "dropout", recipe, shares,
                       [](Recipe& varied, double share) { varied.network.dropout = share; });
  const auto& [with, without] = compared;

  Report report;
  report.setup = setup;
  report.findings.push_back(below("decrease of the test loss by dropout of 50 %",
                                  gain("with BN", with.back(), with.front(), test_loss),
                                  gain("without", without.back(), without.front(), test_loss)));
  report.findings.push_back(
      below("test accuracy: BN alone loses less than 0.01 against dropout of 50 % alone",
            minus(side("dropout", without.back(), test_accuracy),
                  side("BN", with.front(), test_accuracy)),
            0.01));
  const std::string x_label = "share of the hidden values dropped";
  report.charts = {chart_over(shares, compared, test_accuracy, "Test accuracy", x_label),
                   chart_over(shares, compared, test_loss, "Test loss", x_label)};
  return report;
}

}  // namespace claims
