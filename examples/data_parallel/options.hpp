// SPDX-License-Identifier: MIT
// The command line of the program.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

namespace data_parallel {

struct Options {
  int ranks = 4;
  std::size_t per_rank = 8;    // images of a batch on each rank
  std::size_t images = 20000;  // of the training set, and at most as many of the test set
  int epochs = 1;
  double rate = 0.5;
  std::uint64_t seed = 0;
  std::string data = "/usr/share/datasets/fashion-mnist";
};

/// Empty where --help was asked for and printed. Throws std::invalid_argument on a bad option.
[[nodiscard]] std::optional<Options> parse_options(int argc, const char* const* argv);

}  // namespace data_parallel
