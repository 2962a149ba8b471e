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

/// An integer as wide as A. Conditions as such, joined by & and |, let compilers vectorize loops.
template <class A>
using Bits = std::conditional_t<sizeof(A) == 4, std::int32_t, std::int64_t>;

/// The bits of |v|, whose order as integers is that of the values, with NaN above infinity. They
/// tell what -ffast-math folds away: it takes every value to be finite.
template <class A>
[[nodiscard]] Bits<A> magnitude_bits(A v) {
  Bits<A> bits;
  std::memcpy(&bits, &v, sizeof bits);
  return bits & std::numeric_limits<Bits<A>>::max();
}

inline constexpr std::int64_t infinity_bits = 0x7ff0000000000000;
/// Neither infinite nor NaN.
[[nodiscard]] inline std::int64_t is_finite(double v) { return magnitude_bits(v) < infinity_bits; }
[[nodiscard]] inline bool is_nan(double v) { return magnitude_bits(v) > infinity_bits; }

/// NaN, not known until the program runs: under -ffast-math clang 19 makes any number of one that it
/// sees.
template <class A>
[[nodiscard]] A not_a_number() {
  const volatile Bits<A> unknown =
      static_cast<Bits<A>>(sizeof(A) == 4 ? 0x7fc00000 : 0x7ff8000000000000);
  const Bits<A> bits = unknown;
  A result;
  std::memcpy(&result, &bits, sizeof result);
  return result;
}

/// v rounded to A; what lies beyond A's range becomes infinite. Infinities are bits here, each of its
/// own: under -ffast-math clang 19 warns of one that is named, g++ 14 negates one to -max().
template <class A>
[[nodiscard]] A narrow(double v) {
  constexpr double largest = static_cast<double>(std::numeric_limits<A>::max());
  constexpr auto infinity = static_cast<Bits<A>>(sizeof(A) == 4 ? 0x7f800000 : infinity_bits);
  constexpr Bits<A> minus_infinity = infinity | std::numeric_limits<Bits<A>>::min();
  const bool is_beyond = std::abs(v) > largest;
  A result = static_cast<A>(is_beyond ? 0 : v);
  Bits<A> bits;
  std::memcpy(&bits, &result, sizeof bits);
  bits = is_beyond ? (v > 0 ? infinity : minus_infinity) : bits;
  std::memcpy(&result, &bits, sizeof bits);
  return result;
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
