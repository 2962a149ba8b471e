// SPDX-License-Identifier: MIT
// Tells how far the training is: a bar on a terminal, now and then a line elsewhere.
#pragma once

#include <chrono>
#include <cstddef>
#include <string>

namespace fashion_mnist {

class Progress {
 public:
  /// total: images to come, over all epochs and networks.
  explicit Progress(std::size_t total);

  /// images more are done; epoch is as in "epoch 2/3", status says how the networks do.
  void advance(std::size_t images, const std::string& epoch, const std::string& status);

  /// Prints a line of its own, over the bar.
  void line(const std::string& text);

 private:
  using Clock = std::chrono::steady_clock;

  std::size_t total_;
  std::size_t done_ = 0;
  bool terminal_;
  Clock::time_point start_ = Clock::now();
  Clock::time_point next_ = start_;  // nothing is printed before
};

}  // namespace fashion_mnist
