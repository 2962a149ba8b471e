// SPDX-License-Identifier: MIT
#include "printed.hpp"
#include "support/catch.hpp"

using testing::require_near;
using testing::require_within;

TEST_CASE("with inputs 1 and 2e13 the loss falls with batch norm alone", "[extreme_inputs]") {
  const testing::Printed out("extreme_inputs");
  // Lowest and highest first loss, lowest and highest last loss, learned of 20. PyTorch 1.13 over
  // eight seeds: 1.0 without BN and in eval mode, 6.5e-6 to 3.4e-5 with it.
  for (const char* network : {"1, 2e+13 no BN", "1, 2e+13 BN left in eval mode"}) {
    const auto row = out.row(network);
    REQUIRE(row.size() == 6);
    require_near({row[2], row[3], row[4], row[5]}, {1, 1, 0, 20}, 0);
  }
  const auto row = out.row("1, 2e+13 BN");
  REQUIRE(row.size() == 6);
  require_within({row[2], row[3]}, 6.4e-6, 3.5e-5);
  require_near({row[4], row[5]}, {20, 20}, 0);
  REQUIRE(out.verdict().find("it does not fall is wrong") != std::string::npos);
}

TEST_CASE("with inputs 1 and 2 every network learns", "[extreme_inputs]") {
  const testing::Printed out("extreme_inputs");
  for (const char* network : {"1, 2 no BN", "1, 2 BN", "1, 2 BN left in eval mode"}) {
    const auto row = out.row(network);
    REQUIRE(row.size() == 6);
    require_near({row[4], row[5]}, {20, 20}, 0);
  }
  REQUIRE(out.row("1, 2 BN").at(3) < 1e-4);
}

TEST_CASE("a published start ends where it does in PyTorch", "[extreme_inputs]") {
  const testing::Printed out("extreme_inputs");
  require_near(out.row("1, 2e+13, BN, from w = -0.00748682, b = 0.53644359:"), {3.4e-5},
               0.05 * 3.4e-5);
}

TEST_CASE("extreme floats are normalized", "[extreme_inputs]") {
  const testing::Printed out("extreme_inputs");
  require_near(out.row("x = 2e+17"), {-1, 1, -1, 1}, 1e-6);
  require_near(out.row("x = 3e+19"), {-1, 1, 0, 0}, 1e-6);  // the last two are PyTorch's
  require_near(out.row("x = 3.4e+38"), {-1, 1, 0, 0}, 1e-6);
}
