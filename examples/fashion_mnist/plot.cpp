// SPDX-License-Identifier: MIT
#include "plot.hpp"

#include <algorithm>
#include <ostream>
#include <utility>

#include "panel.hpp"
#include "svg.hpp"

namespace fashion_mnist {
namespace {

using plot::add_finite, plot::fixed, plot::Point, plot::Scale, plot::Series;

constexpr plot::Size kSize{1040.0, 520.0};
constexpr double kHighestLoss = 3.0;  // guessing costs ln 10 = 2.3; what lies above is cut off

Series series_of(const History& history, std::size_t index) {
  Series series;
  series.label = {history.network};
  series.colour = static_cast<int>(index);
  series.fade = true;
  return series;
}

Series accuracy_series(const History& history, std::size_t index) {
  Series series = series_of(history, index);
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

Series loss_series(const History& history, std::size_t index) {
  Series series = series_of(history, index);
  for (const auto& point : history.curve) add_finite(series.curve, {point.epoch, point.loss});
  if (!history.epochs.empty())
    series.label.push_back("loss " + fixed(history.epochs.back().loss, 3));
  return series;
}

void draw_key(std::ostream& out, Point at) {
  plot::draw_line(out, at, {at.x + 30.0, at.y}, "line key");
  plot::draw_text(out, {at.x + 40.0, at.y + 5.0}, "soft",
                  "training, mean of a twentieth of an epoch");
  plot::draw_dot(out, {at.x + 374.0, at.y}, "dot key-dot");
  plot::draw_text(out, {at.x + 386.0, at.y + 5.0}, "soft", "test, after an epoch");
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
    accuracy.push_back(accuracy_series(history, accuracy.size()));
    loss.push_back(loss_series(history, loss.size()));
    epochs = std::max(epochs, history.epochs.size());
  }
  Scale x = Scale::around(0.0, static_cast<double>(epochs));
  x.step = std::max(1.0, x.step);
  x.high = static_cast<double>(epochs);
  const auto [lowest, highest] = range_of(accuracy, 1.0, 1.0);
  const Scale accuracy_scale = Scale::around(lowest, highest);
  const Scale loss_scale =
      Scale::around(0.0, std::min(range_of(loss, 0.0, 0.1).second, kHighestLoss));

  plot::begin_picture(out, kSize, title, subtitle);
  draw_key(out, {42.0, kSize.height - 28.0});
  plot::draw_panel(out, {84.0, 140.0, 470.0, 410.0, x, accuracy_scale}, "Accuracy", "epoch",
                   accuracy);
  plot::draw_panel(out, {642.0, 140.0, 910.0, 410.0, x, loss_scale},
                   "Loss (cross entropy, training)", "epoch", loss);
  plot::end_picture(out);
}

}  // namespace fashion_mnist
