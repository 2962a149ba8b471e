// SPDX-License-Identifier: MIT
// Random numbers that are the same on every machine, compiler and version of Eigen (whose
// setRandom() is not), so that a failing test fails again.
#pragma once

#include <cmath>
#include <cstdint>

namespace testing {

/// splitmix64 (Steele, Lea and Flood, 2014): one 64-bit word of state, good enough for tests.
class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed) {}

  std::uint64_t bits() {
    state_ += 0x9e3779b97f4a7c15u;
    std::uint64_t z = state_;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }

  /// Uniform in [low, high).
  double uniform(double low = 0.0, double high = 1.0) {
    return low + (high - low) * (static_cast<double>(bits() >> 11) * 0x1p-53);
  }

  /// Normal, by Box and Muller; 1 - u keeps the logarithm finite.
  double normal(double mean = 0.0, double deviation = 1.0) {
    const double radius = std::sqrt(-2.0 * std::log(1.0 - uniform()));
    return mean + deviation * radius * std::cos(6.283185307179586 * uniform());
  }

  /// Fills anything with data() and size(), an Eigen matrix or tensor, with normal numbers.
  template <typename Dense>
  void fill(Dense& values, double mean = 0.0, double deviation = 1.0) {
    for (decltype(values.size()) i = 0; i < values.size(); ++i) {
      values.data()[i] = static_cast<typename Dense::Scalar>(normal(mean, deviation));
    }
  }

 private:
  std::uint64_t state_;
};

template <class Dense>
Dense filled(Dense values, std::uint64_t seed) {
  Random(seed).fill(values);
  return values;
}

}  // namespace testing
