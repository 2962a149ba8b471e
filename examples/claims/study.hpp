// SPDX-License-Identifier: MIT
// The shared runner: every recipe from every seed, on all threads.
#pragma once

#include <string>
#include <vector>

#include "training.hpp"

namespace claims {

struct Effort {
  int seeds = 5;
  double steps = 1.0;  // times what a claim asks for
  int threads = 1;
};

/// Whether the effort is enough for verdicts. With fewer seeds or steps than the defaults, these
/// would often be others than those of the whole effort.
[[nodiscard]] bool gives_verdicts(const Effort& effort);

/// outcomes[recipe][seed]
using Outcomes = std::vector<std::vector<Outcome>>;

class Study {
 public:
  Study(const Source& source, const Effort& effort) : source_(source), effort_(effort) {}

  /// A claim's number of steps under this effort, at least 4.
  [[nodiscard]] int steps(int full) const;

  /// Each training has one thread, so that its numbers do not depend on how many there are.
  /// label is what the progress bar calls it.
  [[nodiscard]] Outcomes run(const std::string& label, const std::vector<Recipe>& recipes) const;

 private:
  const Source& source_;
  Effort effort_;
};

}  // namespace claims
