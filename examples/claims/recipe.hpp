// SPDX-License-Identifier: MIT
// What is trained, on what and how: everything that a claim may vary, with defaults that it keeps.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace claims {

enum class Kind {
  perceptron,   // linear layers
  lenet,        // of the fashion_mnist example
  small_conv,   // two 3 x 3 convolutions on images of half the size
  volume_conv,  // two 3 x 3 x 3 convolutions on stacked images
};
enum class Function { sigmoid, relu };
enum class Schedule { constant, linear };         // linear: the rate sinks to 0
enum class Statistics { mini_batch, whole_set };  // that batch norm normalizes with in training

struct Network {
  Kind kind = Kind::perceptron;
  Function function = Function::relu;
  bool batch_norm = true;
  int hidden = 2;              // layers, of the perceptron
  int width = 128;             // of these
  bool residual = false;       // pairs of its hidden layers bridged, batch norm and function first
  double dropout = 0.0;        // of its hidden values
  bool response_norm = false;  // of small_conv: local response normalization
  bool normalize_input = false;  // of lenet: a batch norm before all
  Statistics statistics = Statistics::mini_batch;
  double hidden_scale = 1.0;  // all initial weights times this, but for the last layer's
  double last_scale = 1.0;    // these times this
};

struct Recipe {
  std::string name;  // "with BN"
  Network network;
  std::size_t train_images = 6400;  // or volumes
  std::size_t test_images = 1000;
  bool raw_pixels = false;  // 0 to 255, else standardized
  bool distort = false;     // shifts and flips
  int steps = 100;
  std::size_t batch = 64;
  double rate = 0.1;  // of SGD, at its start
  Schedule schedule = Schedule::constant;
  double l2 = 0.0;      // the loss grows by l2 / 2 * sum w^2 over the weights,
  double l1 = 0.0;      // and by l1 * sum |w|
  int renew_every = 1;  // steps between renewals of the statistics, under Statistics::whole_set
  bool look_inside = false;  // fill Outcome::before; for perceptrons without bridges
};

/// What one layer's activations and gradients look like.
struct LayerState {
  double mean = 0.0, variance = 0.0;  // of its activations
  double gradient = 0.0;              // norm of dW
};

struct Score {
  double loss = 0.0;
  double accuracy = 0.0;
};

/// A loss that is higher or not finite counts as this: guessing costs ln 10 = 2.3.
inline constexpr double kHighestLoss = 3.0;

struct Outcome {
  std::vector<double> loss;  // of each step's batch, at most kHighestLoss
  Score train, test;         // after the training, in eval mode; the loss is at most kHighestLoss
  std::vector<LayerState> before;  // the training, of each hidden layer

  /// The mean over the last tenth of the steps.
  [[nodiscard]] double final_loss() const;
};

}  // namespace claims
