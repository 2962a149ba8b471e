// SPDX-License-Identifier: MIT
#include <algorithm>
#include <numeric>

#include "../support/catch.hpp"
#include "close.hpp"
#include "init.hpp"
#include "random.hpp"

TEST_CASE("the generator gives splitmix64's published numbers", "[nn]") {
  nn::Random random(0);
  REQUIRE(random.next() == 0xe220a8397b1dcdafU);
  REQUIRE(random.next() == 0x6e789e6aa1b965f4U);
  REQUIRE(random.next() == 0x06c45d188009454fU);
}

TEST_CASE("a shuffle keeps every value and puts each in every place", "[nn]") {
  nn::Random random(1);
  std::vector<int> counts(9);  // of value v at place p, in 3 * p + v
  for (int i = 0; i < 9000; ++i) {
    std::vector<int> values{0, 1, 2};
    random.shuffle(values);
    for (std::size_t p = 0; p < 3; ++p) ++counts[3 * p + static_cast<std::size_t>(values[p])];
  }
  // Expected 3000 each with a deviation of sqrt(9000 * 1/3 * 2/3) = 45: five of them.
  for (const int count : counts) REQUIRE(std::abs(count - 3000) < 225);
  REQUIRE(std::accumulate(counts.begin(), counts.end(), 0) == 27000);
}

TEST_CASE("Xavier weights lie within their bound and have its variance", "[nn]") {
  nn::Random random(2);
  nn::Matrix<double> weight(100, 200);
  nn::xavier_uniform(weight, 200, 100, random);
  REQUIRE(weight.cwiseAbs().maxCoeff() < std::sqrt(6.0 / 300.0));
  // The variance of 20,000 uniform values deviates by a relative sqrt(0.8 / 20000) = .0063, and
  // their mean by sqrt(variance / 20000) = .0006: five of each.
  REQUIRE(testing::close(weight.cwiseAbs2().mean(), 2.0 / 300.0, 0.032));
  REQUIRE(std::abs(weight.mean()) < 0.003);
}
