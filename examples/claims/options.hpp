// SPDX-License-Identifier: MIT
// The command line of the program.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <vector>

#include "study.hpp"

namespace claims {

struct Options {
  Effort effort;
  std::vector<std::size_t> claims{2, 7, 8};  // numbers of those to examine
  std::string data = "/usr/share/datasets/fashion-mnist";
  std::string out = CLAIMS_OUT;  // defined by CMake, a folder that git ignores
};

/// Nothing if --help was given and printed. Throws fashion_mnist::OptionError for a bad option.
[[nodiscard]] std::optional<Options> parse_options(int argc, const char* const* argv);

}  // namespace claims
