// SPDX-License-Identifier: MIT
#include <cmath>

#include "printed.hpp"
#include "support/catch.hpp"

using testing::require_near;

TEST_CASE("in training a bias before batch norm does nothing", "[bias]") {
  const testing::Printed out("bias");
  require_near(out.row("b"), {0.5, -1, 20}, 0);
  require_near(out.row("b moves y by at most"), {0, 0, 0}, 0);
  require_near(out.row("|gradient of b|, |sum of dx|"), {0, 0, 0}, 0);
  for (const double dbeta : out.row("gradient of beta, sum of dy")) REQUIRE(std::abs(dbeta) > 1);
}

TEST_CASE("in eval mode it acts until the running mean has caught up", "[bias]") {
  const testing::Printed out("bias");
  const auto at_once = out.row("k = 0 b moves y by");
  REQUIRE(at_once.size() == 3);
  // Uniform inputs in [-1, 1) and weights: h has a variance of about 4 / 9, so that gamma * b / 0.67
  // is about 0.75, -3, 90; 32 samples may be off by a half.
  REQUIRE(at_once[0] == Approx(0.75).epsilon(0.5));
  REQUIRE(at_once[1] == Approx(-3).epsilon(0.5));
  REQUIRE(at_once[2] == Approx(90).epsilon(0.5));
  for (const int k : {1, 10, 100}) {
    std::vector<double> left;
    for (const double shift : at_once) left.push_back(std::pow(0.9, k) * shift);
    require_near(out.row("k = " + std::to_string(k) + " b moves y by"), left,
                 1.5e-4);  // rounded twice
  }
}

TEST_CASE("beta can replace the bias", "[bias]") {
  const testing::Printed out("bias");
  require_near(out.row("y in eval mode differs by at most"), {0, 0, 0}, 0);
  const auto at_once = out.row("k = 0 b moves y by"), beta = out.row("new beta");
  REQUIRE(at_once.size() == 3);
  require_near(beta, {0.1 + at_once[0], 0.2 + at_once[1], 0.3 + at_once[2]}, 1.5e-4);
  REQUIRE(out.verdict().find("does nothing in training") != std::string::npos);
  REQUIRE(out.verdict().find("acts until the running mean has caught up") != std::string::npos);
  REQUIRE(out.verdict().find("beta can replace it") != std::string::npos);
}
