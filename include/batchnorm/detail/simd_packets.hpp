// SPDX-License-Identifier: MIT
#pragma once

#include <Eigen/Core>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#include "batchnorm/detail/scalar.hpp"

// simd.hpp by Eigen's packets, for compilers without GCC's vector types. Eigen chooses the packets
// by the flags of the program, as /arch:AVX2. Where it has no packet, a vector is an array.
#define BATCHNORM_WIDE
#if defined(__SSE2__) || defined(_M_X64)
#define BATCHNORM_X86
#include <immintrin.h>
#endif
#if defined(__AVX__) && (defined(__F16C__) || (defined(_MSC_VER) && defined(__AVX2__)))
#define BATCHNORM_F16C  // MSVC has no macro for it, but all processors with AVX2 have it
#endif

namespace batchnorm::detail {

/// A vector for which Eigen has no packet.
template <class N, std::size_t count>
struct ArrayPacket {
  N lane[count];
};
template <class N, std::size_t count, class F>
BATCHNORM_INLINE ArrayPacket<N, count> each_lane(const ArrayPacket<N, count>& a,
                                                 const ArrayPacket<N, count>& b, const F& f) {
  ArrayPacket<N, count> result;
  for (std::size_t l = 0; l < count; ++l) result.lane[l] = f(a.lane[l], b.lane[l]);
  return result;
}
template <class N, std::size_t count>
BATCHNORM_INLINE auto padd(const ArrayPacket<N, count>& a, const ArrayPacket<N, count>& b) {
  return each_lane(a, b, [](N x, N y) { return x + y; });
}
template <class N, std::size_t count>
BATCHNORM_INLINE auto psub(const ArrayPacket<N, count>& a, const ArrayPacket<N, count>& b) {
  return each_lane(a, b, [](N x, N y) { return x - y; });
}
template <class N, std::size_t count>
BATCHNORM_INLINE auto pmul(const ArrayPacket<N, count>& a, const ArrayPacket<N, count>& b) {
  return each_lane(a, b, [](N x, N y) { return x * y; });
}

/// Eigen's packet of `count` numbers: its widest, or half of that.
template <class N, std::size_t count>
struct PacketOf {
  using Widest = typename Eigen::internal::packet_traits<N>::type;
  using Half = typename Eigen::internal::unpacket_traits<Widest>::half;
  template <class P>
  static constexpr bool fits =
      Eigen::internal::unpacket_traits<P>::size == count && !std::is_same_v<P, N>;
  using Array = ArrayPacket<N, count>;
  using type =
      std::conditional_t<fits<Widest>, Widest, std::conditional_t<fits<Half>, Half, Array>>;
};
template <std::size_t count>
struct PacketOf<std::uint16_t, count> {
  using type = ArrayPacket<std::uint16_t, count>;
};

template <class N, std::size_t count>
struct Lanes {
  using Packet = typename PacketOf<N, count>::type;
  Packet packet;

