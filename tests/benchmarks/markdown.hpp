// SPDX-License-Identifier: MIT
// Numbers, machines and tables, as reports write them.
#pragma once

#include <cmath>
#include <cstdio>
#include <fstream>
#include <ostream>
#include <string>
#include <vector>

#include "statistics.hpp"

namespace bench {

inline std::string number(double value, const char* format) {
  if (std::isnan(value)) return "";
  char text[32];
  std::snprintf(text, sizeof text, format, value);
  return text;
}
inline std::string times(double ratio) { return number(ratio, "%.2f"); }
inline std::string percent(double share) { return number(100 * share, "%.0f %%"); }
inline std::string interval(const Interval& ratio) {
  return times(ratio.median) + " [" + times(ratio.low) + ", " + times(ratio.high) + "]";
}
inline std::string duration(double seconds) {
  return seconds < 1e-3 ? number(seconds * 1e6, "%.3g us") : number(seconds * 1e3, "%.3g ms");
}

#if defined(__clang__)
constexpr const char* compiler = "clang " __clang_version__;
#else
constexpr const char* compiler = "g++ " __VERSION__;
#endif

inline std::string cpu_name() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    if (line.rfind("model name", 0) == 0) return line.substr(line.find(':') + 2);
  }
  return "unknown processor";
}

inline void write_row(std::ostream& out, const std::vector<std::string>& cells) {
  for (const std::string& cell : cells) out << "| " << cell << " ";
  out << "|\n";
}
inline void write_head(std::ostream& out, const std::vector<std::string>& cells) {
  write_row(out, cells);
  write_row(out, std::vector<std::string>(cells.size(), "---"));
}

}  // namespace bench
