// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <numeric>
#include <utility>

#include "batchnorm/detail/view.hpp"

// How a tensor is cut into tasks.
namespace batchnorm::detail {

/// A task: blocks [b0, b1) of channels [c0, c1). Its sums go to slab s.
struct Part {
  Index c0, c1, s, b0, b1;
};

/// What a call reads and writes: x, or x and dy; y or dx, or nothing.
struct Operands {
  View in[2];
  View out;

  /// Is f true for each of them?
  template <class F>
  [[nodiscard]] bool all(const F& f) const {
    return f(in[0]) && (!in[1].data || f(in[1])) && (!out.data || f(out));
  }
};

/// How a tensor is cut: into groups of channels, and each group into slabs of blocks. In columns a
/// block is a row of the group's values, or `fold` rows that follow one another; in runs it is a
/// run of every channel, or a piece of a long run. The cut follows from the shape alone, never from
/// the number of threads, so that results are bitwise the same for any number of them.
struct Plan {
  bool in_columns;    // values are summed in columns; false: in runs
  bool maps_columns;  // values are mapped in columns
  bool past_caches;   // results are written past the caches
  Index values, channels, outer, inner;
  Index fold;           // columns: rows of the tensor in a block
  Index pieces, piece;  // runs: pieces of a run; values of a piece
  Index blocks, group_channels, groups, slab_blocks, slabs;

