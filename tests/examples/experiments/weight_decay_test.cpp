// SPDX-License-Identifier: MIT
#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <sstream>

#include "printed.hpp"
#include "support/catch.hpp"

using testing::require_near;
using testing::require_within;

namespace {

/// All numbers of the picture's curves.
std::vector<double> curves_of(const std::string& file) {
  std::ifstream svg(file);
  INFO(file);
  REQUIRE(svg.good());
  std::vector<double> numbers;
  std::string line;
  while (std::getline(svg, line)) {
    const std::string start = "points='";
    const auto points = line.find(start);
    if (points == std::string::npos) continue;
    std::istringstream words(line.substr(points + start.size()));
    double x = 0, y = 0;
    char comma = 0;
    while (words >> x >> comma >> y) numbers.insert(numbers.end(), {x, y});
  }
  return numbers;
}

struct Run {
  testing::Printed out{"weight_decay", "weight_decay.svg"};
};

}  // namespace

// Each row: lambda, then from 5 seeds the lowest and the highest of norm of w, test loss, zeros; a
// word in place of the zeros where there are none.

TEST_CASE("without decay w keeps its norm, with decay it does not", "[weight_decay]") {
  const Run run;
  for (const char* name : {"L2 penalty, squared / 2", "L2 step, squared"}) {
    const auto without = run.out.row(name, 0), with = run.out.row(name, 1);
    REQUIRE(without.size() == 5);
    REQUIRE(with.size() == 5);
    REQUIRE(without[0] == 0);
    REQUIRE(with[0] == 3);
    // 20 samples fix 20 of 200 directions of w ~ N(0, 1): sqrt(180) = 13.4, with a deviation of 0.7.
    require_within({without[1], without[2]}, 13.4 - 3 * 0.7, 13.4 + 3 * 0.7);
    // PyTorch 1.13 over 20 seeds: .33 to .53.
    require_within({with[1], with[2]}, 0.3, 0.6);
  }
}

TEST_CASE("decay lowers the test loss as it does in PyTorch", "[weight_decay]") {
  const Run run;
  const auto without = run.out.row("L2 penalty, squared / 2", 0);
  const auto with = run.out.row("L2 penalty, squared / 2", 1);
  // PyTorch 1.13 over 20 seeds: 70 to 112, and .058 to .193.
  require_within({without.at(3), without.at(4)}, 50, 150);
  require_within({with.at(3), with.at(4)}, 0.03, 0.3);
}

TEST_CASE("L1 makes weights 0, L2 none", "[weight_decay]") {
  const Run run;
  const auto l1 = run.out.row("L1 threshold, squared / 2");
  REQUIRE(l1.size() == 7);
  require_within({l1[5], l1[6]}, 110, 170);  // PyTorch 1.13 over 20 seeds: 122 to 164 of 200
  REQUIRE(run.out.row("L2 penalty, squared / 2", 1).size() == 5);
}

TEST_CASE("penalty and step are the same for SGD", "[weight_decay]") {
  const Run run;
  require_near(run.out.row("penalty and step, squared / 2: the weights differ by at most"), {0},
               1e-12);
  const auto penalty = run.out.row("L2 penalty, squared / 2", 1);
  require_near(run.out.row("L2 step, squared / 2"), penalty, 0);
  REQUIRE(run.out.verdict().find("penalty and step are the same for SGD") != std::string::npos);
}

TEST_CASE("the picture in the repository is the one that the program draws", "[weight_decay]") {
  const Run run;
  const auto drawn = curves_of("weight_decay.svg");
  REQUIRE(drawn.size() == 4 * 20 * 2);  // four curves, a point every five epochs
  require_near(curves_of(std::string(EXAMPLES_SOURCES) + "/weight_decay.svg"), drawn, 0.11);
}
