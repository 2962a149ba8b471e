// SPDX-License-Identifier: MIT
#include "report.hpp"

#include <cstdio>
#include <iomanip>
#include <ostream>
#include <string>

namespace fashion_mnist {
namespace {

constexpr Eigen::Index kPerLine = 8;

template <class Values>
void print_values(std::ostream& out, const char* label, const Values& values) {
  for (Eigen::Index i = 0; i < values.size(); ++i) {
    if (i % kPerLine == 0) out << (i == 0 ? "  " : "\n  ") << std::setw(6) << (i == 0 ? label : "");
    out << std::fixed << std::setprecision(3) << std::setw(9) << values[i];
  }
  out << '\n';
}

std::string digits(double accuracy) {
  char text[32];
  std::snprintf(text, sizeof text, "%.3f", accuracy);
  return text;
}

std::string last_test_accuracy(const Run& run) {
  return digits(run.history.epochs.back().test_accuracy);
}

}  // namespace

void print_verdict(std::ostream& out, const std::vector<Run>& runs) {
  const std::size_t epochs = runs.front().history.epochs.size();
  out << "\nVerdict: after " << epochs << (epochs == 1 ? " epoch, " : " epochs, ");
  if (runs.size() == 1) {
    out << "the network " << runs[0].history.network << " has a test accuracy of "
        << last_test_accuracy(runs[0]) << ".\n";
    return;
  }
  const std::string with = last_test_accuracy(runs[0]), without = last_test_accuracy(runs[1]);
  out << "batch normalization "
      << (with == without  ? "does NOT change"
          : with > without ? "raises"
                           : "LOWERS")
      << " the test accuracy: " << with << " with it, " << without << " without it.\n";
}

void print_table(std::ostream& out, const std::vector<Run>& runs) {
  out << "\n  network     epoch    loss   train    test   seconds\n";
  for (const auto& run : runs) {
    int epoch = 0;
    for (const auto& result : run.history.epochs) {
      out << "  " << std::left << std::setw(10) << run.history.network << std::right << std::setw(7)
          << ++epoch << std::fixed << std::setprecision(3) << std::setw(8) << result.loss
          << std::setw(8) << result.train_accuracy << std::setw(8) << result.test_accuracy
          << std::setprecision(1) << std::setw(10) << result.seconds << '\n';
    }
  }
}

void print_first_batch_norm(std::ostream& out, std::vector<Run>& runs) {
  for (auto& run : runs) {
    for (std::size_t i = 0; i < run.model.size(); ++i) {
      auto* layer = dynamic_cast<nn::BatchNorm2d<float>*>(&run.model.layer(i));
      if (layer == nullptr) continue;
      out << "\n  What the first batch norm layer learned, by channel\n";
      print_values(out, "gamma", layer->norm().gamma());
      print_values(out, "beta", layer->norm().beta());
      break;
    }
  }
}

void write_epochs_csv(std::ostream& out, const std::vector<Run>& runs) {
  out << "network,epoch,loss,train_accuracy,test_accuracy,seconds\n";
  for (const auto& run : runs) {
    int epoch = 0;
    for (const auto& result : run.history.epochs) {
      out << run.history.network << ',' << ++epoch << ',' << result.loss << ','
          << result.train_accuracy << ',' << result.test_accuracy << ',' << result.seconds << '\n';
    }
  }
}

void write_curves_csv(std::ostream& out, const std::vector<Run>& runs) {
  out << "network,epoch,loss,train_accuracy\n";
  for (const auto& run : runs) {
    for (const auto& point : run.history.curve) {
      out << run.history.network << ',' << point.epoch << ',' << point.loss << ','
          << point.train_accuracy << '\n';
    }
  }
}

}  // namespace fashion_mnist
