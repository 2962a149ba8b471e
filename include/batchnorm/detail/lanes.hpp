// SPDX-License-Identifier: MIT
#pragma once

#include <cstring>

#include "batchnorm/detail/scalar.hpp"

// Vectors of the machine's width as plain values: v - m, v * v and the like act lane by lane, also
// with a scalar. A loop body written as a generic lambda then serves a vector and, for what is left
// at the end of a row, a single value alike.
namespace batchnorm::detail {

#if defined(__AVX512F__)
inline constexpr int vector_bytes = 64;
#elif defined(__AVX__)
inline constexpr int vector_bytes = 32;
#else
inline constexpr int vector_bytes = 16;
#endif

template <class T>
struct LanesOf {
  typedef T type __attribute__((vector_size(vector_bytes)));
};
template <class T>
using Lanes = typename LanesOf<T>::type;

/// V is a single value or a vector: the type of a lane, their number, and as many doubles.
template <class V>
struct LaneTraits {
  using Scalar = V;
  using Double = double;
};
template <>
struct LaneTraits<Lanes<float>> {
  using Scalar = float;
  typedef double Double __attribute__((vector_size(2 * vector_bytes)));
};
template <>
struct LaneTraits<Lanes<double>> {
  using Scalar = double;
  using Double = Lanes<double>;
};
template <class V>
using ScalarOf = typename LaneTraits<V>::Scalar;
template <class V>
using DoubleOf = typename LaneTraits<V>::Double;
template <class V>
inline constexpr Index width_of = static_cast<Index>(sizeof(V) / sizeof(ScalarOf<V>));

template <class V>
[[nodiscard]] inline V load(const ScalarOf<V>* from) {
  V v;
  std::memcpy(&v, from, sizeof v);
  return v;
}

template <class V>
inline void store(ScalarOf<V>* to, const V& v) {
  std::memcpy(to, &v, sizeof v);
}

/// sum += v in double, for as many doubles at `sum` as v has lanes.
template <class V>
inline void add_wide(double* sum, const V& v) {
  DoubleOf<V> wide;
  std::memcpy(&wide, sum, sizeof wide);
  if constexpr (std::is_same_v<V, ScalarOf<V>> || std::is_same_v<V, DoubleOf<V>>) {
    wide += v;
  } else {
    wide += __builtin_convertvector(v, DoubleOf<V>);
  }
  std::memcpy(sum, &wide, sizeof wide);
}

}  // namespace batchnorm::detail
