// SPDX-License-Identifier: MIT
#include "printed.hpp"
#include "support/catch.hpp"

using testing::require_near;

TEST_CASE("a line explains most of a normalized sigmoid", "[nearly_linear]") {
  const testing::Printed out("nearly_linear");
  // By quadrature in PyTorch: 0.98417, 0.93047, 0.83767; printed to three decimals.
  require_near({out.row("g = 1 R^2").at(0)}, {0.98417}, 5.1e-4);
  require_near({out.row("g = 2 R^2").at(0)}, {0.93047}, 5.1e-4);
  require_near({out.row("g = 4 R^2").at(0)}, {0.83767}, 5.1e-4);
  require_near(out.row("k = 1 R^2"), {0.98417}, 5.1e-4);  // one layer is g = 1
}

TEST_CASE("gamma and beta let the net fit what it cannot fit without", "[nearly_linear]") {
  const testing::Printed out("nearly_linear");
  const double best = out.row("without gamma and beta, the best possible R^2").at(0);
  require_near(out.row("without gamma and beta, step 1000 R^2"), {best}, 1.1e-3);
  REQUIRE(best < 0.2);
  REQUIRE(out.row("with gamma and beta, step 1000 R^2").at(0) > 0.98);
  REQUIRE(out.verdict().find("cannot fit sin(3 x), with them it can") != std::string::npos);
}
