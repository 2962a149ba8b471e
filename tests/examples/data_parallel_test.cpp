// SPDX-License-Identifier: MIT
// Runs the program as a user does: it starts its ranks itself.
#include <cstdio>

#include "fashion_files.hpp"
#include "run_program.hpp"

namespace {

using testing::contains;

testing::Ended run(const testing::Folder& folder, const std::string& arguments) {
  return testing::run_program(folder, DATA_PARALLEL, "--data '" + folder.path() + "' " + arguments);
}

/// The number that follows these words.
double number_after(const std::string& words, const std::string& text) {
  const auto at = text.find(words);
  REQUIRE(at != std::string::npos);
  return std::stod(text.substr(at + words.size()));
}

}  // namespace

TEST_CASE("synchronized ranks learn as one process does, ranks with statistics of their own do not",
          "[data_parallel]") {
  const testing::Folder folder;
  testing::write_bands(folder, 480, 100);
  const struct {
    int ranks;
    std::string per_rank;
  } cases[] = {{1, "24"}, {2, "12"}, {3, "8"}};
  for (const auto& one : cases) {
    const auto result = run(folder, "--images 480 --epochs 2 --rate 0.5 --ranks " +
                                        std::to_string(one.ranks) + " --per-rank " + one.per_rank);
    CAPTURE(result.out, result.err);
    REQUIRE(result.code == 0);
    REQUIRE(contains(result.out, std::to_string(one.ranks) + " ranks with " + one.per_rank));
    // 40 steps that learn enlarge roundings of 1e-16 some hundred times.
    CHECK(number_after("loss: synchronized ", result.out) <= 1e-11);
    const double local =
        number_after("local statistics ", result.out.substr(result.out.find("loss:")));
    CHECK((one.ranks == 1 ? local == 0 : local > 1e-3));
    CHECK(number_after("accuracy: one process ", result.out) > 0.9);  // of bands
    CHECK(number_after(", synchronized ", result.out) ==
          number_after("accuracy: one process ", result.out));
    CHECK(number_after("in ", result.out.substr(result.out.find("a step of"))) == 9);
  }
}

TEST_CASE("what goes wrong ends the program with a reason", "[data_parallel]") {
  const testing::Folder folder;
  auto result = run(folder, "--ranks none");
  CHECK(result.code == 1);
  CHECK(contains(result.err, "--ranks: expected a number from 1 to 1024, got 'none'"));
  result = run(folder, "--speed 3");
  CHECK(result.code == 1);
  CHECK(contains(result.err, "unknown option '--speed'"));
  result = run(folder, "--ranks 2");
  CHECK(result.code != 0);
  CHECK(contains(result.err, folder.path() + "/train-images-idx3-ubyte.gz: "));
  testing::write_bands(folder, 20, 20);
  result = run(folder, "--ranks 3");
  CHECK(result.code != 0);
  CHECK(contains(result.err, "expected at least a batch of 24"));
  CHECK(run(folder, "--help").out.find("--per-rank") != std::string::npos);
}
