// SPDX-License-Identifier: MIT
// Tells how far the training is: a bar on a terminal, now and then a line elsewhere.
#pragma once

#include <chrono>
#include <cstddef>
#include <string>

namespace fashion_mnist {

/// What a progress line tells.
struct ProgressLine {
  std::string label;          // "epoch 2/3"
  double fraction = 0.0;      // that is done
  double seconds_left = 0.0;  // as far as can be told
  double rate = 0.0;          // images per second
  std::string measure;        // what the numbers of the status are, as in "accuracy"
  std::string status;         // "with BN 0.832, without BN 0.452"
};

/// The line with a bar, at most `columns` wide. If the line is too long, it leaves out the rate, then
/// the measure, the bar and the time left, so that the status is shown.
[[nodiscard]] std::string text_of(const ProgressLine& line, std::size_t columns);

class Progress {
 public:
  /// total: images to come, over all epochs and networks.
  explicit Progress(std::size_t total);

  /// images more are done. The strings are those of ProgressLine.
  void advance(std::size_t images, const std::string& label, const std::string& status,
               const std::string& measure = "");

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
