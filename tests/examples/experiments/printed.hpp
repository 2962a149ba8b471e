// SPDX-License-Identifier: MIT
// Runs an example as a user does and reads its tables.
#pragma once

#include <string>
#include <vector>

namespace testing {

/// What an example printed.
class Printed {
 public:
  /// Runs the example; fails the test unless it ends with code 0.
  explicit Printed(const std::string& example, const std::string& arguments = "");

  /// The numbers in the line that starts with the label (runs of blanks count as one) and goes on
  /// with a number; of several such lines, the one of that index. Fails the test if there is none.
  [[nodiscard]] std::vector<double> row(const std::string& label, int index = 0) const;

  /// The last line. Fails the test if it is no verdict.
  [[nodiscard]] std::string verdict() const;

 private:
  std::vector<std::string> lines_;
};

/// Requires the printed numbers to be the expected ones within a margin. By default that is one unit
/// of the fourth decimal, to which most tables are printed and most expected values rounded.
void require_near(const std::vector<double>& printed, const std::vector<double>& expected,
                  double margin = 1.01e-4);

/// Requires low <= number <= high for every number.
void require_within(const std::vector<double>& numbers, double low, double high);

}  // namespace testing
