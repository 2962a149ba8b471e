// SPDX-License-Identifier: MIT
#pragma once

#include <Eigen/Core>
#include <algorithm>

#include "batchnorm/detail/cut.hpp"
#include "batchnorm/detail/for_channels.hpp"
#include "batchnorm/detail/workers.hpp"

// How a formula's loops go over the parts of a tensor, on several threads.
//
//   group   some channels. by_groups sums the values of a group, settles its coefficients, and maps
//           its values while they are still in the cache.
//   slab    a share of a group's blocks, with sums of its own, so that threads can share a group
//   part    one slab of one group: a task
//   block   runs: a run, or a piece of a long one, of each channel; one call of a loop takes it
//           columns: one row of values, of `fold` samples; one call takes all blocks of a part
namespace batchnorm::detail {

/// A formula over tensors: its loops, its coefficients, and what it reads and writes. A coefficient
/// is an array with a number for each channel; the unused ones are null.
struct Step {
  Loops loops;
  Index number_bytes;
  const void* coefficients[most_coefficients];
  Operands v;
};
/// Both sums of a formula, for each channel or each column.
struct Sums {
  double* of[2];
};
/// The sums of all channels, for each slab.
struct SlabSums {
  double* first;
  Index stride;  // doubles from one array of sums to the next; whole cache lines

  [[nodiscard]] Sums of(Index slab) const {
    return {{first + 2 * slab * stride, first + (2 * slab + 1) * stride}};
  }
  /// The arrays of slab 0, to whose channels [c0, c1) it adds the sums of all other slabs.
  [[nodiscard]] Sums total(const Plan& plan, Index c0, Index c1) const {
    for (Index k = 2; k < 2 * plan.slabs; ++k) {
      add_to(first + k % 2 * stride + c0, first + k * stride + c0, c1 - c0);
    }
    return of(0);
  }
};

/// A block whose first row starts at element (o, c, i) of all operands, and at coefficient k0.
[[nodiscard]] inline Block block_at(const Step& step, Index o, Index c, Index i, Index k0,
                                    const Sums& sums) {
  Block block{};
  for (int j = 0; j < 2; ++j) {
    if (step.v.in[j].data) block.in[j] = step.v.in[j].at(o, c, i);
    block.sums[j] = sums.of[j];
  }
  if (step.v.out.data) block.out = step.v.out.at(o, c, i);
  for (int k = 0; k < most_coefficients && step.coefficients[k]; ++k) {
    const auto* const numbers = static_cast<const char*>(step.coefficients[k]);
    block.coefficients[k] = numbers + k0 * step.number_bytes;
  }
  return block;
}

/// Do the rows of a block fill cache lines, but for a few values at their ends?
[[nodiscard]] inline bool fills_lines(const View& out, const Block& block) {
  if (!out.data) return false;
  const Index bytes = out.elements->bytes;
  return block.out_step * bytes % line_bytes == 0 || block.width * bytes >= long_row;
}

// Runs. -------------------------------------------------------------------------------------------

/// Runs the formula's loop on blocks of a run, or a piece of one, of each channel in [c0, c1).
inline void over_runs(const Plan& plan, const Part& part, Index c0, Index c1, const Step& step,
                      const Sums& sums) {
  for (Index b = part.b0; b < part.b1; ++b) {
    const Index i = b % plan.pieces * plan.piece;
    Block block = block_at(step, b / plan.pieces, c0, i, c0, sums);
    block.rows = c1 - c0;
    block.width = (std::min)(plan.piece, plan.inner - i);
    for (int j = 0; j < 2; ++j) block.in_step[j] = step.v.in[j].channel_stride;
    block.out_step = step.v.out.channel_stride;
    block.past_caches = plan.past_caches && fills_lines(step.v.out, block);
    step.loops.runs(block);
  }
}
inline void sum_runs(const Plan& plan, const Part& part, const Step& step, const Sums& sums) {
  constexpr Index at_once = 64;  // channels whose partial sums are kept from run to run
  for (Index c0 = part.c0; c0 < part.c1; c0 += at_once) {
    const Index c1 = (std::min)(c0 + at_once, part.c1);
    alignas(line_bytes) double partial[2][at_once * run_sums] = {};
    over_runs(plan, part, c0, c1, step, {{partial[0], partial[1]}});
    for (int j = 0; j < 2; ++j) {
      for (Index c = c0; c < c1; ++c) {
        const double* const p = partial[j] + (c - c0) * run_sums;
        sums.of[j][c] = ((p[0] + p[1]) + (p[2] + p[3])) + ((p[4] + p[5]) + (p[6] + p[7]));
      }
    }
  }
}

// Columns. ----------------------------------------------------------------------------------------

/// The columns of a part's blocks. Where a channel has several, its numbers are copied to all of
/// them.
struct Columns {
  Index fold, inner, c0, channels, width = fold * channels * inner;

