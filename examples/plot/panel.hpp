// SPDX-License-Identifier: MIT
// Curves over an axis, each named at its end.
#pragma once

#include <cstddef>
#include <iosfwd>
#include <string>
#include <vector>

#include "scale.hpp"
#include "svg.hpp"

namespace plot {

struct Series {
  std::vector<std::string> label;  // the name, then values
  int colour = 0;                  // below kColours
  bool dashed = false;
  bool fade = false;  // a tint from the curve to the axis; colours 0 and 1 alone
  std::vector<Point> curve;
  std::vector<Point> low, high;  // around the curve, maybe none
  std::vector<Point> tests;      // dots of their own, maybe none
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
void draw_panel(std::ostream& out, const Panel& panel, const std::string& heading,
                const std::string& x_label, const std::vector<Series>& all);

}  // namespace plot
