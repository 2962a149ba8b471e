// SPDX-License-Identifier: MIT
// What one network did while it learned.
#pragma once

#include <string>
#include <vector>

namespace fashion_mnist {

/// A stretch of training, a twentieth of an epoch.
struct CurvePoint {
  double epoch = 0.0;  // its middle, in epochs since the start
  double loss = 0.0;   // means over the stretch
  double train_accuracy = 0.0;
};

struct EpochResult {
  double loss = 0.0;            // running over the epoch, as the weights change
  double train_accuracy = 0.0;  // likewise
  double test_accuracy = 0.0;   // after it
  double seconds = 0.0;         // of training, without the test
};

struct History {
  std::string network;  // "with BN"
  std::vector<CurvePoint> curve;
  std::vector<EpochResult> epochs;
};

}  // namespace fashion_mnist
