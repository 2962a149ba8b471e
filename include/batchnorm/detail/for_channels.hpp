// SPDX-License-Identifier: MIT
#pragma once

#include "batchnorm/detail/simd.hpp"

// Loops over numbers per channel, by vectors. Where a batch has few values per channel, they take
// as long as the loops over values. The loop stands here twice, because attributes act on the
// function that contains it. AVX-512 is hardly faster here, and would have to be compiled too.
#if defined(__clang__)
#define BATCHNORM_BY_VECTORS __attribute__((flatten))
#elif defined(__GNUC__)  // whose -O2 makes vectors of few loops
#define BATCHNORM_BY_VECTORS \
  __attribute__((flatten, optimize("tree-vectorize", "vect-cost-model=dynamic")))
#else
#define BATCHNORM_BY_VECTORS
#endif

namespace batchnorm::detail {

template <class F, class... N>
BATCHNORM_BY_VECTORS void channels(Index c0, Index c1, const F& f, N* __restrict... arrays) {
  for (Index c = c0; c < c1; ++c) f(arrays[c]...);
}
#if defined(BATCHNORM_CHOOSES)
template <class F, class... N>
BATCHNORM_BY_VECTORS BATCHNORM_AVX2 void channels_by_avx2(Index c0, Index c1, const F& f,
                                                          N* __restrict... arrays) {
  for (Index c = c0; c < c1; ++c) f(arrays[c]...);
}
#endif

/// Calls f(numbers of channel c) for channels [c0, c1). An array that f writes must overlap no
/// other.
template <class F, class... N>
void for_channels(Index c0, Index c1, const F& f, N*... arrays) {
#if defined(BATCHNORM_CHOOSES)
  static const bool has_avx2 = chosen_instructions() != Chosen::baseline;
  if (has_avx2) return channels_by_avx2(c0, c1, f, arrays...);
#endif
  channels(c0, c1, f, arrays...);
}
/// sums[i] += v[i] of n numbers.
inline void add_to(double* sums, const double* v, Index n) {
  const auto add = [](double& sum, double one) { sum += one; };
  for_channels(0, n, add, sums, v);
}

}  // namespace batchnorm::detail
