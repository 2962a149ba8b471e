// SPDX-License-Identifier: MIT
#include "printed.hpp"

#include <array>
#include <cstdio>
#include <cstdlib>
#include <sstream>

#include "support/catch.hpp"

namespace testing {
namespace {

/// The line with every run of blanks as one.
std::string with_single_blanks(const std::string& line) {
  std::istringstream words(line);
  std::string word, out;
  while (words >> word) out += (out.empty() ? "" : " ") + word;
  return out;
}

/// The number that a word starts with, as in "20:"; false if it starts with none.
bool read_number(const std::string& word, double& number) {
  char* end = nullptr;
  number = std::strtod(word.c_str(), &end);
  return end != word.c_str();
}

}  // namespace

Printed::Printed(const std::string& example, const std::string& arguments) {
  const std::string command = std::string("'") + EXAMPLES_FOLDER + "/" + example + "' " + arguments;
  std::FILE* out = popen(command.c_str(), "r");
  REQUIRE(out != nullptr);
  std::array<char, 512> part{};
  std::string text;
  while (std::fgets(part.data(), static_cast<int>(part.size()), out) != nullptr) {
    text += part.data();
  }
  REQUIRE(pclose(out) == 0);
  std::istringstream lines(text);
  std::string line;
  while (std::getline(lines, line)) lines_.push_back(with_single_blanks(line));
}

std::vector<double> Printed::row(const std::string& label, int index) const {
  for (const std::string& line : lines_) {
    if (line.compare(0, label.size() + 1, label + " ") != 0) continue;
    std::istringstream words(line.substr(label.size()));
    std::string word;
    double number = 0;
    std::vector<double> numbers;
    while (words >> word) {
      if (read_number(word, number)) {
        numbers.push_back(number);
      } else if (numbers.empty()) {
        break;  // the label of another line goes on
      }
    }
    if (!numbers.empty() && index-- == 0) return numbers;
  }
  FAIL("no line of numbers starts with '" << label << "'");
  return {};
}

std::string Printed::verdict() const {
  REQUIRE_FALSE(lines_.empty());
  REQUIRE(lines_.back().compare(0, 9, "Verdict: ") == 0);
  return lines_.back();
}

void require_near(const std::vector<double>& printed, const std::vector<double>& expected,
                  double margin) {
  CAPTURE(printed, expected);
  REQUIRE(printed.size() == expected.size());
  for (std::size_t i = 0; i < expected.size(); ++i) {
    CAPTURE(i);
    REQUIRE(printed[i] == Approx(expected[i]).epsilon(0).margin(margin));
  }
}

void require_within(const std::vector<double>& numbers, double low, double high) {
  CAPTURE(numbers, low, high);
  for (const double number : numbers) {
    REQUIRE(number >= low);
    REQUIRE(number <= high);
  }
}

}  // namespace testing
