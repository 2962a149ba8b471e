// SPDX-License-Identifier: MIT
#include "printed.hpp"
#include "support/catch.hpp"

using testing::require_near;

TEST_CASE("running statistics move step by step as computed by hand", "[running_statistics]") {
  const testing::Printed out("running_statistics");
  // Mean 150000, unbiased variance 5e9, a tenth of which comes in at each step.
  require_near(out.row("none"), {0, 1, 99999.5, 199999.0});
  require_near(out.row("1"), {15000, 5.000e8, -1, 1, 3.8013, 8.2735, 3.8013, 8.2735});
  require_near(out.row("2"), {28500, 9.500e8, -1, 1, 2.3198, 5.5642, 2.3198, 5.5642});
}

TEST_CASE("momentum 0 leaves the running statistics at 0 and 1", "[running_statistics]") {
  const testing::Printed out("running_statistics");
  require_near(out.row("running mean"), {0, 1, 1});  // mean, variance, counter
  require_near(out.row("y in training"), {1, 5});    // 2 * -1 + 3, 2 * 1 + 3
  // 2 * 100000 / sqrt(1 + 1e-5) + 3 = 200002.000, 2 * 200000 / sqrt(1 + 1e-5) + 3 = 400001.000
  require_near(out.row("y in eval"), {200002, 400001});
}

TEST_CASE("cumulative() averages as the paper does, a moving average does not",
          "[running_statistics]") {
  const testing::Printed out("running_statistics");
  // Means 2, 7, 6; variances 1, 4, 16; m / (m - 1) = 2.
  require_near(out.row("the paper's Algorithm 2"), {5, 14});
  for (const char* way : {"cumulative()", "cumulative(), reversed"}) {
    require_near(out.row(way, 0), {1, 5, 14});
    require_near(out.row(way, 1), {100, 5, 14});
  }
  // One pass: 0.081 * 2 + 0.09 * 7 + 0.1 * 6, 0.729 * 1 + 0.081 * 2 + 0.09 * 8 + 0.1 * 32.
  require_near(out.row("momentum 0.1", 0), {1, 1.3920, 4.8110});
  require_near(out.row("momentum 0.1, reversed", 0), {1, 1.3160, 4.2410});
  // Many: without what it started from, 0 and 1, divided by the weights' sum 0.271.
  require_near(out.row("momentum 0.1", 1), {100, 1.392 / 0.271, 4.082 / 0.271});
  require_near(out.row("momentum 0.1, reversed", 1), {100, 1.316 / 0.271, 3.512 / 0.271});
  require_near(out.row("momentum 0", 1), {100, 0, 1});
  REQUIRE(out.verdict().find("momentum 0 is the paper's batch norm is wrong") != std::string::npos);
  REQUIRE(out.verdict().find("the paper's averages are cumulative(), not") != std::string::npos);
}
