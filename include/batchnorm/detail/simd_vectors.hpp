// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <cstring>
#include <utility>

#include "batchnorm/detail/scalar.hpp"

// simd.hpp with the vector types of GCC and clang: v - m, v * v and the like act on all lanes.
// Functions write vectors to a parameter: if they returned them, their calling convention would
// depend on the instruction set.
//
// A program that is compiled for AVX2 or more, as with -march=native, uses these instructions.
// Other programs for x86-64 contain the loops three times and choose when they run. g++ for Windows
// aligns its stack to 16 bytes, but not the wider vectors that it keeps there (bug 54412 of GCC):
// its programs use vectors of 16 bytes.
#if defined(_WIN32) && !defined(__clang__)
#define BATCHNORM_BYTES 16
#elif defined(__AVX512F__) && defined(__AVX512BW__)
#define BATCHNORM_BYTES 64
#define BATCHNORM_AVX2
#define BATCHNORM_AVX512
#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#define BATCHNORM_BYTES 32
#define BATCHNORM_AVX2
#elif defined(__x86_64__)
#define BATCHNORM_BYTES 16
#define BATCHNORM_CHOOSES
#define BATCHNORM_AVX2 __attribute__((target("avx2,fma,f16c")))
#define BATCHNORM_AVX512 \
  __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c"))) BATCHNORM_WIDE
#include <cpuid.h>
#else
#define BATCHNORM_BYTES 16
#endif
#if defined(__clang__) && defined(__x86_64__)
#define BATCHNORM_WIDE __attribute__((min_vector_width(512)))  // otherwise it halves vectors
#else
#define BATCHNORM_WIDE
#endif

