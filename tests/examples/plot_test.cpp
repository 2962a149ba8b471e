// SPDX-License-Identifier: MIT
#include <limits>
#include <sstream>
#include <string>
#include <vector>

#include "../support/catch.hpp"
#include "close.hpp"
#include "picture.hpp"

namespace {

using plot::Scale;

std::vector<std::string> labels(const Scale& scale) {
  std::vector<std::string> all;
  for (const double tick : scale.ticks()) all.push_back(scale.label(tick));
  return all;
}

std::size_t count(const std::string& text, const std::string& part) {
  std::size_t found = 0;
  for (auto at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++found;
  return found;
}

using Labels = std::vector<std::string>;

/// The picture of a line from (1, 0) to (x, 1).
std::string chart_until(double x) {
  plot::Chart chart;
  chart.series.resize(1);
  chart.series[0].curve = {{1.0, 0.0}, {x, 1.0}};
  std::ostringstream out;
  plot::write_svg(out, {"", "", {}, {}, {chart}});
  return out.str();
}

/// The heights of the names in the legends of a picture that holds chart twice.
std::vector<double> legend_rows(const plot::Chart& chart) {
  std::ostringstream out;
  plot::write_svg(out, {"", "", {}, {}, {chart, chart}});
  std::vector<double> rows;
  const std::string picture = out.str();
  for (auto at = picture.find("class='text'"); at != std::string::npos;
       at = picture.find("class='text'", at + 1)) {
    rows.push_back(std::stod(picture.substr(picture.rfind("y='", at) + 3)));
  }
  return rows;
}

}  // namespace

TEST_CASE("a linear scale has round ticks around what it shows", "[plot]") {
  REQUIRE(labels(Scale::around(0.13, 0.58)) == Labels{"0.1", "0.2", "0.3", "0.4", "0.5", "0.6"});
  REQUIRE(labels(Scale::around(0.0, 97.0)) == Labels{"0", "20", "40", "60", "80", "100"});
  REQUIRE(labels(Scale::around(0.8001, 0.8019)) == Labels{"0.800", "0.801", "0.802"});
  REQUIRE(labels(Scale::around(0.0, 3.0)) ==
          Labels{"0.0", "0.5", "1.0", "1.5", "2.0", "2.5", "3.0"});
  REQUIRE(labels(Scale::around(0.0, 3.0, 1.0)) == Labels{"0", "1", "2", "3"});
  REQUIRE(Scale::around(0.0, 10.0).position(2.5) == 0.25);
}

TEST_CASE("a logarithmic scale has decades, or 1, 2 and 5 where these are few", "[plot]") {
  REQUIRE(labels(Scale::powers(0.001, 30.0)) == Labels{"0.001", "0.01", "0.1", "1", "10"});
  REQUIRE(labels(Scale::powers(2.0, 60.0)) == Labels{"2", "5", "10", "20", "50"});
  REQUIRE(labels(Scale::powers(1e-14, 1.0)) ==
          Labels{"1e-14", "1e-12", "1e-10", "1e-8", "1e-6", "1e-4", "0.01", "1"});
  REQUIRE(testing::close(Scale::powers(0.01, 100.0).position(1.0), 0.5, 1e-15));
  REQUIRE(Scale::powers(0.01, 100.0).position(-1.0) == 0.0);  // the nearer end
}

TEST_CASE("an axis ends with its data, or with a tick that is close to them", "[plot]") {
  REQUIRE(count(chart_until(29.0), ">30</text>") == 1);  // 1 of 30 is empty
  REQUIRE(count(chart_until(26.0), ">25</text>") == 1);
  REQUIRE(count(chart_until(26.0), ">30</text>") == 0);  // 4 of 30 would be empty
  REQUIRE(count(chart_until(26.0), "448.0,") == 1);      // the curve reaches the right edge
}

TEST_CASE("a text is wrapped between its words", "[plot]") {
  REQUIRE(plot::wrapped("one two  three", 7) == Labels{"one two", "three"});
  REQUIRE(plot::wrapped("one two", 6) == Labels{"one", "two"});
  REQUIRE(plot::wrapped("a longer-word", 4) == Labels{"a", "longer-word"});
  REQUIRE(plot::wrapped("", 4).empty());
}

TEST_CASE("a picture holds its charts, curves, bands and names", "[plot]") {
  plot::Series with, without;
  with.name = "with";
  with.curve = {{1.0, 0.5}, {10.0, 0.25}};
  with.low = {{1.0, -0.5}, {10.0, 0.125}};  // below 0: not on a logarithmic axis
  with.high = {{1.0, 1.5}, {10.0, 0.5}};
  without.name = "without";
  without.colour = 1;
  without.dashed = true;
  without.curve = {{1.0, 0.5}, {5.0, std::numeric_limits<double>::quiet_NaN()}, {10.0, 0.25}};
  plot::Chart chart;
  chart.heading = "heading";
  chart.x_label = "x < 1";
  chart.x_axis = chart.y_axis = plot::Axis::logarithmic;
  chart.series = {with, without};
  std::ostringstream out;
  plot::write_svg(out, {"A & B", "subtitle", {"answer"}, {"note"}, {chart, chart, chart}});
  const std::string picture = out.str();
  REQUIRE(count(picture, "A &amp; B") == 2);
  REQUIRE(count(picture, ">subtitle<") == 1);
  REQUIRE(count(picture, ">answer<") == 1);
  REQUIRE(count(picture, ">note<") == 1);
  REQUIRE(count(picture, ">heading<") == 3);
  REQUIRE(count(picture, ">without<") == 3);
  REQUIRE(count(picture, "class='line dashed s1'/>") == 3);  // in the legend
  REQUIRE(count(picture, ">x &lt; 1<") == 3);
  REQUIRE(count(picture, "<polyline class='line s0'") == 3);
  REQUIRE(count(picture, "<polyline class='line dashed s1'") == 3);
  REQUIRE(count(picture, "<polyline class='b0'") == 3);
  REQUIRE(count(picture, "<polyline class='b1'") == 0);
  REQUIRE(count(picture, "nan") + count(picture, "inf") == 0);
}

TEST_CASE("charts stand below one another, each below its legend", "[plot]") {
  plot::Chart chart;
  chart.x_label = "step";
  chart.series.resize(3);
  chart.series[2].name = "short";
  const std::vector<double> rows = legend_rows(chart);
  REQUIRE(rows[1] == rows[0]);  // two in a row
  REQUIRE(rows[2] == rows[0] + 22.0);
  REQUIRE(rows[3] > rows[2] + 200.0);  // the second chart
  chart.series[0].name = "a name of half the width";
  REQUIRE(legend_rows(chart)[1] == legend_rows(chart)[0] + 22.0);  // one in a row
}

TEST_CASE("a chart of nothing is still a chart", "[plot]") {
  std::ostringstream out;
  plot::write_svg(out, {"nothing", "", {}, {}, {plot::Chart{}}});
  REQUIRE(count(out.str(), "</svg>") == 1);
  REQUIRE(count(out.str(), "nan") + count(out.str(), "inf") == 0);
}
