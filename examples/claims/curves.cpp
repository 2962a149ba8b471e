// SPDX-License-Identifier: MIT
#include "curves.hpp"

#include <algorithm>
#include <numeric>

namespace claims {

plot::Series curve(const std::string& name, Style style, const std::vector<double>& x,
                   const std::vector<std::vector<double>>& values) {
  plot::Series series;
  series.name = name;
  series.colour = style.colour;
  series.dashed = style.dashed;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const Interval interval = interval_of(values[i]);
    plot::add_finite(series.curve, {x[i], interval.mean});
    plot::add_finite(series.low, {x[i], interval.mean - interval.deviation});
    plot::add_finite(series.high, {x[i], interval.mean + interval.deviation});
  }
  return series;
}

plot::Series loss_curve(const std::string& name, Style style, const std::vector<Outcome>& seeds) {
  const std::size_t steps = seeds.front().loss.size();
  const std::size_t points = std::min<std::size_t>(50, steps);
  std::vector<double> x;
  std::vector<std::vector<double>> values;
  for (std::size_t i = 0; i < points; ++i) {
    const auto begin = static_cast<std::ptrdiff_t>(i * steps / points);
    const auto end = static_cast<std::ptrdiff_t>((i + 1) * steps / points);
    x.push_back(0.5 * static_cast<double>(begin + end));
    values.emplace_back();
    for (const auto& outcome : seeds) {
      const auto first = outcome.loss.begin();
      values.back().push_back(std::accumulate(first + begin, first + end, 0.0) /
                              static_cast<double>(end - begin));
    }
  }
  return curve(name, style, x, values);
}

plot::Series measure_curve(const std::string& name, Style style, const std::vector<double>& x,
                           const std::vector<std::vector<Outcome>>& conditions, Measure measure) {
  std::vector<std::vector<double>> values;
  for (const auto& seeds : conditions) values.push_back(values_of(seeds, measure));
  return curve(name, style, x, values);
}

}  // namespace claims
