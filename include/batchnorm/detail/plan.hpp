// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>

#include "batchnorm/detail/parallel.hpp"
#include "batchnorm/detail/rows.hpp"
#include "batchnorm/detail/runs.hpp"

namespace batchnorm::detail {

/// How a tensor is cut into tasks: groups of channels, each in slabs of blocks. It follows from the
/// tensor's shape alone, so that results are bitwise the same for any number of threads.
struct Plan {
  bool is_rows;
  Index channels, blocks;             // in all
  Index group_channels, slab_blocks;  // of a task
  Index groups, slabs;

  /// Slab s of group g, and one of its blocks.
  [[nodiscard]] Part part(Index g, Index s) const {
    return {g * group_channels, std::min((g + 1) * group_channels, channels), s, s * slab_blocks,
            std::min((s + 1) * slab_blocks, blocks)};
  }
  [[nodiscard]] Part block(Index g, Index b) const {
    const Part slab = part(g, b / slab_blocks);
    return {slab.c0, slab.c1, slab.s, b, b + 1};
  }
};

/// Brings the views of a pass into one form that a loop shape serves, and tells whether that is
/// rows: it is if all of them are. Rows of few channels that follow one another are taken several
/// at a time, as one.
template <class First, class... Rest>
[[nodiscard]] bool fit_to_kernels(First& first, Rest&... rest) {
  const auto all = [&](const auto& holds) { return holds(first) && (holds(rest) && ...); };
  const auto change = [&](const auto& f) { f(first), (f(rest), ...); };
  if (all([](const auto& v) { return v.is_rows(); })) {
    if (all([](const auto& v) { return v.outer_stride == v.channels; })) {
      Index fold = std::max<Index>(512 / first.channels, 1);
      while (first.outer % fold != 0) --fold;
      change([fold](auto& v) {
        v = {v.data, v.outer / fold, v.channels * fold, 1, v.outer_stride * fold, 1, 1};
      });
    }
    return true;
  }
  if (!all([](const auto& v) { return v.inner_stride == 1; })) {  // of matrices, whose outer is 1
    change([](auto& v) {
      if (v.inner > 1) v = {v.data, v.inner, v.channels, 1, v.inner_stride, v.channel_stride, 1};
    });
  }
  return false;
}

template <class T>
[[nodiscard]] Plan plan_for(const View<T>& x, bool is_rows) {
  constexpr Index in_cache = 128 * 1024;  // values to read twice from the second-level cache
  constexpr Index slab = 64 * 1024;       // values worth a task
  constexpr Index most_tasks = 64;
  const Index n = x.count();

  Plan plan{};
  plan.is_rows = is_rows;
  plan.channels = x.channels;
  plan.blocks = plan.is_rows ? Rows::blocks(x) : Runs::blocks(x);
  // Channels side by side stay together, for long reads; channels apart are grouped to fit the
  // cache.
  plan.group_channels =
      plan.is_rows
          ? std::min<Index>(x.channels, x.size() <= in_cache ? x.channels : Rows::most_channels)
          : std::clamp<Index>(in_cache / n, 1,
                              std::min((x.channels + 15) / 16, Runs::most_channels));
  plan.groups = (x.channels + plan.group_channels - 1) / plan.group_channels;
  const Index slabs = std::clamp<Index>(n * plan.group_channels / slab, 1,
                                        std::max<Index>(most_tasks / plan.groups, 1));
  plan.slab_blocks = (plan.blocks + slabs - 1) / slabs;
  plan.slabs = (plan.blocks + plan.slab_blocks - 1) / plan.slab_blocks;
  return plan;
}

template <class Terms, class... T>
void sum_part(const Plan& plan, const Part& part, double* first, double* second, const Terms& terms,
              const View<const T>&... x) {
  if (part.b0 == part.s * plan.slab_blocks) {
    std::fill(first + part.c0, first + part.c1, 0.0);
    std::fill(second + part.c0, second + part.c1, 0.0);
  }
  if (plan.is_rows) {
    Rows::sum(part, first, second, terms, x...);
  } else {
    Runs::sum(part, first, second, terms, x...);
  }
}

template <class T, class Formula, class... X>
void map_part(const Plan& plan, const Part& part, const View<T>& y, const Formula& formula,
              const View<const X>&... x) {
  if (plan.is_rows) {
    Rows::map(part, y, formula, x...);
  } else {
    Runs::map(part, y, formula, x...);
  }
}

inline constexpr auto nothing = [](auto...) {};

/// Runs a pass's steps over all channels: start(group), sum(part) for each part of the group,
/// finish(group), map(part). Where a thread has a group to itself, it maps one group, still in its
/// cache, while it sums the next, block by block: then memory is read and written at the same time.
/// The parts of a slab come in order.
template <class Start, class Sum, class Finish, class Map>
void sweep(const Plan& plan, const Workers& workers, const Start& start, const Sum& sum,
           const Finish& finish, const Map& map) {
  constexpr Index worth_waking = 4;  // tasks
  const Index tasks = plan.groups * plan.slabs;
  const int threads = tasks >= worth_waking ? workers.count() : 1;
  if (plan.slabs == 1 || threads == 1) {
    workers.run(threads, plan.groups, [&](const auto& take) {
      Index ready = take();  // the group to map
      if (ready >= plan.groups) return;
      start(ready);
      for (Index s = 0; s < plan.slabs; ++s) sum(plan.part(ready, s));
      finish(ready);
      while (ready < plan.groups) {
        const Index next = take();
        const bool more = next < plan.groups;
        if (more) start(next);
        for (Index b = 0; b < plan.blocks; ++b) {
          if (more) sum(plan.block(next, b));
          map(plan.block(ready, b));
        }
        if (more) finish(next);
        ready = next;
      }
    });
    return;
  }
  const auto each = [&](const auto& step) {
    workers.run(threads, tasks, [&](const auto& take) {
      for (Index t; (t = take()) < tasks;) step(plan.part(t / plan.slabs, t % plan.slabs));
    });
  };
  for (Index g = 0; g < plan.groups; ++g) start(g);
  each(sum);
  for (Index g = 0; g < plan.groups; ++g) finish(g);
  each(map);
}

}  // namespace batchnorm::detail