  Columns(const Plan& plan, const Part& part)
      : fold(plan.fold), inner(plan.inner), c0(part.c0), channels(part.c1 - part.c0) {}
  [[nodiscard]] bool are_channels() const { return fold * inner == 1; }

  /// Copies each channel's number to its columns, in whole packets: what a packet writes beyond
  /// them, the next channel overwrites.
  template <class N>
  void copy(const void* numbers, void* copies) const {
    constexpr Index size = sizeof(ShortPacket<N>) / sizeof(N);
    const N* const of_channels = static_cast<const N*>(numbers) + c0;
    N *const first = static_cast<N*>(copies), *const end = first + width, *to = first;
    if (inner == 1) to = std::copy_n(of_channels, channels, to);
    for (Index c = 0; c < channels && inner > 1; ++c, to += inner) {
      const auto number = Eigen::internal::pset1<ShortPacket<N>>(of_channels[c]);
      for (Index j = 0; j < inner; j += size) Eigen::internal::pstoreu(to + j, number);
    }
    // Each copy doubles the columns that are there.
    while (to < end) to = std::copy_n(first, (std::min)(to - first, end - to), to);
  }
  /// The step with coefficients for columns: copies where they are needed.
  [[nodiscard]] Step by_column(const Step& step, char* copies) const {
    Step by = step;
    for (int k = 0; k < most_coefficients && step.coefficients[k] && !are_channels(); ++k) {
      const void* const numbers = step.coefficients[k];
      step.number_bytes == 4 ? copy<float>(numbers, copies) : copy<double>(numbers, copies);
      by.coefficients[k] = copies;
      copies += divided_up(width * step.number_bytes, line_bytes) * line_bytes;
    }
    return by;
  }
  /// Adds the sums of a channel's columns to the channel's. It changes both.
  void collect(double* of_columns, double* of_channels) const {
    of_channels += c0;
    Index rows = inner == 1 ? fold : 0;
    for (; rows > 1 && rows % 2 == 0; rows /= 2) {  // one half to the other
      const Index half = rows / 2 * channels;
      add_to(of_columns, of_columns + half, half);
    }
    for (Index f = 0; f < rows; ++f) add_to(of_channels, of_columns + f * channels, channels);
    for (Index c = 0; c < channels && inner > 1; ++c, of_columns += inner) {
      of_channels[c] += sum_of(of_columns, inner);
    }
  }
};

/// Runs the formula's loop on blocks of columns.
inline void over_columns(const Plan& plan, const Part& part, const Columns& columns,
                         const Step& step, const Sums& sums) {
  constexpr Index prefetched = 4096;  // values, and at least four rows, ahead of the ones at work
  const auto over_rows = [&](Index b0, Index b1, Index width) {
    const Index k0 = columns.are_channels() ? columns.c0 : 0;
    Block block = block_at(step, b0 * plan.fold, columns.c0, 0, k0, sums);
    block.rows = b1 - b0;
    block.width = width;
    for (int j = 0; j < 2; ++j) block.in_step[j] = step.v.in[j].outer_stride * plan.fold;
    block.out_step = step.v.out.outer_stride * plan.fold;
    if (plan.past_caches) block.ahead = (prefetched / columns.width + 4) * block.in_step[0];
    block.past_caches = plan.past_caches && fills_lines(step.v.out, block);
    step.loops.columns(block);
  };
  const Index whole = (std::min)(part.b1, plan.outer / plan.fold);  // blocks of `fold` rows each
  over_rows(part.b0, whole, columns.width);
  const Index rows_left = plan.outer % plan.fold;
  if (whole < part.b1) over_rows(whole, part.b1, rows_left * columns.channels * plan.inner);
}
inline void sum_columns(const Plan& plan, const Part& part, const Step& step, const Sums& sums) {
  const Columns columns(plan, part);
  alignas(line_bytes) char copies[5 * copies_bytes + line_bytes];  // 5: of a sum in fused.hpp
  alignas(line_bytes) double of_columns[2][copies_bytes / sizeof(float)];
  Sums to = sums;
  for (int j = 0; j < 2; ++j) {
    std::fill(sums.of[j] + part.c0, sums.of[j] + part.c1, 0.0);
    to.of[j] = columns.are_channels() ? sums.of[j] + part.c0 : of_columns[j];
    if (!columns.are_channels()) std::fill_n(of_columns[j], columns.width, 0.0);
  }
  over_columns(plan, part, columns, columns.by_column(step, copies), to);
  for (int j = 0; j < 2 && !columns.are_channels(); ++j) {
    columns.collect(of_columns[j], sums.of[j]);
  }
}
inline void map_columns(const Plan& plan, const Part& part, const Step& step) {
  const Columns columns(plan, part);
  alignas(line_bytes) char copies[most_coefficients * copies_bytes + line_bytes];
  over_columns(plan, part, columns, columns.by_column(step, copies), {});
}

// Both shapes, all parts. -------------------------------------------------------------------------

/// Runs a step on a part: sets both sums of the part's channels, or writes the part's results.
inline void run(const Plan& plan, const Part& part, const Step& step, const SlabSums& sums) {
  if (step.v.out.data) {
    plan.maps_columns ? map_columns(plan, part, step)
                      : over_runs(plan, part, part.c0, part.c1, step, {});
  } else {
    plan.in_columns ? sum_columns(plan, part, step, sums.of(part.s))
                    : sum_runs(plan, part, step, sums.of(part.s));
  }
}

/// How many threads a call is worth: handing tasks over takes some microseconds.
[[nodiscard]] inline int threads_for(const Plan& plan, const Workers& workers) {
  constexpr Index worth_helpers = 96 * 1024, of_a_thread = 16 * 1024;  // values
  if (plan.values < worth_helpers) return 1;
  return static_cast<int>(std::min<Index>(plan.values / of_a_thread, workers.count()));
}
/// Runs a step on all parts, on several threads.
inline void run_all(const Plan& plan, const Workers& workers, const Step& step,
                    const SlabSums& sums = {}) {
  workers.run(threads_for(plan, workers), plan.groups * plan.slabs,
              [&](Index t) { run(plan, plan.part(t / plan.slabs, t % plan.slabs), step, sums); });
}

/// How many channels a thread sums, settles and maps before it takes the next ones: a group, or
/// some columns of one. 0 if the threads share the slabs: then all channels are summed, then all
/// settled, then all mapped. The bits are the same: ranges of 16 * k columns keep each column in
/// the same lane.
[[nodiscard]] inline Index channels_of_task(const Plan& plan, Index threads) {
  constexpr Index least_columns = 64;    // channels
  constexpr Index in_cache = 64 * 1024;  // values of a task
  if (threads == 1 || plan.groups >= 4 * threads) return plan.group_channels;
  // Do tasks of so many channels stay in a cache and keep the threads at work 4/5 of the time?
  const auto suits = [&plan, threads](Index channels) {
    const Index tasks = divided_up(plan.channels, channels), rounds = divided_up(tasks, threads);
    return 5 * tasks >= 4 * rounds * threads && channels * plan.outer * plan.inner <= in_cache;
  };
  if (suits(plan.group_channels)) return plan.group_channels;
  if (plan.in_columns && plan.inner == 1 && plan.fold == 1) {
    const Index even = divided_up(divided_up(plan.channels, threads), line_values) * line_values;
    const Index columns = (std::min)((std::max)(even, least_columns), plan.group_channels);
    if (suits(columns)) return columns;
  }
  return plan.slabs == 1 ? plan.group_channels : 0;
}
/// Calls f(c0, c1) for ranges of `width` channels, on several threads.
inline void each_range(const Plan& plan, const Workers& workers, Index width,
                       const FunctionRef<Index, Index>& f) {
  workers.run(threads_for(plan, workers), divided_up(plan.channels, width),
              [&](Index t) { f(t * width, (std::min)((t + 1) * width, plan.channels)); });
}
/// Sums all parts, calls settle(c0, c1) for channels [c0, c1), then maps all parts. If a thread can
/// take some channels after others, it maps values from the cache that it has just summed. A null
/// sum_step stands for no sums.
inline void by_groups(const Plan& plan, const Workers& workers, const Step* sum_step,
                      const SlabSums& sums, const FunctionRef<Index, Index>& settle,
                      const Step& map_step) {
  constexpr Index settled_at_once = 256;  // channels
  const Index of_task = channels_of_task(plan, threads_for(plan, workers));
  if (of_task == 0) {
    if (sum_step) run_all(plan, workers, *sum_step, sums);
    each_range(plan, workers, settled_at_once, settle);
    return run_all(plan, workers, map_step);
  }
  each_range(plan, workers, of_task, [&](Index c0, Index c1) {
    for (Index s = 0; s < plan.slabs && sum_step; ++s) {
      run(plan, plan.part_of(c0, c1, s), *sum_step, sums);
    }
    settle(c0, c1);
    run(plan, {c0, c1, 0, 0, plan.blocks}, map_step, {});
  });
}

}  // namespace batchnorm::detail
