// SPDX-License-Identifier: MIT
// Medians of paired ratios, and what they decide.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <utility>
#include <vector>

namespace bench {

/// The values without those that are not a number: rounds that a contender sat out.
inline std::vector<double> present(std::vector<double> values) {
  values.erase(std::remove_if(values.begin(), values.end(), [](double v) { return std::isnan(v); }),
               values.end());
  return values;
}

inline double median(std::vector<double> values) {
  values = present(std::move(values));
  if (values.empty()) return NAN;
  std::sort(values.begin(), values.end());
  const std::size_t n = values.size();
  return (values[(n - 1) / 2] + values[n / 2]) / 2;
}

/// A median and the interval that holds the true one with a probability of at least 90 %.
struct Interval {
  double low, median, high;
};

/// From order statistics: the k-th smallest and the k-th largest of n values enclose the true
/// median unless fewer than k values, which are Binomial(n, 1/2) many, lie on one of its sides.
/// The largest k that leaves at most 5 % to either side. Below 5 values there is none: the extremes.
inline Interval median_interval(std::vector<double> values) {
  values = present(std::move(values));
  if (values.empty()) return {NAN, NAN, NAN};
  std::sort(values.begin(), values.end());
  const std::size_t n = values.size();
  std::size_t k = 0;
  double exactly_k = std::pow(0.5, static_cast<double>(n));  // P(k values on one side)
  double at_most_k = exactly_k;
  while (at_most_k <= 0.05) {
    ++k;
    exactly_k *= static_cast<double>(n - k + 1) / static_cast<double>(k);
    at_most_k += exactly_k;
  }
  k = std::max<std::size_t>(k, 1);
  return {values[k - 1], median(values), values[n - k]};
}

/// Of a ratio, the peer's time / ours.
enum class Verdict { won, lost, undecided };

inline Verdict verdict(const Interval& ratio) {
  if (ratio.low > 1) return Verdict::won;
  if (ratio.high < 1) return Verdict::lost;
  return Verdict::undecided;
}

/// The smallest of each `group` consecutive values; a last group that is not full is left out, unless
/// it is the only one.
inline std::vector<double> best_of(int group, const std::vector<double>& values) {
  std::vector<double> result;
  auto begin = values.begin();
  while (values.end() - begin >= group) {
    result.push_back(*std::min_element(begin, begin + group));
    begin += group;
  }
  if (result.empty() && !values.empty()) {
    result.push_back(*std::min_element(values.begin(), values.end()));
  }
  return result;
}

/// a[i] / b[i], of measurements made in the same round.
inline std::vector<double> ratios(const std::vector<double>& a, const std::vector<double>& b) {
  std::vector<double> result(a.size());
  std::transform(a.begin(), a.end(), b.begin(), result.begin(),
                 [](double x, double y) { return x / y; });
  return result;
}

inline double geometric_mean(const std::vector<double>& values) {
  if (values.empty()) return NAN;
  double sum = 0;
  for (const double value : values) sum += std::log(value);
  return std::exp(sum / static_cast<double>(values.size()));
}

}  // namespace bench
