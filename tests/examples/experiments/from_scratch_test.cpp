// SPDX-License-Identifier: MIT
#include "printed.hpp"
#include "support/catch.hpp"

using testing::require_near;

TEST_CASE("batch_norm from scratch gives what is computed by hand", "[from_scratch]") {
  const testing::Printed out("from_scratch");
  // Mean 3, variance 3.5: (x - 3) / sqrt(3.5 + 1e-5); then 0.1 * 3 and 0.9 * 1 + 0.1 * 3.5.
  require_near(out.row("training"), {-1.0690, -0.5345, 0, 1.6036, 0.30, 1.25});
  // (x - 0.3) / sqrt(1.25 + 1e-5)
  require_near(out.row("prediction"), {0.6261, 1.5205, 2.4149, 5.0982, 0.30, 1.25});
}

TEST_CASE("batch_norm from scratch agrees with the layer", "[from_scratch]") {
  const testing::Printed out("from_scratch");
  for (const char* shape : {"(64, 5)", "(8, 3, 7, 6)"}) {
    for (int batch = 0; batch < 4; ++batch) {
      const bool training = batch < 3;
      const auto row = out.row(shape + std::string(training ? " training" : " prediction"),
                               training ? batch : 0);
      REQUIRE(row.size() == 6);
      require_near({row[0], row[2], row[4]}, {row[1], row[3], row[5]}, 0);
    }
  }
  REQUIRE(out.verdict() ==
          "Verdict: all numbers of the function and of the layer agree within 1e-12.");
}
