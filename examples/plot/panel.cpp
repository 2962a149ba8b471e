// SPDX-License-Identifier: MIT
#include "panel.hpp"

#include <algorithm>
#include <cmath>
#include <ostream>

namespace plot {
namespace {

void draw_axes(std::ostream& out, const Panel& panel, const std::string& heading,
               const std::string& x_label) {
  draw_text(out, {panel.left, panel.top - 18.0}, "head", heading);
  for (const double y : panel.y.ticks()) {
    const Point at = panel.at({panel.x.low, y});
    draw_line(out, at, {panel.right, at.y}, "grid");
    draw_text(out, {at.x - 10.0, at.y + 4.5}, "tick", panel.y.label(y), "end");
  }
  draw_line(out, {panel.left, panel.bottom}, {panel.right, panel.bottom}, "axis");
  for (const double x : panel.x.ticks()) {
    const Point at = panel.at({x, panel.y.low});
    draw_line(out, at, {at.x, at.y + 5.0}, "axis");
    draw_text(out, {at.x, at.y + 22.0}, "tick", panel.x.label(x), "middle");
  }
  draw_text(out, {0.5 * (panel.left + panel.right), panel.bottom + 46.0}, "soft", x_label,
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

/// Writes the labels beside the ends of the curves, moved apart where they would touch.
void draw_labels(std::ostream& out, const Panel& panel, const std::vector<Series>& all) {
  constexpr double kLine = 18.0;
  struct Label {
    double y;
    const Series* series;
  };
  std::vector<Label> labels;
  for (const auto& series : all) {
    const double end = series.curve.empty() ? panel.y.low : series.curve.back().y;
    labels.push_back({panel.at({panel.x.low, end}).y, &series});
  }
  std::stable_sort(labels.begin(), labels.end(), [](auto a, auto b) { return a.y < b.y; });
  double above = panel.top - 2.0 * kLine;
  for (auto& label : labels) {
    const bool one_line = label.series->label.size() < 2;
    label.y = std::max(label.y, above);
    above =
        label.y + kLine * static_cast<double>(label.series->label.size()) + (one_line ? 0.0 : 8.0);
  }
  const double overshoot = labels.empty() ? 0.0 : std::max(0.0, above - kLine - 8.0 - panel.bottom);
  for (const auto& label : labels) {
    double y = label.y - overshoot + 5.0;
    for (const auto& text : label.series->label) {
      const bool is_name = &text == &label.series->label.front();
      draw_text(out, {panel.right + 14.0, y},
                is_name ? "name f" + std::to_string(label.series->colour) : "soft", text);
      y += kLine;
    }
  }
}

}  // namespace

void add_finite(std::vector<Point>& points, Point point) {
  if (std::isfinite(point.y)) points.push_back(point);
}

void draw_panel(std::ostream& out, const Panel& panel, const std::string& heading,
                const std::string& x_label, const std::vector<Series>& all) {
  draw_axes(out, panel, heading, x_label);
  for (const auto& series : all) {
    const std::string colour = std::to_string(series.colour);
    if (series.fade) draw_fade(out, panel, series.curve, "a" + colour);
    draw_band(out, panel, series, "b" + colour);
  }
  for (auto series = all.rbegin(); series != all.rend(); ++series) {  // the first on top
    const std::string colour = std::to_string(series->colour);
    draw_polyline(out, panel, series->curve,
                  (series->dashed ? "line dashed s" : "line s") + colour);
    draw_polyline(out, panel, series->tests, "test s" + colour);
    for (const Point& test : series->tests) draw_dot(out, panel.at(test), "dot f" + colour);
  }
  draw_labels(out, panel, all);
}

}  // namespace plot
