// SPDX-License-Identifier: MIT
#include <cmath>

#include "printed.hpp"
#include "support/catch.hpp"

using testing::require_near;

// Each row: lambda of the weights, of the others, |w1|, |w2|, mean gamma, loss.

TEST_CASE("decay of gamma and beta keeps a net from learning", "[weight_decay_groups]") {
  const testing::Printed out("weight_decay_groups");
  const auto all = out.row("SGD, in the step", 0), spared = out.row("SGD, in the step", 1);
  REQUIRE(all.size() == 6);
  REQUIRE(spared.size() == 6);
  require_near({all[0], all[1], spared[0], spared[1]}, {1, 1, 1, 0}, 0);
  // 1,000 steps at rate 0.003 take (1 - 0.003)^1000 = 0.0496 of gamma where the loss hardly pulls,
  // and of w1, whose norm batch norm takes out of the loss.
  REQUIRE(all[4] == Approx(0.0496).margin(0.005));
  const double w1 = out.row("SGD, none").at(2);
  REQUIRE(spared[2] == Approx(std::pow(0.997, 1000) * w1).epsilon(0.01));
  REQUIRE(spared[4] == Approx(1).margin(0.05));
  REQUIRE(spared[5] < all[5] / 10);
}

TEST_CASE("penalty and step are the same for SGD, not for Adam", "[weight_decay_groups]") {
  const testing::Printed out("weight_decay_groups");
  require_near(out.row("SGD, penalty"), out.row("SGD, in the step", 1), 0);
  const auto step = out.row("Adam, in the step"), penalty = out.row("Adam, penalty");
  REQUIRE(step.at(2) - penalty.at(2) > 1);
  // 1,000 steps at rate 0.0001 take a tenth of w1; the penalty's go through Adam's moments.
  REQUIRE(step[2] == Approx(std::pow(0.9999, 1000) * out.row("SGD, none").at(2)).epsilon(0.01));
  REQUIRE(out.verdict().find("the same for SGD, not for Adam") != std::string::npos);
}
