// SPDX-License-Identifier: MIT
// Numbers at the ends of a type's range, and beyond. What is here and in the tests that use it is
// compiled a second time with -ffast-math, under which comparisons with NaN and infinity mean nothing:
// bits are looked at, too.
#pragma once

#include <algorithm>
#include <array>
#include <batchnorm/batchnorm.hpp>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

#include "support/catch.hpp"

namespace testing {

using batchnorm::BatchNorm1d;
using batchnorm::Options;
using Eigen::Index;

enum class Class { finite, infinite, nan };

inline Class class_of(double v) {
  std::uint64_t bits;
  std::memcpy(&bits, &v, sizeof bits);
  bits &= 0x7fffffffffffffffu;
  return bits < 0x7ff0000000000000u    ? Class::finite
         : bits == 0x7ff0000000000000u ? Class::infinite
                                       : Class::nan;
}
inline Class class_of(float v) {
  std::uint32_t bits;
  std::memcpy(&bits, &v, sizeof bits);
  bits &= 0x7fffffffu;
  return bits < 0x7f800000u ? Class::finite : bits == 0x7f800000u ? Class::infinite : Class::nan;
}
inline Class class_of(Eigen::half v) { return class_of(static_cast<float>(v)); }
inline Class class_of(Eigen::bfloat16 v) { return class_of(static_cast<float>(v)); }
template <class Scalar>
bool is_finite_value(Scalar v) {
  return class_of(v) == Class::finite;
}

/// The number whose bits are one of three patterns. Which one is not known until the program runs.
template <class Scalar, class Bits>
Scalar from_bits(const std::array<Bits, 3>& patterns, int which) {
  const volatile Bits unknown = patterns[static_cast<std::size_t>(which)];
  const Bits bits = unknown;
  return Eigen::numext::bit_cast<Scalar>(bits);
}

/// Infinity, minus infinity, NaN: from bits that are not known until the program runs, and with no
/// arithmetic. Compilers under -ffast-math do not believe in these: g++ 14 makes of a negated infinity
/// minus the largest number, clang 19 any number of one that it sees.
template <class Scalar>
Scalar special(int which) {
  using U64 = std::uint64_t;
  using U32 = std::uint32_t;
  using U16 = std::uint16_t;
  if constexpr (std::is_same_v<Scalar, double>) {
    return from_bits<double, U64>({0x7ff0000000000000u, 0xfff0000000000000u, 0x7ff8000000000000u},
                                  which);
  } else if constexpr (std::is_same_v<Scalar, float>) {
    return from_bits<float, U32>({0x7f800000u, 0xff800000u, 0x7fc00000u}, which);
  } else if constexpr (std::is_same_v<Scalar, Eigen::half>) {
    return from_bits<Eigen::half, U16>({0x7c00, 0xfc00, 0x7e00}, which);
  } else {
    return from_bits<Eigen::bfloat16, U16>({0x7f80, 0xff80, 0x7fc0}, which);
  }
}

/// (N, C) by either loop: column-major has each channel in a run, row-major all side by side.
template <class Scalar>
using Runs = Eigen::Matrix<Scalar, Eigen::Dynamic, Eigen::Dynamic>;
template <class Scalar>
using Rows = Eigen::Matrix<Scalar, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
template <class Scalar>
using Column = Eigen::Matrix<Scalar, Eigen::Dynamic, 1>;

/// Calls f(matrix) with the columns in either order, 9 columns: more than a vector, and no multiple.
template <class Scalar, class F>
void in_both_orders(const Column<Scalar>& column, const F& f) {
  {
    INFO("channels in runs");
    f(Runs<Scalar>(column.replicate(1, 9)));
  }
  {
    INFO("channels side by side");
    f(Rows<Scalar>(column.replicate(1, 9)));
  }
}

/// The largest |y - exact| over both orders, in units of max(1, |exact|); infinite if y is not
/// finite where it ought to be. The exact y is computed from the values over `unit`.
template <class Scalar>
double worst_error(const Column<Scalar>& x, double unit, Options options, double gamma = 1,
                   double beta = 0) {
  const Index n = x.size();
  long double mean = 0, var = 0;
  for (Index i = 0; i < n; ++i) {
    mean += static_cast<long double>(x[i]) / unit / static_cast<long double>(n);
  }
  for (Index i = 0; i < n; ++i) {
    const long double d = static_cast<long double>(x[i]) / unit - mean;
    var += d * d / static_cast<long double>(n);
  }
  const long double eps = options.eps / unit / static_cast<long double>(unit);
  double worst = 0;
  in_both_orders<Scalar>(x, [&](const auto& columns) {
    BatchNorm1d<Scalar> layer(9, options);
    layer.gamma().setConstant(static_cast<typename BatchNorm1d<Scalar>::Param>(gamma));
    layer.beta().setConstant(static_cast<typename BatchNorm1d<Scalar>::Param>(beta));
    const auto y = layer.forward(columns);
    for (Index c = 0; c < 9; ++c) {
      for (Index i = 0; i < n; ++i) {
        const long double d = static_cast<long double>(x[i]) / unit - mean;
        const long double e = gamma * (d / std::sqrt(var + eps)) + beta;
        const double error =
            is_finite_value(y(i, c))
                ? static_cast<double>(std::abs(static_cast<long double>(y(i, c)) - e))
                : std::numeric_limits<double>::max();
        worst = std::max(worst, error / std::max(1.0, std::abs(static_cast<double>(e))));
      }
    }
  });
  return worst;
}

// Float is promised 6e-7 of max(1, |y|) for beta 0. The bounds need not hold under -ffast-math,
// nor is one promised for double: there it is enough to see the right values.
#if defined(__FAST_MATH__)
inline constexpr double float_bound = 1e-5, bound_near_zero = 1e-2;  // squares below 1e-38 become 0
#else
inline constexpr double float_bound = 6e-7, bound_near_zero = 6e-7;
#endif
inline constexpr double double_bound = 1e-12;

}  // namespace testing
