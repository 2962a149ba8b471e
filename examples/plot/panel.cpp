// SPDX-License-Identifier: MIT
#include "panel.hpp"

#include <algorithm>
#include <cmath>
#include <ostream>

namespace plot {
namespace {

std::string style_of(const Series& series) {
  return (series.dashed ? "line dashed s" : "line s") + std::to_string(series.colour);
}

void draw_axes(std::ostream& out, const Panel& panel, const std::string& x_label) {
  for (const double y : panel.y.ticks()) {
    const Point at = panel.at({panel.x.low, y});
    draw_line(out, at, {panel.right, at.y}, "grid");
    draw_text(out, {at.x - 9.0, at.y + 5.0}, "soft", panel.y.label(y), "end");
  }
  draw_line(out, {panel.left, panel.bottom}, {panel.right, panel.bottom}, "axis");
  for (const double x : panel.x.ticks()) {
    const Point at = panel.at({x, panel.y.low});
    draw_line(out, at, {at.x, at.y + 5.0}, "axis");
    draw_text(out, {at.x, at.y + 22.0}, "soft", panel.x.label(x), "middle");
  }
  draw_text(out, {0.5 * (panel.left + panel.right), panel.bottom + 43.0}, "soft", x_label,
            "middle");
}

void draw_polyline(std::ostream& out, const Panel& panel, const std::vector<Point>& points,
                   const std::string& css) {
  if (points.size() < 2) return;
  out << "<polyline class='" << css << "' points='";
  for (const Point& value : points) {
    const Point p = panel.at(value);
    out << fixed(p.x, 1) << ',' << fixed(p.y, 1) << ' ';
  }
  out << "'/>\n";
}

/// A tint that fades from a curve to the axis.
void draw_fade(std::ostream& out, const Panel& panel, const std::vector<Point>& points,
               const std::string& css) {
  if (points.size() < 2) return;
  std::vector<Point> outline{{points.front().x, panel.y.low}};
  outline.insert(outline.end(), points.begin(), points.end());
  outline.push_back({points.back().x, panel.y.low});
  draw_polyline(out, panel, outline, css);
}

/// A tint between low and high.
void draw_band(std::ostream& out, const Panel& panel, const Series& series,
               const std::string& css) {
  std::vector<Point> outline = series.low;
  outline.insert(outline.end(), series.high.rbegin(), series.high.rend());
  draw_polyline(out, panel, outline, css);
}

}  // namespace

void add_finite(std::vector<Point>& points, Point point) {
  if (std::isfinite(point.y)) points.push_back(point);
}

void draw_panel(std::ostream& out, const Panel& panel, const std::string& x_label,
                const std::vector<Series>& all) {
  draw_axes(out, panel, x_label);
  for (const auto& series : all) {
    const std::string colour = std::to_string(series.colour);
    if (series.fade) draw_fade(out, panel, series.curve, "a" + colour);
    draw_band(out, panel, series, "b" + colour);
  }
  for (auto series = all.rbegin(); series != all.rend(); ++series) {  // the first on top
    const std::string colour = std::to_string(series->colour);
    draw_polyline(out, panel, series->curve, style_of(*series));
    draw_polyline(out, panel, series->tests, "test s" + colour);
    for (const Point& test : series->tests) draw_dot(out, panel.at(test), "dot f" + colour);
  }
}

double draw_legend(std::ostream& out, Point corner, double width, const std::vector<Series>& all) {
  constexpr double kRow = 22.0, kSample = 30.0;
  constexpr std::size_t kShort = 21;  // the bytes of a name that fits half of the width
  const bool all_short = std::all_of(
      all.begin(), all.end(), [](const Series& series) { return series.name.size() <= kShort; });
  const std::size_t per_row = all_short ? 2 : 1;
  for (std::size_t i = 0; i < all.size(); ++i) {
    const Point at{corner.x + 0.5 * width * static_cast<double>(i % per_row),
                   corner.y + kRow * (static_cast<double>(i / per_row) + 0.5)};
    draw_line(out, at, {at.x + kSample, at.y}, style_of(all[i]));
    draw_text(out, {at.x + kSample + 8.0, at.y + 5.0}, "text", all[i].name);
  }
  return kRow * static_cast<double>((all.size() + per_row - 1) / per_row);
}

}  // namespace plot
