// SPDX-License-Identifier: MIT
#include "values.hpp"

#include <algorithm>

namespace claims {

double final_loss(const Outcome& outcome) { return outcome.final_loss(); }
double test_accuracy(const Outcome& outcome) { return outcome.test.accuracy; }
double test_loss(const Outcome& outcome) { return outcome.test.loss; }
double loss_gap(const Outcome& outcome) { return outcome.test.loss - outcome.train.loss; }

std::vector<double> values_of(const std::vector<Outcome>& seeds, Measure measure) {
  std::vector<double> values;
  for (const auto& outcome : seeds) values.push_back(measure(outcome));
  return values;
}

Side side(const std::string& name, const std::vector<Outcome>& seeds, Measure measure) {
  return {name, values_of(seeds, measure)};
}

Side gain(const std::string& name, const std::vector<Outcome>& from, const std::vector<Outcome>& to,
          Measure measure) {
  return {name, minus(side("", to, measure), side("", from, measure)).values};
}

double lowest(const std::vector<double>& values) {
  return *std::min_element(values.begin(), values.end());
}

double highest(const std::vector<double>& values) {
  return *std::max_element(values.begin(), values.end());
}

double range(const std::vector<double>& values) { return highest(values) - lowest(values); }

std::vector<double> combined(const std::vector<std::vector<Outcome>>& conditions, Measure measure,
                             Combine combine) {
  std::vector<double> result;
  for (std::size_t seed = 0; seed < conditions.front().size(); ++seed) {
    std::vector<double> values;
    for (const auto& seeds : conditions) values.push_back(measure(seeds[seed]));
    result.push_back(combine(values));
  }
  return result;
}

}  // namespace claims
