// SPDX-License-Identifier: MIT
#include "printed.hpp"
#include "support/catch.hpp"

using testing::require_near;

TEST_CASE("a batch of one gives beta and no gradient but beta's", "[batch_of_one]") {
  const testing::Printed out("batch_of_one");
  require_near(out.row("accept: x - mean"), {0, 0, 0}, 0);
  require_near(out.row("y"), {0.1, 0.2, 0.3}, 0);
  require_near(out.row("dx"), {0, 0, 0}, 0);
  require_near(out.row("dgamma"), {0, 0, 0}, 0);
  require_near(out.row("dbeta, which is dy"), {1, 2, 3}, 0);
  REQUIRE(
      out.verdict().find("the layers before batch norm learn nothing, and by default batch norm "
                         "refuses it") != std::string::npos);
}

TEST_CASE("use_running normalizes a batch of one by an earlier batch", "[batch_of_one]") {
  const testing::Printed out("batch_of_one");
  // Running mean 0.1, 0.2, 0.3; variance 0.9 + 0.1 * 2, 0.9 + 0.1 * 8, 0.9 + 0.1 * 18.
  // 2 * 4.9 / sqrt(1.1) + 0.1, 3 * -7.2 / sqrt(1.7) + 0.2, 4 * 999.7 / sqrt(2.7) + 0.3, less eps
  require_near(out.row("use_running: y"), {9.4439, -16.3664, 2433.8877});
  // 1 * 2 / sqrt(1.1), 2 * 3 / sqrt(1.7), 3 * 4 / sqrt(2.7)
  require_near(out.row("dx", 1), {1.9069, 4.6018, 7.3030});
}

TEST_CASE("one image trains a batch norm, and well", "[batch_of_one]") {
  const testing::Printed out("batch_of_one");
  const auto first = out.row("0"), last = out.row("1000");  // loss, pixels right, of 100
  REQUIRE(last.size() == 3);
  REQUIRE(last[0] < first.at(0) / 3);
  REQUIRE(last[1] > 95);
}
