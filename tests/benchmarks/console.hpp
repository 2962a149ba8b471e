// SPDX-License-Identifier: MIT
// Reads a command line, shows how far a measurement is, and runs a program.
#pragma once

#include <malloc.h>
#include <unistd.h>  // isatty

#include <algorithm>
#include <cstddef>
#include <cstdlib>
#include <exception>
#include <functional>
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

/// An option, and what it does. `takes_value` options are followed by a value.
struct Option {
  std::string name;
  bool takes_value;
  std::function<void(const std::string& value)> apply;
};

/// Applies the options of a command line in turn. --help prints the text and ends the program.
inline void parse(int argc, char** argv, const char* help, const std::vector<Option>& options) {
  for (int i = 1; i < argc; ++i) {
    const std::string given = argv[i];
    if (given == "--help") {
      std::cout << help;
      std::exit(0);
    }
    const auto option = std::find_if(options.begin(), options.end(),
                                     [&](const Option& o) { return o.name == given; });
    if (option == options.end()) {
      throw std::invalid_argument("unknown option " + given + "; see --help");
    }
    if (option->takes_value && ++i == argc) {
      throw std::invalid_argument(given + " expects a value; see --help");
    }
    option->apply(option->takes_value ? argv[i] : "");
  }
}

/// Calls run(), which returns the program's exit status, and prints an exception as an error.
/// Memory that was freed is used again and not given back to the system: this favours contenders
/// that allocate their results, and cells begin sooner.
template <class Run>
int run_program(const Run& run) {
  mallopt(M_MMAP_MAX, 0);
  mallopt(M_TRIM_THRESHOLD, -1);
  try {
    return run();
  } catch (const std::exception& error) {
    std::cerr << "\n" << error.what() << "\n";
    return 1;
  }
}

inline void show_progress(std::size_t done, std::size_t all, const std::string& name) {
  const bool is_terminal = isatty(STDERR_FILENO) != 0;
  if (!is_terminal && done % 10 != 0) return;
  std::cerr << (is_terminal ? "\r\033[K" : "") << "[" << done << "/" << all << "] " << name
            << (is_terminal ? "" : "\n") << std::flush;
}

}  // namespace bench
