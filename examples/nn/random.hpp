// SPDX-License-Identifier: MIT
// A small random generator with the same numbers on every machine (Steele, Lea and Flood 2014).
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

namespace nn {

class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed) {}

  [[nodiscard]] std::uint64_t next() {  // splitmix64
    std::uint64_t z = (state_ += 0x9e3779b97f4a7c15U);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9U;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebU;
    return z ^ (z >> 31);
  }

  /// In [low, high).
  [[nodiscard]] double uniform(double low, double high) {
    return low + (high - low) * (static_cast<double>(next() >> 11) * 0x1p-53);
  }

  /// A random order (Fisher-Yates). The modulo's bias is below size / 2^64.
  template <class T>
  void shuffle(std::vector<T>& values) {
    for (std::size_t left = values.size(); left > 1; --left) {
      std::swap(values[left - 1], values[next() % left]);
    }
  }

 private:
  std::uint64_t state_;
};

}  // namespace nn
