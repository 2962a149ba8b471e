// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>

#include "batchnorm/detail/formulas.hpp"
#include "batchnorm/detail/simd.hpp"

// The loops over values, for any formula. A block is a number of rows of values. Two shapes of
// block exist:
//   runs      each row is a run of values of one channel, with its own coefficients and sums (NCHW)
//   columns   each column belongs to a channel, with its own coefficients and sums (NHWC)
// The loops are compiled for the instructions of the program and, where these lack AVX2, for AVX2
// and AVX-512 too.
namespace batchnorm::detail {

inline constexpr int most_coefficients = 7;
/// Partial sums of a run: a vector of doubles, padded with zeros.
inline constexpr Index run_sums = 8;
/// A cache line, and the floats in it.
inline constexpr Index line_bytes = 64, line_values = 16;

struct Block {
  Index rows, width;
  const void* in[2];  // x; x and dy
  Index in_step[2];   // elements from row to row
  void* out;          // of a map
  Index out_step;
  const void* coefficients[most_coefficients];  // for each run, or for each column
  double* sums[2];   // of a sum: run_sums for each run, or one for each column
  Index ahead;       // columns: elements from the values at work to those to prefetch, or 0
  bool past_caches;  // of a map: write whole lines past the caches
};

/// A formula's loops over both shapes of block.
struct Loops {
  void (*runs)(const Block&);
  void (*columns)(const Block&);
};

/// Both sums of a formula, in double, of vectors of N. Four vectors of floats are added as floats,
/// which rounds each of them twice more, before they are widened. Doubles have four independent
/// sums, which hides the latency of an addition. A product and its sum are one expression, so that
/// compilers may round them once.
template <class N, class Isa>
struct BothSums {
  using V = Vector<N, Isa>;
  using Doubles = Vector<double, Isa>;
  static constexpr bool is_double = std::is_same_v<N, double>;
  static constexpr std::size_t parts = is_double ? 4 : 2;
  static constexpr Index half = lanes<double, Isa>;  // columns: the floats of parts 0 and 1
  Doubles first[parts] = {}, second[parts] = {};

  BATCHNORM_INLINE void add(const Terms<V>& a) {
    if constexpr (is_double) {
      first[0] += a.first;
      second[0] += a.first * a.factor;
    } else {
      add_floats(a.first, first);
      add_floats(a.first * a.factor, second);
    }
  }
  BATCHNORM_INLINE void add(const Terms<V>& a, const Terms<V>& b, const Terms<V>& c,
                            const Terms<V>& d) {
    if constexpr (is_double) {
      first[0] += a.first, first[1] += b.first, first[2] += c.first, first[3] += d.first;
      second[0] += a.first * a.factor, second[1] += b.first * b.factor;
      second[2] += c.first * c.factor, second[3] += d.first * d.factor;
    } else {
      add_floats((a.first + b.first) + (c.first + d.first), first);
      const V ab = a.first * a.factor + b.first * b.factor;
      const V cd = c.first * c.factor + d.first * d.factor;
      add_floats(ab + cd, second);
    }
  }
  BATCHNORM_INLINE static void add_floats(const V& v, Doubles* to) {
    Doubles low, high;
    widen<Isa>(v, low, high);
    to[0] += low, to[1] += high;
  }
  /// Adds all to the partial sums of run r.
  BATCHNORM_INLINE void add_to_run(const Block& b, Index r) const {
    add_to_run(first, b.sums[0] + r * run_sums), add_to_run(second, b.sums[1] + r * run_sums);
  }
  BATCHNORM_INLINE static void add_to_run(const Doubles* part, double* sums) {
    Doubles all = part[0] + part[1], before;
    if constexpr (is_double) all += part[2] + part[3];
    load<Isa>(sums, before);
    store<Isa>(before + all, sums);
  }
  /// The sums of a vector of columns from j on.
  BATCHNORM_INLINE void load_columns(const Block& b, Index j) {
    load<Isa>(b.sums[0] + j, first[0]), load<Isa>(b.sums[1] + j, second[0]);
    if constexpr (is_double) return;
    load<Isa>(b.sums[0] + j + half, first[1]), load<Isa>(b.sums[1] + j + half, second[1]);
  }
  BATCHNORM_INLINE void store_columns(const Block& b, Index j) const {
    store<Isa>(first[0], b.sums[0] + j), store<Isa>(second[0], b.sums[1] + j);
    if constexpr (is_double) return;
    store<Isa>(first[1], b.sums[0] + j + half), store<Isa>(second[1], b.sums[1] + j + half);
  }
};

/// `count` lanes of zeros, then `count` of ones. From lane r on, a mask for the last r of a vector.
template <class N, std::size_t count>
struct ZerosThenOnes {
  Bits<N> of[2 * count] = {};
  constexpr ZerosThenOnes() {
    for (std::size_t l = count; l < 2 * count; ++l) of[l] = -1;
  }
};
template <class N, std::size_t count>
inline constexpr ZerosThenOnes<N, count> zeros_then_ones;

/// A formula over the rows of a block, by vectors. In sums of runs and in maps, the last vector of
/// a row may overlap the one before. Rows shorter than a vector, and what the vectors of a sum of
/// columns leave, are taken value by value.
template <class Formula, class Isa, class T, class = std::make_index_sequence<Formula::inputs>,
          class = std::make_index_sequence<Formula::coefficients>>
struct Loop;
template <class Formula, class Isa, class T, std::size_t... J, std::size_t... K>
struct Loop<Formula, Isa, T, std::index_sequence<J...>, std::index_sequence<K...>> {
  using A = ParamOf<T>;
  using N = typename Formula::template Number<A>;
  using V = Vector<N, Isa>;
  template <class X>
  using Result = std::conditional_t<Formula::is_sum, Terms<X>, X>;
  static constexpr Index W = lanes<N, Isa>;

