// SPDX-License-Identifier: MIT
#pragma once

#include <cstring>

#include "batchnorm/detail/scalar.hpp"

// Vectors of the machine's width as plain values: v - m, v * v and the like act lane by lane. A
// formula written as a generic lambda serves a vector and, for what is left at the end of a row, a
// single value alike. Maps are done in the parameters' type, sums in double.
namespace batchnorm::detail {

#if defined(__AVX512F__)
inline constexpr int vector_bytes = 64;
#elif defined(__AVX__)
inline constexpr int vector_bytes = 32;
#else
inline constexpr int vector_bytes = 16;
#endif

template <class T, int bytes>
struct VectorOf {
  typedef T type __attribute__((vector_size(bytes)));
};
template <class T>
using Lanes = typename VectorOf<T, vector_bytes>::type;

/// How many values V holds: V is a vector, or a single value.
template <class V>
inline constexpr Index width_of = 1;
template <>
inline constexpr Index width_of<Lanes<float>> = vector_bytes / 4;
template <>
inline constexpr Index width_of<Lanes<double>> = vector_bytes / 8;

/// V's worth of values from memory; a vector of double can be had from floats.
template <class V, class A>
[[nodiscard]] inline V load(const A* from) {
  if constexpr (sizeof(V) == sizeof(A) * width_of<V>) {
    V v;
    std::memcpy(&v, from, sizeof v);
    return v;
  } else if constexpr (width_of<V> == 1) {
    return static_cast<V>(*from);
  } else {
    typename VectorOf<A, vector_bytes / 2>::type narrow;
    std::memcpy(&narrow, from, sizeof narrow);
    return __builtin_convertvector(narrow, V);
  }
}

template <class V, class A>
inline void store(A* to, const V& v) {
  std::memcpy(to, &v, sizeof v);
}

/// What one step of a loop covers: `count` vectors, or one single value.
template <class V_, int count_>
struct Strip {
  using V = V_;
  static constexpr int count = count_;
  static constexpr Index width = count * width_of<V>;
};

/// Calls f(strip, i) for strips that cover [i, end): of four vectors of A, of one, of a single
/// value.
template <class A, class F>
inline void for_strips(Index i, Index end, const F& f) {
  using Wide = Strip<Lanes<A>, 4>;
  using Narrow = Strip<Lanes<A>, 1>;
  for (; i + Wide::width <= end; i += Wide::width) f(Wide{}, i);
  for (; i + Narrow::width <= end; i += Narrow::width) f(Narrow{}, i);
  for (; i < end; ++i) f(Strip<A, 1>{}, i);
}

/// A strip's values to be read as floats or doubles: where they lie or, for half and bfloat16,
/// converted.
template <class S, class T>
struct Values {
  explicit Values(const T* from) {
    converted = Eigen::Map<const Eigen::Array<T, S::width, 1>>(from).template cast<float>();
  }
  [[nodiscard]] const float* at(int u) const {
    return converted.data() + u * width_of<typename S::V>;
  }

  Eigen::Array<float, S::width, 1> converted;
};
template <class S, class A>
struct ValuesInPlace {
  const A* from;
  [[nodiscard]] const A* at(int u) const { return from + u * width_of<typename S::V>; }
};
template <class S>
struct Values<S, float> : ValuesInPlace<S, float> {};
template <class S>
struct Values<S, double> : ValuesInPlace<S, double> {};

/// s[u] += the terms of a strip's values, by add = add_of(u) for each of its vectors u.
template <class S, class Sums, class AddOf, class... T>
inline void add_strip(S, Sums& s, const AddOf& add_of, const Values<S, T>&... x) {
#pragma GCC unroll 4
  for (int u = 0; u < S::count; ++u) add_of(u)(s[u], load<typename S::V>(x.at(u))...);
}

/// y = f(x, ...) for a strip's values, by f = f_of(u) for each of its vectors u.
template <class S, class FOf, class T, class... X>
inline void map_strip(S, const FOf& f_of, T* y, const Values<S, X>&... x) {
  using V = typename S::V;
  using A = ParamOf<T>;
  constexpr Index W = width_of<V>;
  if constexpr (std::is_same_v<T, A>) {
#pragma GCC unroll 4
    for (int u = 0; u < S::count; ++u) store(y + u * W, f_of(u)(load<V>(x.at(u))...));
  } else {
    Eigen::Array<A, S::width, 1> results;
    for (int u = 0; u < S::count; ++u) store(results.data() + u * W, f_of(u)(load<V>(x.at(u))...));
    Eigen::Map<Eigen::Array<T, S::width, 1>> rounded(y);
    rounded = results.template cast<T>();
  }
}

}  // namespace batchnorm::detail
