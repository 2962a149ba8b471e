// SPDX-License-Identifier: MIT
#include "report.hpp"

#include <iomanip>
#include <ostream>

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

}  // namespace

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
