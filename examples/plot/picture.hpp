// SPDX-License-Identifier: MIT
// A picture of several panels below one another, whose scales follow from what they show. It is
// narrow, so that a small screen shows it in a readable size.
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
  double least_x_step = 0.0;  // between ticks of a linear axis
  std::vector<Series> series;
};

struct Picture {
  std::string title;
  std::string subtitle;  // empty if there is none
  std::vector<std::string> answers;
  std::vector<std::string> notes;  // in a softer colour
  std::vector<Chart> charts;
};

/// Writes an SVG. Values that are not positive are left out on a logarithmic axis.
void write_svg(std::ostream& out, const Picture& picture);

}  // namespace plot
