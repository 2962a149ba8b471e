// SPDX-License-Identifier: MIT
#include "benchmarks/statistics.hpp"

#include "benchmarks/in_turn.hpp"
#include "benchmarks/resnet50.hpp"
#include "support/catch.hpp"

using bench::Interval;
using bench::Verdict;

namespace {

std::vector<double> one_to(int n) {
  std::vector<double> values;
  for (int i = n; i > 0; --i) values.push_back(i);
  return values;
}

}  // namespace

TEST_CASE("The median of an even number of values lies between the middle two") {
  CHECK(bench::median({4, 1, 3}) == 3);
  CHECK(bench::median({4, 1, 3, 2}) == 2.5);
  CHECK(std::isnan(bench::median({})));
}

TEST_CASE("Rounds that were sat out do not count") {
  CHECK(bench::median({NAN, 1, NAN, 5, 3}) == 3);
  CHECK(bench::ratios({6, NAN}, {3, 2}).front() == 2);
  CHECK(bench::median(bench::ratios({6, NAN, 10}, {3, 2, 10})) == 1.5);
}

// P(at most 3 of 15 on one side) = (1 + 15 + 105 + 455) / 2^15 = 1.76 %, at most 4: 5.92 %.
TEST_CASE("The interval of the median of 15 values reaches from the 4th to the 12th") {
  const Interval interval = bench::median_interval(one_to(15));
  CHECK(interval.low == 4);
  CHECK(interval.median == 8);
  CHECK(interval.high == 12);
}

// P(0 of 5) = 1/32 = 3.1 %, P(at most 1 of 5) = 6/32; P(0 of 7) = 0.8 %, at most 1: 6.25 %;
// P(0 of 8) = 0.4 %, at most 1: 3.5 %, at most 2: 14.5 %.
TEST_CASE("Few values are enclosed by their extremes") {
  CHECK(bench::median_interval(one_to(5)).low == 1);
  CHECK(bench::median_interval(one_to(7)).high == 7);
  CHECK(bench::median_interval(one_to(8)).low == 2);
  CHECK(bench::median_interval(one_to(8)).high == 7);
  CHECK(bench::median_interval({3}).low == 3);
}

TEST_CASE("A cell is decided only where the interval leaves out 1") {
  CHECK(bench::verdict({1.01, 1.2, 1.3}) == Verdict::won);
  CHECK(bench::verdict({0.7, 0.8, 0.99}) == Verdict::lost);
  CHECK(bench::verdict({0.99, 1.2, 1.3}) == Verdict::undecided);
  CHECK(bench::verdict({0.8, 0.9, 1.0}) == Verdict::undecided);
}

TEST_CASE("The geometric mean of a ratio and its inverse is 1") {
  CHECK(bench::geometric_mean({4, 0.25}) == Approx(1));
  CHECK(bench::geometric_mean({2, 8}) == Approx(4));
}

TEST_CASE("The best of groups of rounds") {
  CHECK(bench::best_of(1, {3, 1, 2}) == std::vector<double>{3, 1, 2});
  CHECK(bench::best_of(2, {3, 1, 2, 4, 0}) == std::vector<double>{1, 2});
  CHECK(bench::best_of(9, {3, 1, 2}) == std::vector<double>{1});
  CHECK(bench::best_of(2, {}).empty());
}

TEST_CASE("Contenders that take turns back and forth, until the time is up") {
  std::vector<int> turns;
  bench::Turns plan;
  plan.rounds = 100;
  plan.seconds = 1e-9;
  plan.seconds_in_all = 0;  // but 5 rounds at least
  plan.back_and_forth = true;
  const auto contender = [&](int id) { return [&turns, id] { turns.push_back(id); }; };
  const auto times = bench::in_turn({contender(0), contender(1)}, plan);
  CHECK(times[0].size() == 5);
  CHECK(times[1].size() == 5);
  turns.erase(turns.begin(), turns.end() - 10);  // what was there before are estimates
  CHECK(turns == std::vector<int>{0, 1, 1, 0, 0, 1, 1, 0, 0, 1});
}

TEST_CASE("Contenders take turns, and one that is far slower sits out most rounds") {
  std::vector<int> turns;
  const auto contender = [&](int id, std::chrono::milliseconds duration) {
    return [&turns, id, duration] {
      turns.push_back(id);
      std::this_thread::sleep_for(duration);
    };
  };
  using std::chrono::milliseconds;
  bench::Turns plan;
  plan.rounds = 6;
  plan.seconds = 1e-3;
  const auto times = bench::in_turn({contender(0, milliseconds(2)), contender(1, milliseconds(2)),
                                     contender(2, milliseconds(400))},
                                    plan);
  // An estimate of each, then the rounds, the slow one in those with the numbers 0 and 5. It is so
  // slow that it stays the slowest on a machine that has other things to do.
  CHECK(turns == std::vector<int>{0, 1, 2, 0, 1, 2, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 2});
  CHECK(times[2].size() == 6);
  CHECK(std::isnan(times[2][1]));
  CHECK(times[0][3] >= 2e-3);
}

// The number of activations is 802816 + 4415488 + 3110912 + 2157568 + 627200 by stages, the 11.1
// million of the literature.
TEST_CASE("ResNet-50 has 53 batch-norm layers over 11.1 million values an image") {
  const auto layers = bench::resnet50_layers(2);
  CHECK(layers.size() == 53);
  std::ptrdiff_t values = 0;
  for (const bench::Shape& shape : layers) values += shape.size();
  CHECK(values == 2 * 11113984);
  CHECK(layers.back().c == 2048);
  CHECK(layers.back().h == 7);
}
