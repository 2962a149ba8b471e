// SPDX-License-Identifier: MIT
// Draws the learning curves.
#pragma once

#include <iosfwd>
#include <string>
#include <vector>

#include "history.hpp"

namespace fashion_mnist {

/// An SVG of two panels, accuracy and loss over the epochs, a colour for each history (two at
/// most). Values that are not finite are left out.
void write_svg(std::ostream& out, const std::string& title, const std::string& subtitle,
               const std::vector<History>& histories);

}  // namespace fashion_mnist
