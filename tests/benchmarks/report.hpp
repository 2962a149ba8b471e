// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <ostream>
#include <vector>

#include "busy.hpp"
#include "measure.hpp"

namespace bench {

/// Markdown: machine, targets, what was lost or is undecided, all cells. A tensor is large if what
/// has to be read and written exceeds `cache` bytes; `spent` is the processor time of the run.
void write_report(std::ostream& out, const std::vector<Result>& cells,
                  const std::vector<Result>& resnet50, std::size_t cache, const Settings& settings,
                  const ProcessorTime& spent);

}  // namespace bench
