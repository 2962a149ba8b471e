// SPDX-License-Identifier: MIT
// The command line of the program.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

namespace fashion_mnist {

enum class Model { lenet, convbn };
enum class BatchNormRuns { both, on, off };  // which networks to train
enum class OptimizerKind { sgd, adam };
enum class Schedule { constant, cosine };

struct Options {
  Model model = Model::lenet;
  BatchNormRuns bn = BatchNormRuns::both;
  bool conv_bias = true;
  int epochs = 3;
  std::size_t batch = 256;
  double learning_rate = 1.0;
  OptimizerKind optimizer = OptimizerKind::sgd;
  double momentum = 0.0;
  Schedule schedule = Schedule::constant;
  std::uint64_t seed = 0;
  int threads = 1;
  std::size_t images = 0;  // of the training set, and at most as many of the test set; 0 is all
  std::string data = "/usr/share/datasets/fashion-mnist";
  std::string out = FASHION_MNIST_OUT;  // defined by CMake, a folder that git ignores
};

/// Nothing if --help was given and printed. Throws OptionError (command_line.hpp) for a bad option.
[[nodiscard]] std::optional<Options> parse_options(int argc, const char* const* argv);

[[nodiscard]] const char* name(Model model);
[[nodiscard]] const char* name(OptimizerKind optimizer);
[[nodiscard]] const char* name(Schedule schedule);

}  // namespace fashion_mnist
