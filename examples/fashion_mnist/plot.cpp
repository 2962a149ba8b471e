// SPDX-License-Identifier: MIT
#include "plot.hpp"

#include <algorithm>

#include "picture.hpp"

namespace fashion_mnist {
namespace {

using plot::add_finite, plot::fixed, plot::Series;

constexpr double kHighestLoss = 3.0;  // guessing costs ln 10 = 2.3

Series series_of(const History& history, std::size_t index) {
  Series series;
  series.name = history.network;
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
  for (const auto& result : history.epochs) {
    add_finite(series.tests, {++epoch, result.test_accuracy});
  }
  if (!history.epochs.empty()) {
    const EpochResult& last = history.epochs.back();
    series.name +=
        ": training " + fixed(last.train_accuracy, 3) + ", test " + fixed(last.test_accuracy, 3);
  }
  return series;
}

Series loss_series(const History& history, std::size_t index) {
  Series series = series_of(history, index);
  for (const auto& point : history.curve) {
    add_finite(series.curve, {point.epoch, std::min(point.loss, kHighestLoss)});
  }
  if (!history.epochs.empty()) series.name += ": " + fixed(history.epochs.back().loss, 3);
  return series;
}

bool is_cut(const History& history) {
  return std::any_of(history.curve.begin(), history.curve.end(),
                     [](const CurvePoint& point) { return point.loss > kHighestLoss; });
}

}  // namespace

void write_svg(std::ostream& out, const std::string& title, const std::string& settings,
               const std::vector<History>& histories) {
  plot::Chart accuracy, loss;
  accuracy.heading = "Accuracy";
  loss.heading = "Training loss (cross entropy)";
  for (const auto& history : histories) {
    accuracy.series.push_back(accuracy_series(history, accuracy.series.size()));
    loss.series.push_back(loss_series(history, loss.series.size()));
    if (is_cut(history)) loss.heading = "Training loss (cross entropy), cut off at 3";
  }
  for (auto* chart : {&accuracy, &loss}) {
    chart->x_label = "epoch";
    chart->least_x_step = 1.0;
  }
  plot::write_svg(out, {title,
                        "",
                        {},
                        {settings + ".",
                         "Lines: training, the mean over each twentieth of an epoch. Dots: test, "
                         "after each epoch. Numbers: the last epoch."},
                        {accuracy, loss}});
}

}  // namespace fashion_mnist
