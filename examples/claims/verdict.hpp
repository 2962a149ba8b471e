// SPDX-License-Identifier: MIT
// The rule by which numbers become a verdict, the same for every claim.
#pragma once

#include <string>
#include <vector>

namespace claims {

/// mean - deviation to mean + deviation, over the seeds.
struct Interval {
  double mean = 0.0;
  double deviation = 0.0;  // sqrt(sum (x - mean)^2 / (n - 1))
};

/// Throws std::invalid_argument for fewer than two values, which have no spread.
[[nodiscard]] Interval interval_of(const std::vector<double>& values);

enum class Verdict { shown, refuted, undecided };

/// Of the claim that a lies above b: shown where the intervals are apart in this order, refuted
/// where they are apart in the other, else undecided (so too where a value is not a number).
[[nodiscard]] Verdict lies_above(const Interval& a, const Interval& b);

[[nodiscard]] const char* name(Verdict verdict);

/// What was measured under one condition, a number for each seed.
struct Side {
  std::string name;  // "with BN"
  std::vector<double> values;
};

/// One measurable statement of a claim and what came of it.
struct Finding {
  std::string statement;
  std::string relation;  // between a and b, as claimed: ">" or "<"
  std::string name_a, name_b;
  Interval a, b;
  Verdict verdict = Verdict::undecided;
};

[[nodiscard]] Finding above(const std::string& statement, const Side& a, const Side& b);
[[nodiscard]] Finding below(const std::string& statement, const Side& a, const Side& b);

/// Against a number, an interval of no width.
[[nodiscard]] Finding above(const std::string& statement, const Side& a, double b);
[[nodiscard]] Finding below(const std::string& statement, const Side& a, double b);

/// "b minus a": b - a, seed by seed. The seed chooses the images, so that this spreads less than
/// either of them where they differ by little.
[[nodiscard]] Side minus(const Side& b, const Side& a);

/// "with BN 0.812 ± 0.013"
[[nodiscard]] std::string text(const std::string& name, const Interval& interval);

}  // namespace claims
