// SPDX-License-Identifier: MIT
// The command line of the program.
#pragma once

#include <cstddef>
#include <optional>
#include <stdexcept>
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

class OptionError : public std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// Empty where --help was asked for and printed. Throws OptionError on any bad option.
[[nodiscard]] std::optional<Options> parse_options(int argc, const char* const* argv);

}  // namespace claims
