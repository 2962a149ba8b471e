// SPDX-License-Identifier: MIT
#include "verdict.hpp"

#include <cmath>
#include <cstdio>
#include <stdexcept>

namespace claims {
namespace {

Finding finding(const std::string& statement, const Side& a, const std::string& name_b,
                const Interval& b) {
  Finding result;
  result.statement = statement;
  result.name_a = a.name;
  result.name_b = name_b;
  result.a = interval_of(a.values);
  result.b = b;
  return result;
}

Finding judged_above(Finding finding) {
  finding.relation = ">";
  finding.verdict = lies_above(finding.a, finding.b);
  return finding;
}

Finding judged_below(Finding finding) {
  finding.relation = "<";
  finding.verdict = lies_above(finding.b, finding.a);
  return finding;
}

/// Three digits of a number, without exponents between 0.001 and 10000.
std::string digits(double value) {
  const double size = std::abs(value);
  const char* format = size == 0.0    ? "%.0f"
                       : size < 1e-3  ? "%.1e"
                       : size < 1.0   ? "%.3f"
                       : size < 10.0  ? "%.2f"
                       : size < 100.0 ? "%.1f"
                       : size < 1e4   ? "%.0f"
                                      : "%.1e";
  char text[32];
  std::snprintf(text, sizeof text, format, value);
  return text;
}

}  // namespace

Interval interval_of(const std::vector<double>& values) {
  if (values.size() < 2) {
    throw std::invalid_argument("[claims] expected the values of at least 2 seeds, got " +
                                std::to_string(values.size()));
  }
  const auto n = static_cast<double>(values.size());
  Interval result;
  for (const double value : values) result.mean += value / n;
  double squares = 0.0;
  for (const double value : values) squares += (value - result.mean) * (value - result.mean);
  result.deviation = std::sqrt(squares / (n - 1.0));
  return result;
}

Verdict lies_above(const Interval& a, const Interval& b) {
  if (a.mean - a.deviation > b.mean + b.deviation) return Verdict::shown;
  if (a.mean + a.deviation < b.mean - b.deviation) return Verdict::refuted;
  return Verdict::undecided;
}

const char* name(Verdict verdict) {
  return verdict == Verdict::shown     ? "shown"
         : verdict == Verdict::refuted ? "refuted"
                                       : "undecided";
}

Finding above(const std::string& statement, const Side& a, const Side& b) {
  return judged_above(finding(statement, a, b.name, interval_of(b.values)));
}

Finding below(const std::string& statement, const Side& a, const Side& b) {
  return judged_below(finding(statement, a, b.name, interval_of(b.values)));
}

Finding above(const std::string& statement, const Side& a, double b) {
  return judged_above(finding(statement, a, "", {b, 0.0}));
}

Finding below(const std::string& statement, const Side& a, double b) {
  return judged_below(finding(statement, a, "", {b, 0.0}));
}

Side minus(const Side& b, const Side& a) {
  Side result{b.name + " minus " + a.name, b.values};
  for (std::size_t seed = 0; seed < a.values.size(); ++seed) result.values[seed] -= a.values[seed];
  return result;
}

std::string text(const std::string& name, const Interval& interval) {
  const std::string mean = name + (name.empty() ? "" : " ") + digits(interval.mean);
  return interval.deviation == 0.0 ? mean : mean + " ± " + digits(interval.deviation);
}

}  // namespace claims