  struct Coefficients {
    V of[sizeof...(K)];
  };
  BATCHNORM_INLINE static const N* coefficient(const Block& b, std::size_t k) {
    return static_cast<const N*>(b.coefficients[k]);
  }
  /// Those of run r, in all lanes.
  BATCHNORM_INLINE static void of_run(const Block& b, Index r, Coefficients& k) {
    (splat(coefficient(b, K)[r], k.of[K]), ...);
  }
  /// Those of the columns from j on.
  BATCHNORM_INLINE static void of_columns(const Block& b, Index j, Coefficients& k) {
    (load<Isa>(coefficient(b, K) + j, k.of[K]), ...);
  }
  BATCHNORM_INLINE static const T* input(const Block& b, std::size_t i, Index r, Index j) {
    return static_cast<const T*>(b.in[i]) + r * b.in_step[i] + j;
  }
  BATCHNORM_INLINE static void vector_at(const Block& b, Index r, Index j, const Coefficients& k,
                                         Result<V>& result) {
    V in[sizeof...(J)];
    (load<Isa>(input(b, J, r, j), in[J]), ...);
    Formula::of(in[J]..., k.of[K]..., result);
  }
  /// One value, by coefficients number c.
  BATCHNORM_INLINE static void value_at(const Block& b, Index r, Index j, Index c,
                                        Result<N>& result) {
    Formula::of(static_cast<N>(*input(b, J, r, j))..., coefficient(b, K)[c]..., result);
  }
  BATCHNORM_INLINE static void prefetch(const Block& b, Index r, Index j) {
    (prefetch_line(input(b, J, r, j) + b.ahead), ...);
  }

  BATCHNORM_INLINE static void sum_run(const Block& b, Index r) {
    if (b.width < W) {
      for (Index j = 0; j < b.width; ++j) sum_value(b, r, j, r, r * run_sums);
      return;
    }
    Coefficients k = {};
    of_run(b, r, k);
    BothSums<N, Isa> sums;
    Index j = 0;
    for (; j + 4 * W <= b.width; j += 4 * W) {
      Terms<V> t0, t1, t2, t3;
      vector_at(b, r, j, k, t0), vector_at(b, r, j + W, k, t1);
      vector_at(b, r, j + 2 * W, k, t2), vector_at(b, r, j + 3 * W, k, t3);
      sums.add(t0, t1, t2, t3);
    }
    for (; j + W <= b.width; j += W) {
      Terms<V> t;
      vector_at(b, r, j, k, t);
      sums.add(t);
    }
    if (j < b.width) {
      Terms<V> t;
      vector_at(b, r, b.width - W, k, t);
      keep<N, W>(&zeros_then_ones<N, std::size_t{W}>.of[b.width - j], t.first);  // not added before
      sums.add(t);
    }
    sums.add_to_run(b, r);
  }
  BATCHNORM_INLINE static void sum_value(const Block& b, Index r, Index j, Index c, Index sum) {
    one_by_one();
    Terms<N> t;
    value_at(b, r, j, c, t);
    b.sums[0][sum] += static_cast<double>(t.first);
    b.sums[1][sum] += static_cast<double>(t.first * t.factor);
  }

  template <int rows>
  BATCHNORM_INLINE static void sum_columns(const Block& b, Index r, Index j) {
    Coefficients k = {};
    of_columns(b, j, k);
    Terms<V> t0, t1, t2, t3;
    BothSums<N, Isa> sums;
    sums.load_columns(b, j);
    vector_at(b, r, j, k, t0);
    if constexpr (rows == 1) {
      sums.add(t0);
    } else {
      vector_at(b, r + 1, j, k, t1), vector_at(b, r + 2, j, k, t2), vector_at(b, r + 3, j, k, t3);
      if constexpr (sums.is_double) {
        sums.add(t0), sums.add(t1), sums.add(t2), sums.add(t3);
      } else {
        sums.add(t0, t1, t2, t3);
      }
    }
    sums.store_columns(b, j);
  }
  /// If b.ahead is not 0, values come from memory and are prefetched.
  template <int rows>
  BATCHNORM_INLINE static void sum_rows(const Block& b, Index r) {
    Index j = 0;
    for (; j + W <= b.width; j += W) {
      for (Index u = 0; u < rows && b.ahead != 0; ++u) prefetch(b, r + u, j);
      sum_columns<rows>(b, r, j);
    }
    for (; j < b.width; ++j) {
      for (Index u = 0; u < rows; ++u) sum_value(b, r + u, j, j, j);
    }
  }

