// SPDX-License-Identifier: MIT
#pragma once

// Vectors of numbers as plain values, for the loops. An instruction set is a struct that says how
// many bytes a vector has. All functions here are inlined into the entry functions of the loops,
// which alone are compiled for an instruction set. Two headers define them:
//   simd_vectors.hpp   by the vector types of GCC and clang
//   simd_packets.hpp   by Eigen's packets, for other compilers, as MSVC
#if defined(__GNUC__) && !defined(BATCHNORM_USE_PACKETS)
#include "batchnorm/detail/simd_vectors.hpp"
#else
#include "batchnorm/detail/simd_packets.hpp"
#endif

namespace batchnorm::detail {

/// In a loop of few turns: keeps compilers from making vectors of it, which takes longer.
BATCHNORM_INLINE void one_by_one() {
#if defined(__GNUC__)
  asm volatile("");
#endif
}

template <class N, class Isa>
inline constexpr Index lanes = static_cast<Index>(Isa::bytes / sizeof(N));
template <class N, class Isa>
using Vector = typename VectorOf<N, Isa::bytes / sizeof(N)>::type;

/// A vector with the same number in all lanes. Compilers make one instruction of this. For
/// number - V{}, g++ 12 makes one for each lane in functions with a target attribute.
template <class N, class V>
BATCHNORM_INLINE void splat(N number, V& v) {
  constexpr std::size_t count = sizeof(V) / sizeof(N);
  N numbers[count];
  for (N& n : numbers) n = number;
  read<N, count>(numbers, v);
}
/// Both halves of a vector, as doubles.
template <class Isa>
BATCHNORM_INLINE void widen(const Vector<float, Isa>& v, Vector<double, Isa>& low,
                            Vector<double, Isa>& high) {
  constexpr std::size_t count = Isa::bytes / sizeof(double);
  Floats<count> half[2];
  std::memcpy(half, &v, sizeof v);
  widen<count>(half[0], low);
  widen<count>(half[1], high);
}
/// A vector of floats or doubles from as many values of T.
template <class Isa, class T, class V>
BATCHNORM_INLINE void load(const T* from, V& v) {
  using N = std::decay_t<decltype(v[0])>;
  constexpr std::size_t count = sizeof(V) / sizeof(N);
  if constexpr (std::is_same_v<N, T>) {
    read<N, count>(from, v);
  } else if constexpr (std::is_same_v<N, double>) {
    Floats<count> floats;
    load<Isa>(from, floats);
    widen<count>(floats, v);
  } else {
    read_floats<Isa, count>(from, v, std::make_index_sequence<2 * count>());
  }
}
/// A vector of floats or doubles to as many values of T. Past the caches, the address is a multiple
/// of their size.
template <class Isa, class T, class V>
BATCHNORM_INLINE void store(const V& v, T* to, bool past_caches = false) {
  using N = std::decay_t<decltype(v[0])>;
  constexpr std::size_t count = sizeof(V) / sizeof(N);
  if constexpr (std::is_same_v<N, T>) {
    if (past_caches) return write_past_caches(v, to);
    write<N, count>(v, to);
  } else {
    HalfWords<count> bits;
    write_floats<Isa, count>(v, bits, T(), std::make_index_sequence<count>());
    if constexpr (sizeof bits >= 16) {
      if (past_caches) return write_past_caches(bits, to);
    }
    write<std::uint16_t, count>(bits, to);
  }
}

}  // namespace batchnorm::detail
