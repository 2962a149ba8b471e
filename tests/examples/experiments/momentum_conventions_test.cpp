// SPDX-License-Identifier: MIT
#include <cmath>

#include "printed.hpp"
#include "support/catch.hpp"

namespace {

/// The weight of a new batch, running mean and variance after 1, 10 and 100 batches of mean 10 and
/// the given variance, and the batches until (1 - weight)^k < 5 %.
std::vector<double> by_hand(double weight, double variance, int batches) {
  std::vector<double> row{weight};
  for (const int k : {1, 10, 100}) {
    const double left = std::pow(1 - weight, k);  // of the 0 and 1 that it started from
    row.push_back((1 - left) * 10);
    row.push_back(left + (1 - left) * variance);
  }
  row.push_back(batches);
  return row;
}

}  // namespace

TEST_CASE("the presets' running statistics are as computed by hand", "[momentum_conventions]") {
  const testing::Printed out("momentum_conventions");
  const double population = 4, unbiased = 16.0 / 3;
  // ln 0.05 / ln 0.9 = 28.4, ln 0.05 / ln 0.99 = 298.07
  testing::require_near(out.row("PyTorch, momentum 0.1"), by_hand(0.1, unbiased, 29));
  testing::require_near(out.row("Keras, momentum 0.99"), by_hand(0.01, population, 299));
  testing::require_near(out.row("Flax, momentum 0.99"), by_hand(0.01, population, 299));
  testing::require_near(out.row("ONNX, momentum 0.9"), by_hand(0.1, population, 29));
  testing::require_near(out.row("PyTorch, momentum 0.01"), by_hand(0.01, unbiased, 299));
  testing::require_near(out.row("PyTorch, momentum 0.99"), by_hand(0.99, unbiased, 1));
  REQUIRE(out.verdict().find("PyTorch's 0.1 is ONNX's 0.9, PyTorch's 0.01 is Keras's") !=
          std::string::npos);
}