  template <bool in_columns>
  BATCHNORM_INLINE static void result_at(const Block& b, Index r, Index j, Coefficients& k,
                                         V& result) {
    if constexpr (in_columns) of_columns(b, j, k);
    vector_at(b, r, j, k, result);
  }
  template <bool in_columns>
  BATCHNORM_INLINE static void map_value(const Block& b, Index r, Index j, T* out) {
    one_by_one();
    N result;
    value_at(b, r, j, in_columns ? j : r, result);
    out[j] = static_cast<T>(result);
  }
  /// A row that is shorter than a vector, or whose values are prefetched or written past the
  /// caches. Values at its ends that fill no vector are taken one by one. Only whole lines are
  /// written past the caches: processors need several times as long for a line that is partly
  /// written past them and partly not. On 32-bit x86, doubles need not lie at multiples of 8: then
  /// no values make up a whole line.
  template <bool in_columns>
  BATCHNORM_INLINE static void map_in_memory(const Block& b, Index r, Coefficients& k, T* out) {
    constexpr Index line = line_bytes / Index{sizeof(T)};
    const auto address = reinterpret_cast<std::uintptr_t>(out);
    const auto past_line = static_cast<Index>(address % std::uintptr_t{line_bytes} / sizeof(T));
    // The row's whole lines are its values [first, end).
    const Index first = (std::min)((line - past_line) % line, b.width);
    const bool aligned = address % sizeof(T) == 0;
    const bool by_lines = b.past_caches && aligned;  // GCOV_EXCL_BR_LINE: aligned but on 32-bit x86
    const Index end = by_lines ? b.width - (b.width - first) % line : 0;
    Index j = 0;
    for (; j < first % W; ++j) map_value<in_columns>(b, r, j, out);
    for (; j + W <= b.width; j += W) {
      if constexpr (in_columns) prefetch(b, r, j);
      V result;
      result_at<in_columns>(b, r, j, k, result);
      store<Isa>(result, out + j, first <= j && j < end);
    }
    for (; j < b.width; ++j) map_value<in_columns>(b, r, j, out);
  }
  /// The last vector of a row may overlap the one before it. It is computed before that one is
  /// written, because y may be x. Rows that map_in_memory takes have no such vector.
  template <bool in_columns>
  BATCHNORM_INLINE static void map_row(const Block& b, Index r) {
    T* const out = static_cast<T*>(b.out) + r * b.out_step;
    Coefficients k = {};
    if constexpr (!in_columns) of_run(b, r, k);
    if (b.width < W || b.ahead != 0 || b.past_caches)
      return map_in_memory<in_columns>(b, r, k, out);
    V last = {}, result;
    result_at<in_columns>(b, r, b.width - W, k, last);
    for (Index j = 0; j + W < b.width; j += W) {
      result_at<in_columns>(b, r, j, k, result);
      store<Isa>(result, out + j);
    }
    store<Isa>(last, out + b.width - W);
  }

  /// A copy of the block cannot be changed by a store of values, so its members can stay in
  /// registers.
  template <bool in_columns>
  BATCHNORM_INLINE static void over(const Block b) {
    Index r = 0;
    if constexpr (!Formula::is_sum) {
      for (; r < b.rows; ++r) map_row<in_columns>(b, r);
      if (b.past_caches) finish_writes_past_caches();
    } else if constexpr (in_columns) {
      for (; r + 4 <= b.rows; r += 4) sum_rows<4>(b, r);
      for (; r < b.rows; ++r) sum_rows<1>(b, r);
    } else {
      for (; r < b.rows; ++r) sum_run(b, r);
    }
  }
};

template <class Formula, class T, bool in_columns>
BATCHNORM_WIDE void loop(const Block& b) {
  Loop<Formula, Baseline, T>::template over<in_columns>(b);
}
#if defined(BATCHNORM_CHOOSES)
template <class Formula, class T, bool in_columns>
BATCHNORM_AVX2 void loop_by_avx2(const Block& b) {
  Loop<Formula, Avx2, T>::template over<in_columns>(b);
}
template <class Formula, class T, bool in_columns>
BATCHNORM_AVX512 void loop_by_avx512(const Block& b) {
  Loop<Formula, Avx512, T>::template over<in_columns>(b);
}
#endif

/// The loops of a formula over values of T, the fastest that this processor has.
template <class Formula, class T>
[[nodiscard]] Loops loops_of() {
#if defined(BATCHNORM_CHOOSES)
  const Chosen chosen = chosen_instructions();
  if (chosen == Chosen::avx512)  // GCOV_EXCL_BR_LINE: needs a processor that has it
    return {loop_by_avx512<Formula, T, false>, loop_by_avx512<Formula, T, true>};
  if (chosen == Chosen::avx2)
    return {loop_by_avx2<Formula, T, false>, loop_by_avx2<Formula, T, true>};
#endif
  return {loop<Formula, T, false>, loop<Formula, T, true>};
}

}  // namespace batchnorm::detail
