// SPDX-License-Identifier: MIT
// Findings for the terminal and as a table in Markdown.
#pragma once

#include <cstddef>
#include <iosfwd>
#include <string>

#include "claims.hpp"

namespace claims {

/// A claim that was examined.
struct Examined {
  std::size_t number = 0;
  const Claim* claim = nullptr;
  Report report;
};

/// What is printed and written in place of verdicts if the effort is too small for them.
inline constexpr const char* kNoVerdicts =
    "There are no verdicts: these need at least 5 seeds and all steps.";

/// "2 seeds, 25 % of the steps"
[[nodiscard]] std::string description(const Effort& effort);

void print(std::ostream& out, const Examined& examined, const Effort& effort);

/// A table of all findings, and below it what each claim's numbers belong to.
void write_markdown(std::ostream& out, const std::vector<Examined>& all, const Effort& effort);

}  // namespace claims
