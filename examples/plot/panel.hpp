// SPDX-License-Identifier: MIT
// Curves over an axis, and the legend that names them.
#pragma once

#include <cstddef>
#include <iosfwd>
#include <string>
#include <vector>

#include "scale.hpp"
#include "svg.hpp"

namespace plot {

struct Series {
  std::string name;
  int colour = 0;  // below kColours
  bool dashed = false;
  bool fade = false;  // a tint from the curve to the axis; only for colours 0 and 1
  std::vector<Point> curve;
  std::vector<Point> low, high;  // the edges of a band around the curve; may be empty
  std::vector<Point> tests;      // drawn as dots; may be empty
};

/// Appends point unless it is not finite.
void add_finite(std::vector<Point>& points, Point point);

struct Panel {
  double left, top, right, bottom;  // of the plot area, in pixels
  Scale x, y;

  [[nodiscard]] Point at(Point value) const {
    return {left + x.position(value.x) * (right - left),
            bottom - y.position(value.y) * (bottom - top)};
  }
};

/// Values outside the scales are drawn at their edge.
void draw_panel(std::ostream& out, const Panel& panel, const std::string& x_label,
                const std::vector<Series>& all);

/// Draws the line style and the name of each series: two in a row if all names are short. Returns
/// the height of the legend.
double draw_legend(std::ostream& out, Point corner, double width, const std::vector<Series>& all);

}  // namespace plot