namespace batchnorm::detail {

/// An instruction set, by the bytes of its vectors.
template <std::size_t vector_bytes>
struct InstructionSet {
  static constexpr std::size_t bytes = vector_bytes;
  static constexpr bool has_f16c = bytes >= 32;
};
using Baseline = InstructionSet<BATCHNORM_BYTES>;  // what the program is compiled for
using Avx2 = InstructionSet<32>;                   // with FMA and F16C
using Avx512 = InstructionSet<64>;  // F, BW, DQ and VL, as processors have since 2017
#if defined(BATCHNORM_CHOOSES)
enum class Chosen { baseline, avx2, avx512 };
/// The best that this processor has. clang 14 does not know the name of F16C: it is bit 29 of the
/// third register of leaf 1.
[[nodiscard]] inline Chosen chosen_instructions() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  __get_cpuid(1, &a, &b, &c, &d);
  const bool has_f16c = (c >> 29 & 1u) != 0;
  if (!has_f16c || !__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma"))
    return Chosen::baseline;
  const bool has_avx512 =  // GCOV_EXCL_BR_START: no emulator has a part of AVX-512 alone
      __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  return has_avx512 ? Chosen::avx512 : Chosen::avx2;  // GCOV_EXCL_BR_STOP
}
#endif

template <class N, std::size_t count>
struct VectorOf {
  typedef N type __attribute__((vector_size(count * sizeof(N))));
  typedef N in_memory __attribute__((vector_size(count * sizeof(N)), aligned(1), may_alias));
};
template <std::size_t count>
using Floats = typename VectorOf<float, count>::type;
template <std::size_t count>
using Words = typename VectorOf<std::uint32_t, count>::type;
template <std::size_t count>
using HalfWords = typename VectorOf<std::uint16_t, count>::type;

template <class N, std::size_t count>
BATCHNORM_INLINE void read(const void* from, typename VectorOf<N, count>::type& v) {
  v = *static_cast<const typename VectorOf<N, count>::in_memory*>(from);
}
template <class N, std::size_t count>
BATCHNORM_INLINE void write(const typename VectorOf<N, count>::type& v, void* to) {
  *static_cast<typename VectorOf<N, count>::in_memory*>(to) = v;
}

/// Sets the lanes whose bits in the mask are zeros to 0, infinity and NaN too.
template <class N, std::size_t count>
BATCHNORM_INLINE void keep(const Bits<N>* mask, typename VectorOf<N, count>::type& v) {
  typename VectorOf<Bits<N>, count>::type bits;
  read<Bits<N>, count>(mask, bits);
  v = reinterpret_cast<typename VectorOf<N, count>::type>(reinterpret_cast<decltype(bits)>(v) &
                                                          bits);
}

#if defined(__SSE2__) && !defined(__clang__)
inline void write_past_caches(const Floats<4>& v, float* to) { __builtin_ia32_movntps(to, v); }
#endif
#if defined(BATCHNORM_AVX2) && !defined(__clang__)
BATCHNORM_AVX2 inline void write_past_caches(const Floats<8>& v, float* to) {
  __builtin_ia32_movntps256(to, v);
}
#endif
#if defined(BATCHNORM_AVX512) && !defined(__clang__)
BATCHNORM_AVX512 inline void write_past_caches(const Floats<16>& v, float* to) {
  __builtin_ia32_movntps512(to, v);
}
#endif
/// Writes to an address that is a multiple of the vector's size, past the caches: without reading
/// the line that is overwritten, and without keeping it in a cache.
template <class V>
BATCHNORM_INLINE void write_past_caches(const V& v, void* to) {
#if defined(__clang__)
  __builtin_nontemporal_store(v, static_cast<V*>(to));
#elif defined(__SSE2__)
  write_past_caches(reinterpret_cast<Floats<sizeof(V) / sizeof(float)>>(v),
                    static_cast<float*>(to));
#elif defined(__aarch64__)
  const auto half = reinterpret_cast<VectorOf<double, 2>::type>(v);
  asm("stnp %d1, %d2, %0" : "=Q"(*static_cast<V*>(to)) : "w"(half[0]), "w"(half[1]));
#else
  std::memcpy(to, &v, sizeof v);
#endif
}
/// Lets other threads see what was written past the caches.
inline void finish_writes_past_caches() {
#if defined(__SSE2__)
  __builtin_ia32_sfence();
#endif
}
/// Starts to read a line of memory into the second-level cache.
BATCHNORM_INLINE void prefetch_line(const void* at) { __builtin_prefetch(at, 0, 2); }

// Floats as doubles. GCC 12 needs several instructions for a general conversion, where processors
// have one.

#if defined(BATCHNORM_AVX2) && !defined(__clang__)
BATCHNORM_AVX2 inline void floats_to_doubles(const Floats<4>& v, VectorOf<double, 4>::type& to) {
  to = __builtin_ia32_cvtps2pd256(v);
}
#endif
#if defined(BATCHNORM_AVX512) && !defined(__clang__)
BATCHNORM_AVX512 inline void floats_to_doubles(const Floats<8>& v, VectorOf<double, 8>::type& to) {
  to = __builtin_ia32_cvtps2pd512_mask(v, VectorOf<double, 8>::type{}, -1, 4);
}
#endif
template <std::size_t count>
BATCHNORM_INLINE void widen(const Floats<count>& v, typename VectorOf<double, count>::type& to) {
#if defined(__SSE2__) && !defined(__clang__)
  if constexpr (count == 2) {
    to = __builtin_ia32_cvtps2pd(Floats<4>{v[0], v[1]});
    return;
  } else {
    return floats_to_doubles(v, to);
  }
#endif
#if defined(__aarch64__) && !defined(__clang__)
  if constexpr (count == 2) {
    to = vcvt_f64_f32(reinterpret_cast<float32x2_t>(v));
    return;
  }
#endif
  to = __builtin_convertvector(v, typename VectorOf<double, count>::type);
}

// 16-bit numbers as floats, and floats rounded to them, to nearest, ties to even.

#if defined(BATCHNORM_AVX2) && !defined(__clang__)
BATCHNORM_AVX2 inline void half_words_to_floats(const HalfWords<8>& bits, Floats<8>& to) {
  const auto shorts = reinterpret_cast<VectorOf<short, 8>::type>(bits);
  to = reinterpret_cast<Floats<8>>(__builtin_ia32_pmovzxwd256(shorts) << 16);
}
#endif
/// A bfloat16 is the upper half of a float: the second half in memory on little-endian processors,
/// the first on big-endian ones.
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
inline constexpr std::size_t upper_half = 0;
#else
inline constexpr std::size_t upper_half = 1;
#endif
template <class Isa, std::size_t count, std::size_t... L>
BATCHNORM_INLINE void read_floats(const Eigen::bfloat16* from, Floats<count>& to,
                                  std::index_sequence<L...>) {
#if defined(__SSE2__) && !defined(__clang__)
  if constexpr (count == 4) {
    using Shorts = VectorOf<short, 8>::type;
    long long four;
    std::memcpy(&four, from, sizeof four);
    const auto shorts = reinterpret_cast<Shorts>(VectorOf<long long, 2>::type{four, 0});
    to = reinterpret_cast<Floats<4>>(__builtin_ia32_punpcklwd128(Shorts{}, shorts));
    return;
  }
#endif
  HalfWords<count> bits;
  read<std::uint16_t, count>(from, bits);
#if defined(BATCHNORM_AVX2) && !defined(__clang__)
  if constexpr (count == 8) return half_words_to_floats(bits, to);
#endif
#if defined(__clang__) || __GNUC__ >= 12
  constexpr HalfWords<count> zeros{};
  to = reinterpret_cast<Floats<count>>(
      __builtin_shufflevector(zeros, bits, (L % 2 == upper_half ? count + L / 2 : 0)...));
#else
  to = reinterpret_cast<Floats<count>>(__builtin_convertvector(bits, Words<count>) << 16);
#endif
}
/// NaN stays NaN. It comes from a 16-bit number or from an operation, so its low 16 bits are 0, and
/// rounding does not carry into the upper half.
template <class Isa, std::size_t count, std::size_t... L>
BATCHNORM_INLINE void write_floats(const Floats<count>& v, HalfWords<count>& to, Eigen::bfloat16,
                                   std::index_sequence<L...>) {
  const auto bits = reinterpret_cast<Words<count>>(v);
  const Words<count> rounded = bits + 0x7fffu + ((bits >> 16) & 1u);
#if defined(__clang__) || __GNUC__ >= 12
  const auto halves = reinterpret_cast<HalfWords<2 * count>>(rounded);
  to = __builtin_shufflevector(halves, halves, (2 * L + upper_half)...);
#else
  to = __builtin_convertvector(rounded >> 16, HalfWords<count>);
#endif
}

#if defined(__clang__)
inline constexpr unsigned short all_lanes = 0xffff;
#else
inline constexpr short all_lanes = -1;
#endif
#if defined(BATCHNORM_AVX2)
BATCHNORM_AVX2 inline void halves_to_floats(const Eigen::half* from, Floats<8>& to) {
  to = __builtin_ia32_vcvtph2ps256(*reinterpret_cast<const VectorOf<short, 8>::in_memory*>(from));
#if defined(__clang__) && defined(__AVX512FP16__)
  asm("" : "+v"(to));  // otherwise clang converts halves to doubles at once, which takes longer
#endif
}
BATCHNORM_AVX2 inline void halves_to_floats(const Eigen::half* from, Floats<4>& to) {
  long long four;
  std::memcpy(&four, from, sizeof four);
  using Halves = VectorOf<short, 8>::type;
  to = __builtin_ia32_vcvtph2ps(reinterpret_cast<Halves>(VectorOf<long long, 2>::type{four, 0}));
}
BATCHNORM_AVX2 inline void floats_to_halves(const Floats<8>& v, HalfWords<8>& to) {
  to = reinterpret_cast<HalfWords<8>>(__builtin_ia32_vcvtps2ph256(v, 0));
}
#endif
#if defined(BATCHNORM_AVX512)
BATCHNORM_AVX512 inline void halves_to_floats(const Eigen::half* from, Floats<16>& to) {
  const auto bits = *reinterpret_cast<const VectorOf<short, 16>::in_memory*>(from);
  to = __builtin_ia32_vcvtph2ps512_mask(bits, Floats<16>{}, all_lanes, 4);
}
BATCHNORM_AVX512 inline void floats_to_halves(const Floats<16>& v, HalfWords<16>& to) {
  const auto none = VectorOf<short, 16>::type{};
  to = reinterpret_cast<HalfWords<16>>(__builtin_ia32_vcvtps2ph512_mask(v, 0, none, 0xffff));
}
#endif
template <class Isa, std::size_t count, std::size_t... L>
BATCHNORM_INLINE void read_floats(const Eigen::half* from, Floats<count>& to,
                                  std::index_sequence<L...>) {
#if defined(BATCHNORM_AVX2)
  if constexpr (Isa::has_f16c && count >= 4) return halves_to_floats(from, to);
#elif defined(__aarch64__)
  std::uint16_t padded[4] = {};
  std::memcpy(padded, from, count * sizeof(std::uint16_t));
  const float32x4_t floats4 = vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(padded)));
  std::memcpy(&to, &floats4, sizeof to);
  return;
#endif
  float floats[count];
  for (std::size_t l = 0; l < count; ++l) floats[l] = static_cast<float>(from[l]);
  read<float, count>(floats, to);
}
template <class Isa, std::size_t count, std::size_t... L>
BATCHNORM_INLINE void write_floats(const Floats<count>& v, HalfWords<count>& to, Eigen::half,
                                   std::index_sequence<L...>) {
#if defined(BATCHNORM_AVX2)
  if constexpr (Isa::has_f16c && count >= 8) return floats_to_halves(v, to);
#elif defined(__aarch64__)
  if constexpr (count == 4) {
    to = vreinterpret_u16_f16(vcvt_f16_f32(v));
    return;
  }
#endif
  for (std::size_t l = 0; l < count; ++l) to[l] = bit_cast<std::uint16_t>(Eigen::half(v[l]));
}

}  // namespace batchnorm::detail
