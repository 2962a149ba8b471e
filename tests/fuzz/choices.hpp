// SPDX-License-Identifier: MIT
// What an input says, where it is no file: bits of numbers, and choices in a test's own place.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace fuzz {

/// The bytes of an input, one after the other, and zeros when they are used up.
class Choices {
 public:
  Choices(const std::uint8_t* data, std::size_t size) : next_(data), end_(data + size) {}

  [[nodiscard]] bool are_over() const { return next_ == end_; }

  /// A number of any bits.
  template <class T>
  [[nodiscard]] T any() {
    std::array<std::uint8_t, sizeof(T)> bytes{};
    for (std::uint8_t& byte : bytes) byte = are_over() ? std::uint8_t{0} : *next_++;
    T value;
    std::memcpy(static_cast<void*>(&value), bytes.data(), sizeof value);
    return value;
  }
  /// One of `count`, at most 256.
  [[nodiscard]] int below(int count) { return any<std::uint8_t>() % count; }

  // In place of testing::Random.
  [[nodiscard]] std::uint64_t bits() { return any<std::uint16_t>(); }
  [[nodiscard]] double uniform(double low = 0, double high = 1) {
    return low + (high - low) * ((0.5 + any<std::uint8_t>()) / 256);
  }

 private:
  const std::uint8_t* next_;
  const std::uint8_t* end_;
};

}  // namespace fuzz
