// SPDX-License-Identifier: MIT
// Random calls, valid and not, in random layouts, against a slow model of the layer.
//   random_calls_test "[.release]"     a million calls, some minutes

#include <string>

#include "support/catch.hpp"
#include "support/random.hpp"
#include "support/walk.hpp"

namespace {

/// Layers with random options, each for some calls.
template <class Scalar, int spatial>
void walk(long calls, std::uint64_t seed) {
  testing::Random random(seed);
  testing::Count count;
  while (count.made < calls) {
    const std::uint64_t episode = random.bits();
    testing::Random own(episode);
    INFO("episode " << episode << ", spatial " << spatial << ", call " << count.made);
    const std::string wrong = testing::walk_of_layer<Scalar, spatial>(own, 60, count);
    if (!wrong.empty()) FAIL(wrong);
  }
  CHECK(count.done > calls / 4);
  CHECK(count.refused > calls / 20);
}

template <class Scalar>
void walk_all(long calls, std::uint64_t seed) {
  walk<Scalar, 1>(calls / 2, seed);  // with matrices
  walk<Scalar, 2>(calls / 4, seed);
  walk<Scalar, 3>(calls / 4, seed);
}

}  // namespace

TEMPLATE_TEST_CASE("random calls do what a slow model of the layer does, refused ones nothing",
                   "[state]", float, double, Eigen::half, Eigen::bfloat16) {
  walk_all<TestType>(8000, 1);
}

TEMPLATE_TEST_CASE("a million random calls do what a slow model of the layer does", "[.release]",
                   float, double, Eigen::half, Eigen::bfloat16) {
  walk_all<TestType>(250000, 2);
}