  N operator[](std::size_t) const;  // declared only: it tells the type of a number
  Lanes& operator+=(const Lanes& b) { return *this = *this + b; }
  friend BATCHNORM_INLINE Lanes operator+(const Lanes& a, const Lanes& b) {
    using Eigen::internal::padd;
    return {padd(a.packet, b.packet)};
  }
  friend BATCHNORM_INLINE Lanes operator-(const Lanes& a, const Lanes& b) {
    using Eigen::internal::psub;
    return {psub(a.packet, b.packet)};
  }
  friend BATCHNORM_INLINE Lanes operator*(const Lanes& a, const Lanes& b) {
    using Eigen::internal::pmul;
    return {pmul(a.packet, b.packet)};
  }
};

/// The packets that Eigen chose, or arrays of 16 bytes.
struct Baseline {
  static constexpr std::size_t packet_bytes = sizeof(Eigen::internal::packet_traits<float>::type);
  static constexpr std::size_t bytes = packet_bytes < 16 ? 16 : packet_bytes;
};

template <class N, std::size_t count>
struct VectorOf {
  using type = Lanes<N, count>;
};
template <std::size_t count>
using Floats = Lanes<float, count>;
template <std::size_t count>
using HalfWords = Lanes<std::uint16_t, count>;

template <class N, std::size_t count>
BATCHNORM_INLINE void read(const void* from, Lanes<N, count>& v) {
  std::memcpy(&v, from, sizeof v);
}
template <class N, std::size_t count>
BATCHNORM_INLINE void write(const Lanes<N, count>& v, void* to) {
  std::memcpy(to, &v, sizeof v);
}
/// Sets the lanes whose bits in the mask are zeros to 0, infinity and NaN too.
template <class N, std::size_t count>
BATCHNORM_INLINE void keep(const Bits<N>* mask, Lanes<N, count>& v) {
  Bits<N> bits[count];
  write<N, count>(v, bits);
  for (std::size_t l = 0; l < count; ++l) bits[l] &= mask[l];
  read<N, count>(bits, v);
}
/// result = a <= b ? then : otherwise, in each lane: for extras/fused.hpp.
template <class N, std::size_t count>
BATCHNORM_INLINE void choose(const Lanes<N, count>& a, const Lanes<N, count>& b,
                             const Lanes<N, count>& then, const Lanes<N, count>& otherwise,
                             Lanes<N, count>& result) {
  N of_a[count], of_b[count], chosen[count], others[count];
  write<N, count>(a, of_a), write<N, count>(b, of_b);
  write<N, count>(then, chosen), write<N, count>(otherwise, others);
  for (std::size_t l = 0; l < count; ++l) chosen[l] = of_a[l] <= of_b[l] ? chosen[l] : others[l];
  read<N, count>(chosen, result);
}
/// Writes to an address that is a multiple of the vector's size, past the caches: without reading
/// the line that is overwritten, and without keeping it in a cache.
template <class V>
BATCHNORM_INLINE void write_past_caches(const V& v, void* to) {
#if defined(BATCHNORM_X86)
  __m128 piece[sizeof(V) / sizeof(__m128)];
  std::memcpy(piece, &v, sizeof v);
  for (std::size_t p = 0; p < sizeof v / sizeof(__m128); ++p)
    _mm_stream_ps(static_cast<float*>(to) + 4 * p, piece[p]);
#else
  std::memcpy(to, &v, sizeof v);
#endif
}
/// Lets other threads see what was written past the caches.
inline void finish_writes_past_caches() {
#if defined(BATCHNORM_X86)
  _mm_sfence();
#endif
}
/// Starts to read a line of memory into the second-level cache.
BATCHNORM_INLINE void prefetch_line(const void* at) {
#if defined(BATCHNORM_X86)
  _mm_prefetch(static_cast<const char*>(at), _MM_HINT_T1);
#else
  static_cast<void>(at);
#endif
}

// Floats as doubles. -----------------------------------------------------------------------------

template <std::size_t count>
BATCHNORM_INLINE void widen(const Floats<count>& v, Lanes<double, count>& to) {
  float floats[count];
  double doubles[count];
  write<float, count>(v, floats);
#if defined(__AVX512F__)
  if constexpr (count == 8) {
    to.packet = _mm512_cvtps_pd(v.packet);
    return;
  }
#endif
#if defined(__AVX__)
  if constexpr (count == 4) {
    to.packet = _mm256_cvtps_pd(v.packet);
    return;
  }
#endif
#if defined(BATCHNORM_X86)
  if constexpr (count == 2) {
    _mm_storeu_pd(doubles, _mm_cvtps_pd(_mm_setr_ps(floats[0], floats[1], 0, 0)));
    return read<double, count>(doubles, to);
  }
#elif defined(__aarch64__) || defined(_M_ARM64)
  if constexpr (count == 2) {
    vst1q_f64(doubles, vcvt_f64_f32(vld1_f32(floats)));
    return read<double, count>(doubles, to);
  }
#endif
  for (std::size_t l = 0; l < count; ++l) doubles[l] = static_cast<double>(floats[l]);
  read<double, count>(doubles, to);
}

// 16-bit numbers as floats, and floats rounded to them, to nearest, ties to even. ----------------

template <class Isa, std::size_t count, class L>
BATCHNORM_INLINE void read_floats(const Eigen::bfloat16* from, Floats<count>& to, L) {
  std::uint16_t halves[count];
  std::uint32_t words[count];
  std::memcpy(halves, from, sizeof halves);
  for (std::size_t l = 0; l < count; ++l) words[l] = static_cast<std::uint32_t>(halves[l]) << 16;
  read<float, count>(words, to);
}
/// NaN stays NaN. It comes from a 16-bit number or from an operation, so its low 16 bits are 0, and
/// rounding does not carry into the upper half.
template <class Isa, std::size_t count, class L>
BATCHNORM_INLINE void write_floats(const Floats<count>& v, HalfWords<count>& to, Eigen::bfloat16,
                                   L) {
  std::uint32_t words[count];
  std::uint16_t halves[count];
  write<float, count>(v, words);
  for (std::size_t l = 0; l < count; ++l) {
    const std::uint32_t rounded = words[l] + 0x7fffu + ((words[l] >> 16) & 1u);
    halves[l] = static_cast<std::uint16_t>(rounded >> 16);
  }
  read<std::uint16_t, count>(halves, to);
}
template <class Isa, std::size_t count, class L>
BATCHNORM_INLINE void read_floats(const Eigen::half* from, Floats<count>& to, L) {
  float floats[count];
  std::size_t l = 0;
#if defined(BATCHNORM_F16C)
  for (; l + 4 <= count; l += 4) {
    const __m128i halves = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(from + l));
    _mm_storeu_ps(floats + l, _mm_cvtph_ps(halves));
  }
#endif
  for (; l < count; ++l) floats[l] = static_cast<float>(from[l]);
  read<float, count>(floats, to);
}
template <class Isa, std::size_t count, class L>
BATCHNORM_INLINE void write_floats(const Floats<count>& v, HalfWords<count>& to, Eigen::half, L) {
  float floats[count];
  std::uint16_t halves[count];
  write<float, count>(v, floats);
  for (std::size_t l = 0; l < count; ++l)
    halves[l] = bit_cast<std::uint16_t>(Eigen::half(floats[l]));
  read<std::uint16_t, count>(halves, to);
}

}  // namespace batchnorm::detail
