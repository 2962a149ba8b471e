// SPDX-License-Identifier: MIT
#pragma once

#include <Eigen/Core>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>
#include <utility>

namespace batchnorm::detail {

using Eigen::Index;

/// The type of parameters and running statistics, and the type that the kernels compute in: float
/// for half and bfloat16, otherwise the scalar itself.
template <class Scalar>
using ParamOf = std::conditional_t<std::is_same_v<Scalar, double>, double, float>;

template <class Scalar>
inline constexpr bool is_supported_scalar =
    std::is_same_v<Scalar, float> || std::is_same_v<Scalar, double> ||
    std::is_same_v<Scalar, Eigen::half> || std::is_same_v<Scalar, Eigen::bfloat16>;

/// Neither infinite nor NaN, read off the bits: -ffast-math folds std::isfinite to true.
[[nodiscard]] inline bool is_finite(double v) {
  std::uint64_t bits;
  std::memcpy(&bits, &v, sizeof bits);
  return (~bits & 0x7ff0000000000000u) != 0;
}

/// The bits of |v|, whose order as integers is that of the values, with NaN above infinity.
template <class A>
[[nodiscard]] auto magnitude_bits(A v) {
  std::conditional_t<sizeof(A) == 4, std::uint32_t, std::uint64_t> bits;
  std::memcpy(&bits, &v, sizeof bits);
  return bits << 1 >> 1;
}

[[nodiscard]] inline bool is_nan(double v) {
  std::uint64_t bits;
  std::memcpy(&bits, &v, sizeof bits);
  return (bits & 0x7fffffffffffffffu) > 0x7ff0000000000000u;
}

/// Without branches, unlike &&: for loops over channels that compilers are to vectorize.
template <class... Bool>
[[nodiscard]] constexpr bool all_of(Bool... conditions) {
  return (static_cast<int>(conditions) & ...) != 0;
}

/// v rounded to A; what lies beyond A's range becomes infinite.
template <class A>
[[nodiscard]] A narrow(double v) {
  if constexpr (!std::is_same_v<A, double>) {
    constexpr double largest = static_cast<double>(std::numeric_limits<A>::max());
    if (is_finite(v) && (v > largest || v < -largest)) {
      return v > 0 ? std::numeric_limits<A>::infinity() : -std::numeric_limits<A>::infinity();
    }
  }
  return static_cast<A>(v);
}

/// An Index that becomes 0 when it is moved from, so that what is left of an object can be told.
class ClearedByMove {
 public:
  explicit ClearedByMove(Index value) : value_(value) {}
  ClearedByMove(const ClearedByMove&) = default;
  ClearedByMove& operator=(const ClearedByMove&) = default;
  ClearedByMove(ClearedByMove&& from) noexcept : value_(std::exchange(from.value_, 0)) {}
  ClearedByMove& operator=(ClearedByMove&& from) noexcept {
    value_ = std::exchange(from.value_, 0);
    return *this;
  }
  operator Index() const { return value_; }

 private:
  Index value_;
};

/// v rounded to A; what finite values made too large for A becomes its largest finite value.
template <class A>
[[nodiscard]] A saturated(double v) {
  constexpr A largest = std::numeric_limits<A>::max();
  if (is_nan(v)) return static_cast<A>(v);
  if (is_finite(v) && std::abs(v) <= static_cast<double>(largest)) return static_cast<A>(v);
  return v > 0 ? largest : -largest;
}

}  // namespace batchnorm::detail
