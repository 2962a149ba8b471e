// SPDX-License-Identifier: MIT
// Verdicts for the terminal and as a table in Markdown.
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

void print(std::ostream& out, const Examined& examined);

/// A table of all findings, and below it what each claim's numbers belong to.
void write_markdown(std::ostream& out, const std::vector<Examined>& all, const std::string& effort);

}  // namespace claims
