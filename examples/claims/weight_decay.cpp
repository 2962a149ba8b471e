// SPDX-License-Identifier: MIT
// L2 penalties d and d / 5, L1, and neither, on a small training set.
#include "claims.hpp"
#include "with_and_without.hpp"

namespace claims {

Report weight_decay(const Study& study) {
  constexpr double kDecay = 0.01;
  const std::vector<double> decays{0.0, kDecay / 25.0, kDecay / 5.0, kDecay};
  const auto [recipe, setup] = overfitting(study);
  const auto compared = with_and_without(study, "L2", recipe, decays,
                                         [](Recipe& varied, double decay) { varied.l2 = decay; });
  const auto l1 = with_and_without(study, "L1", recipe, {1e-3},
                                   [](Recipe& varied, double decay) { varied.l1 = decay; });
  const auto& [with, without] = compared;

  Report report;
  report.setup = setup + "; L2 of d = 0.01, L1 of 0.001";
  report.findings.push_back(below("decrease of the test loss by L2 of d instead of d / 5",
                                  gain("with BN", with[3], with[2], test_loss),
                                  gain("without", without[3], without[2], test_loss)));
  report.findings.push_back(
      above("BN regularizes by itself: it lowers test loss minus training loss",
            minus(side("neither", without[0], loss_gap), side("BN", with[0], loss_gap)), 0.0));
  report.findings.push_back(
      above("L2 regularizes: it lowers test loss minus training loss",
            minus(side("neither", without[0], loss_gap), side("L2", without[3], loss_gap)), 0.0));
  report.findings.push_back(
      above("BN cannot replace L2: beside BN, L2 lowers the test loss",
            minus(side("BN", with[0], test_loss), side("both", with[3], test_loss)), 0.0));
  report.findings.push_back(
      above("BN cannot replace L1: beside BN, L1 lowers the test loss",
            minus(side("BN", with[0], test_loss), side("both", l1.with[0], test_loss)), 0.0));
  report.charts = {
      chart_over(decays, compared, test_loss, "Test loss", "L2 decay"),
      chart_over(decays, compared, loss_gap, "Test loss minus training loss", "L2 decay")};
  return report;
}

}  // namespace claims
