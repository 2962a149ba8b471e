// SPDX-License-Identifier: MIT
// Reads numbers of a command line and shows how far a measurement is.
#pragma once

#include <unistd.h>  // isatty

#include <cstddef>
#include <cstdlib>
#include <iostream>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace bench {

inline int positive(const std::string& option, const std::string& text) {
  char* end = nullptr;
  const long number = std::strtol(text.c_str(), &end, 10);
  if (text.empty() || *end != '\0' || number < 1 || number > 1000000) {
    throw std::invalid_argument(option + " expects a positive number, got '" + text + "'");
  }
  return static_cast<int>(number);
}

inline std::vector<int> positives(const std::string& option, const std::string& list) {
  std::vector<int> numbers;
  std::istringstream stream(list);
  for (std::string number; std::getline(stream, number, ',');) {
    numbers.push_back(positive(option, number));
  }
  return numbers;
}

inline void show_progress(std::size_t done, std::size_t all, const std::string& name) {
  const bool is_terminal = isatty(STDERR_FILENO) != 0;
  if (!is_terminal && done % 10 != 0) return;
  std::cerr << (is_terminal ? "\r\033[K" : "") << "[" << done << "/" << all << "] " << name
            << (is_terminal ? "" : "\n") << std::flush;
}

}  // namespace bench
