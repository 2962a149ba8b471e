// SPDX-License-Identifier: MIT
#include "picture.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <ostream>

namespace plot {
namespace {

constexpr double kCellWidth = 540.0;
constexpr double kCellHeight = 390.0;
constexpr double kHead = 96.0;  // above the first row

bool fits(double value, Axis axis) {
  return std::isfinite(value) && (axis == Axis::linear || value > 0.0);
}

/// The points that can be drawn on the axes of chart.
std::vector<Point> drawable(const std::vector<Point>& points, const Chart& chart) {
  std::vector<Point> kept;
  for (const Point& point : points) {
    if (fits(point.x, chart.x_axis) && fits(point.y, chart.y_axis)) kept.push_back(point);
  }
  return kept;
}

/// Covers the member (x or y) of all curves and bands.
Scale scale_of(const std::vector<Series>& all, double Point::*member, Axis axis) {
  double low = std::numeric_limits<double>::infinity(), high = -low;
  bool positive = true;  // all curves
  for (const auto& series : all) {
    for (const auto* points : {&series.curve, &series.low, &series.high}) {
      for (const Point& point : *points) {
        if (!fits(point.*member, axis)) continue;
        low = std::min(low, point.*member);
        high = std::max(high, point.*member);
        if (points == &series.curve && point.*member < 0.0) positive = false;
      }
    }
  }
  if (positive) low = std::max(low, 0.0);  // no room for a band where no value can be
  if (!(low <= high)) low = high = 1.0;    // nothing to show
  if (axis == Axis::logarithmic) return Scale::powers(low, high);
  Scale scale = Scale::around(low, high);
  if (member == &Point::x) scale.high = std::max(high, scale.low + scale.step);  // no empty room
  return scale;
}

void draw_chart(std::ostream& out, Chart chart, Point corner, double width) {
  // A band may reach below 0 on a logarithmic axis: it is drawn at the edge there.
  for (auto& series : chart.series) series.curve = drawable(series.curve, chart);
  const Panel panel{corner.x + 84.0,
                    corner.y + 50.0,
                    corner.x + width - 156.0,
                    corner.y + 310.0,
                    scale_of(chart.series, &Point::x, chart.x_axis),
                    scale_of(chart.series, &Point::y, chart.y_axis)};
  draw_panel(out, panel, chart.heading, chart.x_label, chart.series);
}

}  // namespace

void write_svg(std::ostream& out, const Picture& picture) {
  const std::size_t rows = std::max<std::size_t>(1, (picture.charts.size() + 1) / 2);
  begin_picture(out, {2.0 * kCellWidth, kHead + kCellHeight * static_cast<double>(rows)},
                picture.title, picture.subtitle);
  for (std::size_t i = 0; i < picture.charts.size(); ++i) {
    const bool alone = i % 2 == 0 && i + 1 == picture.charts.size();
    draw_chart(
        out, picture.charts[i],
        {kCellWidth * static_cast<double>(i % 2), kHead + kCellHeight * static_cast<double>(i / 2)},
        alone ? 2.0 * kCellWidth : kCellWidth);
  }
  end_picture(out);
}

}  // namespace plot
