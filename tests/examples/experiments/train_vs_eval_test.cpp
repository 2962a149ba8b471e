// SPDX-License-Identifier: MIT
#include <cmath>

#include "printed.hpp"
#include "support/catch.hpp"

using testing::require_near;

TEST_CASE("late in training the two modes differ by sqrt(2)", "[train_vs_eval]") {
  const testing::Printed out("train_vs_eval");
  // Loss, y in training, y in eval, ratio; PyTorch 1.13 in double from the same start.
  // After one step running_var is 0.9 + 0.1 * 2 times the batch's population variance of 6.25e8.
  REQUIRE(out.row("1").at(5) == Approx(std::sqrt(0.2)).epsilon(1e-5));
  require_near(out.row("300"), {1.16e-3, -3.7037, 3.7037, -2.6189, 2.6189, std::sqrt(2.0)});
  require_near(out.row("5000"), {6.5e-6, -6.3165, 6.3165, -4.4665, 4.4665, std::sqrt(2.0)});
  require_near({out.row("published, another start").at(4)}, {std::sqrt(2.0)});
}

TEST_CASE("statistics of the population variance make both modes agree", "[train_vs_eval]") {
  const testing::Printed out("train_vs_eval");
  const auto population = out.row("population variance, / n");
  REQUIRE(population.size() == 5);
  require_near({population[0], population[1], population[4]}, {population[2], population[3], 1},
               1e-5);
  const auto unbiased = out.row("unbiased variance, / (n - 1)");
  REQUIRE(unbiased.size() == 5);
  require_near({unbiased[4]}, {std::sqrt(2.0)}, 1e-5);
}

TEST_CASE("the factor is sqrt(n / (n - 1))", "[train_vs_eval]") {
  const testing::Printed out("train_vs_eval");
  for (const int n : {2, 4, 16, 64, 256, 1024}) {
    const auto row = out.row("n = " + std::to_string(n));
    REQUIRE(row.size() == 6);
    const double factor = std::sqrt(n / (n - 1.0));
    require_near({row[0], row[5]}, {factor, factor}, 1e-5);
  }
}

TEST_CASE("unseen samples are told apart in eval mode only", "[train_vs_eval]") {
  const testing::Printed out("train_vs_eval");
  // Normalized to -1 and 1, as the seen ones; by the seen ones' statistics 0 and 3, times gamma.
  const auto seen = out.row("seen 100000 and 200000");
  const auto unseen = out.row("unseen 150000 and 300000");
  REQUIRE(seen.size() == 4);
  require_near(unseen, {seen[0], seen[1], 0.5, 1});
  REQUIRE(out.verdict().find("the two modes differ by the factor sqrt(2)") != std::string::npos);
  REQUIRE(out.verdict().find("they agree") != std::string::npos);
}
