// SPDX-License-Identifier: MIT
#include "picture.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <ostream>
#include <sstream>

namespace plot {
namespace {

constexpr double kWidth = 480.0;
constexpr double kMargin = 24.0;
constexpr double kPlotHeight = 190.0;

/// How a paragraph is set. `columns` bytes of a line fit the width even in a wide font.
struct Text {
  const char* css;
  std::size_t columns;
  double line;  // in pixels, from one line to the next
};
constexpr Text kTitle{"title", 36, 26.0}, kHead{"head", 49, 20.0}, kText{"text", 54, 20.0},
    kSoft{"soft", 54, 20.0};

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

/// Covers the member (x or y) of all curves, bands and dots.
Scale scale_of(const std::vector<Series>& all, double Point::*member, Axis axis,
               double least_step = 0.0) {
  double low = std::numeric_limits<double>::infinity(), high = -low;
  bool positive = true;  // all curves
  for (const auto& series : all) {
    for (const auto* points : {&series.curve, &series.low, &series.high, &series.tests}) {
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
  Scale scale = Scale::around(low, high, least_step);
  const bool much_empty = scale.high - high > 0.05 * (scale.high - scale.low);
  if (member == &Point::x && much_empty) scale.high = std::max(high, scale.low + scale.step);
  return scale;
}

/// Draws a paragraph whose first line is at y, and returns the y of the line after it.
double draw_paragraph(std::ostream& out, double y, const Text& style, const std::string& text) {
  for (const auto& line : wrapped(text, style.columns)) {
    draw_text(out, {kMargin, y}, style.css, line);
    y += style.line;
  }
  return y;
}

/// Draws the chart, whose heading is at y, and returns the y below it.
double draw_chart(std::ostream& out, Chart chart, double y) {
  // A band may reach below 0 on a logarithmic axis: it is drawn at the edge there.
  for (auto& series : chart.series) series.curve = drawable(series.curve, chart);
  y = draw_paragraph(out, y, kHead, chart.heading) - 12.0;
  y += draw_legend(out, {kMargin, y}, kWidth - 2.0 * kMargin, chart.series) + 16.0;
  const Panel panel{kMargin + 46.0,
                    y,
                    kWidth - kMargin - 8.0,
                    y + kPlotHeight,
                    scale_of(chart.series, &Point::x, chart.x_axis, chart.least_x_step),
                    scale_of(chart.series, &Point::y, chart.y_axis)};
  draw_panel(out, panel, chart.x_label, chart.series);
  return panel.bottom + 60.0;
}

}  // namespace

void write_svg(std::ostream& out, const Picture& picture) {
  std::ostringstream body;  // the height of the picture is known after it
  double y = draw_paragraph(body, 44.0, kTitle, picture.title);
  y = draw_paragraph(body, y + 4.0, kHead, picture.subtitle);
  for (const auto& answer : picture.answers) y = draw_paragraph(body, y + 6.0, kText, answer);
  for (const auto& note : picture.notes) y = draw_paragraph(body, y + 6.0, kSoft, note);
  for (const auto& chart : picture.charts) y = draw_chart(body, chart, y + 20.0);
  begin_picture(out, {kWidth, y}, picture.title);
  out << body.str();
  end_picture(out);
}

}  // namespace plot
