// SPDX-License-Identifier: MIT
#include "scale.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "svg.hpp"

namespace plot {

Scale Scale::around(double low, double high, double least_step) {
  Scale scale;
  for (const double step : {0.001, 0.002, 0.005, 0.01, 0.02, 0.05,  0.1,   0.2,   0.5,    1.0,
                            2.0,   5.0,   10.0,  20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0}) {
    if (step < least_step) continue;
    scale.step = step;
    scale.low = std::floor(low / step + 1e-9) * step;
    scale.high = std::max(std::ceil(high / step - 1e-9) * step, scale.low + step);
    if (scale.high - scale.low <= 6.001 * step) break;
  }
  return scale;
}

Scale Scale::powers(double low, double high) {
  Scale scale;
  scale.low = low;
  scale.high = std::max(high, low * 1.001);
  scale.logarithmic = true;
  const double decades = std::log10(scale.high / scale.low);
  scale.step = decades < 2.5 ? 0.0 : std::pow(10.0, std::ceil(decades / 7.0));
  return scale;
}

double Scale::position(double value) const {
  value = std::clamp(value, low, high);
  return logarithmic ? std::log(value / low) / std::log(high / low) : (value - low) / (high - low);
}

std::vector<double> Scale::ticks() const {
  std::vector<double> all;
  if (logarithmic) {
    const double base = step > 0.0 ? step : 10.0;
    const double first = std::floor(std::log(low) / std::log(base) + 1e-9);
    for (double power = first; std::pow(base, power) <= high * (1.0 + 1e-9); ++power) {
      for (const double times : {1.0, 2.0, 5.0}) {
        const double tick = times * std::pow(base, power);
        const bool wanted = times == 1.0 || step == 0.0;
        if (wanted && tick >= low * (1.0 - 1e-9) && tick <= high * (1.0 + 1e-9)) {
          all.push_back(tick);
        }
      }
    }
  } else {
    for (double tick = low; tick < high + 1e-6 * step; tick += step) all.push_back(tick);
  }
  return all;
}

std::string Scale::label(double tick) const {
  if (!logarithmic) return fixed(tick, step < 0.01 ? 3 : step < 0.1 ? 2 : step < 1.0 ? 1 : 0);
  if (tick >= 1e-3 && tick < 1e5) {
    char text[32];
    std::snprintf(text, sizeof text, "%g", tick);
    return text;
  }
  return "1e" + fixed(std::log10(tick), 0);
}

}  // namespace plot
