// SPDX-License-Identifier: MIT
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>
#if defined(__x86_64__)
#include <cpuid.h>
#include <emmintrin.h>
#endif

#include "batchnorm/detail/shapes.hpp"

// The loops over values, in kernels/. They are compiled for the instructions that the program is
// compiled for and, where these lack AVX2, once more for AVX2, to be chosen when it runs.
namespace batchnorm::detail::plain {
#if defined(__AVX512F__)
inline constexpr int vector_bytes = 64;
#elif defined(__AVX__)
inline constexpr int vector_bytes = 32;
#else
inline constexpr int vector_bytes = 16;
#endif
#if defined(__F16C__)
inline constexpr bool has_f16c = true;
#else
inline constexpr bool has_f16c = false;
#endif
#include "batchnorm/detail/kernels/lanes.inc"
//
#include "batchnorm/detail/kernels/formulas.inc"
//
#include "batchnorm/detail/kernels/loops.inc"
}  // namespace batchnorm::detail::plain

// For AVX2, where the program may find it when it runs.
#if defined(__x86_64__) && !(defined(__AVX2__) && defined(__FMA__))
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
#endif
namespace batchnorm::detail::avx2 {
inline constexpr int vector_bytes = 32;
inline constexpr bool has_f16c = true;
#include "batchnorm/detail/kernels/lanes.inc"
//
#include "batchnorm/detail/kernels/formulas.inc"
//
#include "batchnorm/detail/kernels/loops.inc"
}  // namespace batchnorm::detail::avx2
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

namespace batchnorm::detail {
/// Whether this processor has every instruction that the AVX2 kernels are compiled for. The answer is
/// kept, because cpuid takes microseconds in a virtual machine.
inline bool has_avx2_fma_f16c() {
  static const bool has_all = [] {
    // clang 14 does not know the name "f16c", so cpuid is read here: leaf 1, bit 29 of ECX.
    unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
    const bool is_read = __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0;
    const bool has_f16c = is_read && (ecx >> 29 & 1) != 0;  // GCOV_EXCL_BR_LINE: leaf 1 exists
    const bool has_fma = __builtin_cpu_supports("fma");
    return __builtin_cpu_supports("avx2") && has_fma && has_f16c;  // GCOV_EXCL_BR_LINE
  }();
  return has_all;
}

/// Calls f(kernels) with the best ones for this processor.
template <class F>
void with_kernels(const F& f) {
  if (has_avx2_fma_f16c()) {
    f(avx2::Kernels{});
  } else {
    f(plain::Kernels{});
  }
}
}  // namespace batchnorm::detail
#else
namespace batchnorm::detail {
template <class F>
void with_kernels(const F& f) {
  f(plain::Kernels{});
}
}  // namespace batchnorm::detail
#endif