  [[nodiscard]] Part part_of(Index c0, Index c1, Index slab) const {
    return {c0, c1, slab, slab * slab_blocks, (std::min)((slab + 1) * slab_blocks, blocks)};
  }
  [[nodiscard]] Part part(Index group, Index slab) const {
    const Index c0 = group * group_channels;
    return part_of(c0, (std::min)(c0 + group_channels, channels), slab);
  }
};

[[nodiscard]] inline Index divided_up(Index a, Index b) { return (a + b - 1) / b; }

/// Bytes, on the stack, for the copies of one float coefficient where a channel has several
/// columns. Those of a double, as v0 of floats, may take twice as many.
inline constexpr Index copies_bytes = 4096;

inline void cut_columns(const Operands& v, Plan& plan) {
  constexpr Index most_columns = 1024;    // whose numbers stay in the first-level cache
  constexpr Index most_in_memory = 2048;  // of values from memory, which delivers long rows faster
  constexpr Index least_columns = 512;    // of a block, if the tensor has so many
  const Index most_copies = copies_bytes / v.in[0].elements->number_bytes;
  const Index most = plan.inner > 1     ? most_copies
                     : plan.past_caches ? most_in_memory
                                        : most_columns;
  plan.group_channels = std::clamp<Index>(most / plan.inner, 1, plan.channels);
  const Index of_lines =
      line_values / std::gcd(plan.inner, line_values);  // channels that fill lines
  if (plan.group_channels > of_lines && plan.group_channels < plan.channels) {
    plan.group_channels -= plan.group_channels % of_lines;
  }
  if (plan.inner == 1 && v.all([](const View& u) { return u.outer_stride == u.channels; })) {
    plan.fold = std::clamp<Index>(least_columns / plan.channels, 1, plan.outer);
    if (plan.fold > 8) plan.fold -= plan.fold % 8;  // whole vectors of 8
  }
  plan.blocks = divided_up(plan.outer, plan.fold);
}

/// `with_sums`: the call sums values. Then groups are so small that a map which follows finds them
/// in the cache.
inline void cut_runs(Plan& plan, bool with_sums, Index tasks) {
  constexpr Index in_cache = 768 * 1024;      // values of a group, at most
  constexpr Index worth_a_group = 8 * 1024;   // values of a group, at least, for its fixed cost
  constexpr Index longest_piece = 16 * 1024;  // values of a run
  plan.pieces = divided_up(plan.inner, longest_piece);
  plan.piece = divided_up(plan.inner, plan.pieces);
  plan.blocks = plan.outer * plan.pieces;
  const Index n = plan.outer * plan.inner;
  constexpr Index enough_blocks = 16;  // of all channels, so that threads have tasks
  Index of_group =
      plan.blocks < enough_blocks ? plan.channels * plan.blocks / tasks : plan.channels;
  if (with_sums) {
    const Index of_16_groups = divided_up(plan.channels, 16);  // so that threads have tasks
    of_group = (std::min)((std::max)(of_16_groups, worth_a_group / n), in_cache / n);
  }
  const Index groups = divided_up(plan.channels, std::clamp<Index>(of_group, 1, plan.channels));
  plan.group_channels = divided_up(plan.channels, groups);  // so that groups are equally large
}

/// Rows of so many bytes or more are written past the caches wherever they lie.
inline constexpr Index long_row = 1024;

/// Are runs to be taken as columns? Loops over many columns are faster than loops over short runs,
/// if there are enough rows to pay for copies of the coefficients.
[[nodiscard]] inline bool are_columns(const Operands& v, Index longest_run) {
  const View& x = v.in[0];
  // The most values of a run for each of x.outer rows: then the rows pay for the copies. Fewer for
  // runs of whole lines, which are fast as runs too.
  const Index short_run_for_a_row = x.inner % line_values == 0 ? 4 : 16;
  return x.inner <= (std::min)(short_run_for_a_row * x.outer, longest_run) &&
         v.all([](const View& u) { return u.channel_stride == u.inner; });
}

/// The cut of a call. Matrices whose values do not lie side by side are seen as runs of one value.
[[nodiscard]] inline Plan plan_for(Operands& v, bool with_sums) {
  constexpr Index bytes_in_caches = 24 << 20;  // of all tensors of a call
  constexpr Index task = 32 * 1024;            // values that are worth a task
  constexpr Index most_tasks = 64;             // of a call, about
  constexpr Index longest = 224;               // values of a run that is taken as columns
  const bool side_by_side = v.all([](const View& u) { return u.inner_stride == 1; });
  for (View* const u : {&v.in[0], &v.in[1], &v.out}) {
    if (side_by_side || u->inner <= 1) continue;
    std::swap(u->outer, u->inner);  // outer was 1
    u->outer_stride = std::exchange(u->inner_stride, 1);
  }
  const View& x = v.in[0];
  Plan plan{};
  plan.values = x.size();
  plan.channels = x.channels;
  plan.outer = x.outer;
  plan.inner = plan.piece = x.inner;
  plan.fold = plan.pieces = 1;
  const Index tensors = 1 + (v.in[1].data != nullptr) + (v.out.data != nullptr);
  plan.past_caches = plan.values > bytes_in_caches / (x.elements->bytes * tensors);
  // A map keeps the coefficients of a run in registers, so that only very short runs gain from
  // columns: those of `in_cache` values. Past the caches the others do too: a short run has few
  // whole lines, a row has many.
  const Index bytes = x.elements->bytes;
  const Index in_cache = bytes == 2 ? 160 : 40;
  const Index longest_mapped = plan.past_caches ? (std::min)(longest, long_row / bytes) : in_cache;
  plan.in_columns = are_columns(v, with_sums ? longest : longest_mapped);
  plan.maps_columns = plan.in_columns && (plan.past_caches || x.inner <= in_cache);
  if (plan.in_columns) {
    cut_columns(v, plan);
  } else {
    cut_runs(plan, with_sums, std::clamp<Index>(plan.values / task, 1, most_tasks));
  }
  plan.groups = divided_up(x.channels, plan.group_channels);
  // A power of two, so that 2, 4, 8 or 16 threads have equal shares.
  const Index worth = (std::min)(x.count() * plan.group_channels / task, most_tasks / plan.groups);
  Index slabs = 1;
  while (slabs < worth) slabs *= 2;
  plan.slab_blocks = divided_up(plan.blocks, slabs);
  if (plan.in_columns) plan.slab_blocks = divided_up(plan.slab_blocks, 4) * 4;  // summed in fours
  plan.slabs = divided_up(plan.blocks, plan.slab_blocks);
  return plan;
}

}  // namespace batchnorm::detail
