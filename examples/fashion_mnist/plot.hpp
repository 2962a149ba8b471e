// SPDX-License-Identifier: MIT
// Draws the learning curves.
#pragma once

#include <iosfwd>
#include <string>
#include <vector>

#include "history.hpp"

namespace fashion_mnist {

/// Writes an SVG of two panels, accuracy and loss over the epochs, with one colour for each history
/// (at most two). Values that are not finite are left out, and losses above 3 are drawn at 3.
void write_svg(std::ostream& out, const std::string& title, const std::string& settings,
               const std::vector<History>& histories);

}  // namespace fashion_mnist
