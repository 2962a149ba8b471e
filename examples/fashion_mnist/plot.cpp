// SPDX-License-Identifier: MIT
#include "plot.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <ostream>
#include <utility>

namespace fashion_mnist {
namespace {

constexpr double kWidth = 1040.0;
constexpr double kHeight = 520.0;
constexpr double kHighestLoss = 3.0;  // guessing costs ln 10 = 2.3; what lies above is cut off

// Colours stand in classes, so that a viewer's dark theme can turn the whole picture.
constexpr const char* kStyle = R"(<style>
  text { font-family: Inter, "Helvetica Neue", "Segoe UI", Arial, "DejaVu Sans", sans-serif; }
  .card { fill: #fcfbf8; stroke: #e4e0d8; }
  .title { font-size: 23px; font-weight: 700; fill: #1c2430; }
  .soft { font-size: 14px; fill: #5b6472; }
  .head { font-size: 15px; font-weight: 600; fill: #1c2430; }
  .tick { font-size: 13px; fill: #5b6472; }
  .name { font-size: 15px; font-weight: 700; }
  .grid { stroke: #e6e2da; stroke-width: 1; }
  .axis { stroke: #9aa1ac; stroke-width: 1.2; }
  .line { fill: none; stroke-width: 2.6; stroke-linejoin: round; stroke-linecap: round; }
  .a0 { fill: url(#fade0); } .a1 { fill: url(#fade1); }
  .test { fill: none; stroke-width: 1.4; stroke-dasharray: 1 5; stroke-linecap: round; }
  .dot { stroke: #fcfbf8; stroke-width: 2; }
  .key { stroke: #5b6472; }
  .key-dot { fill: #5b6472; }
  .s0 { stroke: #0b7a75; } .f0 { fill: #0b7a75; } .c0 { stop-color: #0b7a75; }
  .s1 { stroke: #d2592a; } .f1 { fill: #d2592a; } .c1 { stop-color: #d2592a; }
  @media (prefers-color-scheme: dark) {
    .card { fill: #171b22; stroke: #2c333f; } .dot { stroke: #171b22; }
    .title, .head { fill: #eef1f5; } .soft, .tick, .key-dot { fill: #a9b2c0; }
    .key { stroke: #a9b2c0; } .grid { stroke: #2a313c; } .axis { stroke: #707a89; }
    .s0 { stroke: #3fc6bd; } .f0 { fill: #3fc6bd; } .c0 { stop-color: #3fc6bd; }
    .s1 { stroke: #ff9166; } .f1 { fill: #ff9166; } .c1 { stop-color: #ff9166; }
  }
</style>
<defs>
  <linearGradient id='fade0' x2='0' y2='1'><stop class='c0' offset='0' stop-opacity='0.16'/>
    <stop class='c0' offset='1' stop-opacity='0'/></linearGradient>
  <linearGradient id='fade1' x2='0' y2='1'><stop class='c1' offset='0' stop-opacity='0.16'/>
    <stop class='c1' offset='1' stop-opacity='0'/></linearGradient>
</defs>
)";

struct Point {
  double x = 0.0;
  double y = 0.0;
};

std::string fixed(double value, int decimals) {
  std::array<char, 64> text{};
  std::snprintf(text.data(), text.size(), "%.*f", decimals, value);
  return text.data();
}

std::string escaped(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if (c == '&') {
      out += "&amp;";
    } else if (c == '<') {
      out += "&lt;";
    } else {
      out += c;
    }
  }
  return out;
}

void draw_text(std::ostream& out, Point at, const std::string& css, const std::string& text,
               const char* anchor = "start") {
  out << "<text x='" << fixed(at.x, 1) << "' y='" << fixed(at.y, 1) << "' class='" << css
      << "' text-anchor='" << anchor << "'>" << escaped(text) << "</text>\n";
}

void draw_line(std::ostream& out, Point from, Point to, const std::string& css) {
  out << "<line x1='" << fixed(from.x, 1) << "' y1='" << fixed(from.y, 1) << "' x2='"
      << fixed(to.x, 1) << "' y2='" << fixed(to.y, 1) << "' class='" << css << "'/>\n";
}

void draw_dot(std::ostream& out, Point at, const std::string& css) {
  out << "<circle cx='" << fixed(at.x, 1) << "' cy='" << fixed(at.y, 1) << "' r='5.5' class='"
      << css << "'/>\n";
}

/// An interval with ticks at multiples of a round step.
struct Scale {
  double low = 0.0;
  double high = 1.0;
  double step = 0.2;

  /// Covers [low, high] with at most seven ticks.
  static Scale around(double low, double high) {
    Scale scale;
    for (const double step : {0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0,
                              100.0, 200.0, 500.0, 1000.0, 2000.0}) {
      scale.step = step;
      scale.low = std::floor(low / step + 1e-9) * step;
      scale.high = std::max(std::ceil(high / step - 1e-9) * step, scale.low + step);
      if (scale.high - scale.low <= 6.001 * step) break;
    }
    return scale;
  }
};

struct Panel {
  double left, top, right, bottom;  // of the plot area, in pixels
  Scale x, y;

  [[nodiscard]] Point at(Point value) const {
    return {left + (value.x - x.low) / (x.high - x.low) * (right - left),
            bottom - (value.y - y.low) / (y.high - y.low) * (bottom - top)};
  }
};

/// A curve, its test points (maybe none), and what is written at its end.
struct Series {
  std::vector<Point> curve;
  std::vector<Point> tests;
  std::vector<std::string> label;  // the name, then values
};

void add_finite(std::vector<Point>& points, Point point) {
  if (std::isfinite(point.y)) points.push_back(point);
}

Series accuracy_series(const History& history) {
  Series series;
  series.label = {history.network};
  for (const auto& point : history.curve) {
    add_finite(series.curve, {point.epoch, point.train_accuracy});
  }
  double epoch = 0.0;
  for (const auto& result : history.epochs)
    add_finite(series.tests, {++epoch, result.test_accuracy});
  if (!history.epochs.empty()) {
    series.label.push_back("train " + fixed(history.epochs.back().train_accuracy, 3));
    series.label.push_back("test " + fixed(history.epochs.back().test_accuracy, 3));
  }
  return series;
}

Series loss_series(const History& history) {
  Series series;
  series.label = {history.network};
  for (const auto& point : history.curve) add_finite(series.curve, {point.epoch, point.loss});
  if (!history.epochs.empty())
    series.label.push_back("loss " + fixed(history.epochs.back().loss, 3));
  return series;
}

void draw_axes(std::ostream& out, const Panel& panel, const std::string& heading) {
  const int y_decimals = panel.y.step < 0.1 ? 2 : 1;
  draw_text(out, {panel.left, panel.top - 18.0}, "head", heading);
  for (double y = panel.y.low; y < panel.y.high + 0.5 * panel.y.step; y += panel.y.step) {
    const Point at = panel.at({panel.x.low, y});
    draw_line(out, at, {panel.right, at.y}, "grid");
    draw_text(out, {at.x - 10.0, at.y + 4.5}, "tick", fixed(y, y_decimals), "end");
  }
  draw_line(out, {panel.left, panel.bottom}, {panel.right, panel.bottom}, "axis");
  for (double x = panel.x.low; x < panel.x.high + 0.5 * panel.x.step; x += panel.x.step) {
    const Point at = panel.at({x, panel.y.low});
    draw_line(out, at, {at.x, at.y + 5.0}, "axis");
    draw_text(out, {at.x, at.y + 22.0}, "tick", fixed(x, 0), "middle");
  }
  draw_text(out, {0.5 * (panel.left + panel.right), panel.bottom + 46.0}, "soft", "epoch",
            "middle");
}

void draw_polyline(std::ostream& out, const Panel& panel, const std::vector<Point>& points,
                   const std::string& css) {
  if (points.size() < 2) return;
  out << "<polyline class='" << css << "' points='";
  for (const Point& value : points) {
    const Point p = panel.at({value.x, std::clamp(value.y, panel.y.low, panel.y.high)});
    out << fixed(p.x, 1) << ',' << fixed(p.y, 1) << ' ';
  }
  out << "'/>\n";
}

/// A tint that fades from a curve to the axis.
void draw_area(std::ostream& out, const Panel& panel, const std::vector<Point>& points,
               const std::string& css) {
  if (points.size() < 2) return;
  std::vector<Point> outline{{points.front().x, panel.y.low}};
  outline.insert(outline.end(), points.begin(), points.end());
  outline.push_back({points.back().x, panel.y.low});
  draw_polyline(out, panel, outline, css);
}

/// Writes the labels beside the ends of the curves, moved apart where they would touch.
void draw_labels(std::ostream& out, const Panel& panel, const std::vector<Series>& all) {
  constexpr double kLine = 18.0;
  struct Label {
    double y;
    std::size_t colour;
  };
  std::vector<Label> labels;
  for (std::size_t i = 0; i < all.size(); ++i) {
    const auto& curve = all[i].curve;
    const double end = curve.empty() ? panel.y.low : curve.back().y;
    labels.push_back({panel.at({0.0, std::clamp(end, panel.y.low, panel.y.high)}).y, i});
  }
  std::sort(labels.begin(), labels.end(), [](auto a, auto b) { return a.y < b.y; });
  double above = panel.top - 2.0 * kLine;
  for (auto& label : labels) {
    const double height = kLine * static_cast<double>(all[label.colour].label.size());
    label.y = std::max(label.y, above);
    above = label.y + height + 8.0;
  }
  const double overshoot = labels.empty() ? 0.0 : std::max(0.0, above - kLine - 8.0 - panel.bottom);
  for (const auto& label : labels) {
    const std::string colour = std::to_string(label.colour);
    double y = label.y - overshoot + 5.0;
    for (const auto& text : all[label.colour].label) {
      const bool is_name = &text == &all[label.colour].label.front();
      draw_text(out, {panel.right + 14.0, y}, is_name ? "name f" + colour : "soft", text);
      y += kLine;
    }
  }
}

void draw_panel(std::ostream& out, const Panel& panel, const std::string& heading,
                const std::vector<Series>& all) {
  draw_axes(out, panel, heading);
  for (std::size_t i = 0; i < all.size(); ++i) {
    draw_area(out, panel, all[i].curve, "a" + std::to_string(i));
  }
  for (std::size_t i = all.size(); i-- > 0;) {  // the first on top
    const std::string colour = std::to_string(i);
    draw_polyline(out, panel, all[i].curve, "line s" + colour);
    draw_polyline(out, panel, all[i].tests, "test s" + colour);
    for (const Point& test : all[i].tests) draw_dot(out, panel.at(test), "dot f" + colour);
  }
  draw_labels(out, panel, all);
}

void draw_key(std::ostream& out, Point at) {
  draw_line(out, at, {at.x + 30.0, at.y}, "line key");
  draw_text(out, {at.x + 40.0, at.y + 5.0}, "soft", "training, mean of a twentieth of an epoch");
  draw_dot(out, {at.x + 374.0, at.y}, "dot key-dot");
  draw_text(out, {at.x + 386.0, at.y + 5.0}, "soft", "test, after an epoch");
}

std::pair<double, double> range_of(const std::vector<Series>& all, double low, double high) {
  for (const auto& series : all) {
    for (const auto* points : {&series.curve, &series.tests}) {
      for (const Point& point : *points) {
        low = std::min(low, point.y);
        high = std::max(high, point.y);
      }
    }
  }
  return {low, high};
}

}  // namespace

void write_svg(std::ostream& out, const std::string& title, const std::string& subtitle,
               const std::vector<History>& histories) {
  std::vector<Series> accuracy, loss;
  std::size_t epochs = 1;
  for (const auto& history : histories) {
    accuracy.push_back(accuracy_series(history));
    loss.push_back(loss_series(history));
    epochs = std::max(epochs, history.epochs.size());
  }
  Scale x = Scale::around(0.0, static_cast<double>(epochs));
  x.step = std::max(1.0, x.step);
  x.high = static_cast<double>(epochs);
  const auto [lowest, highest] = range_of(accuracy, 1.0, 1.0);
  const Scale accuracy_scale = Scale::around(lowest, highest);
  const Scale loss_scale =
      Scale::around(0.0, std::min(range_of(loss, 0.0, 0.1).second, kHighestLoss));

  out << "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 " << fixed(kWidth, 0) << ' '
      << fixed(kHeight, 0) << "' width='" << fixed(kWidth, 0) << "' height='" << fixed(kHeight, 0)
      << "' role='img'>\n<title>" << escaped(title) << "</title>\n"
      << kStyle;
  out << "<rect class='card' x='0.5' y='0.5' width='" << fixed(kWidth - 1.0, 0) << "' height='"
      << fixed(kHeight - 1.0, 0) << "' rx='14'/>\n";
  draw_text(out, {40.0, 50.0}, "title", title);
  draw_text(out, {40.0, 76.0}, "soft", subtitle);
  draw_key(out, {42.0, kHeight - 28.0});
  draw_panel(out, {84.0, 140.0, 470.0, 410.0, x, accuracy_scale}, "Accuracy", accuracy);
  draw_panel(out, {642.0, 140.0, 910.0, 410.0, x, loss_scale}, "Loss (cross entropy, training)",
             loss);
  out << "</svg>\n";
}

}  // namespace fashion_mnist
