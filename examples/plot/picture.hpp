// SPDX-License-Identifier: MIT
// A picture of several panels in a grid, whose scales follow from what they show.
#pragma once

#include <iosfwd>
#include <string>
#include <vector>

#include "panel.hpp"

namespace plot {

enum class Axis { linear, logarithmic };

struct Chart {
  std::string heading;
  std::string x_label;
  Axis x_axis = Axis::linear;
  Axis y_axis = Axis::linear;
  std::vector<Series> series;
};

struct Picture {
  std::string title;
  std::string subtitle;
  std::vector<Chart> charts;
};

/// An SVG, two charts in a row; one that is alone there fills it. On a logarithmic axis what is not
/// positive is left out.
void write_svg(std::ostream& out, const Picture& picture);

}  // namespace plot
