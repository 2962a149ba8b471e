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

  [[nodiscard]] Part part(Index g, Index s) const {
    return {g * group_channels, std::min((g + 1) * group_channels, channels), s, s * slab_blocks,
            std::min((s + 1) * slab_blocks, blocks)};
  }
};

template <class T>
[[nodiscard]] Plan plan_for(const View<T>& x) {
  constexpr Index in_cache = 128 * 1024;  // values to read twice from the second-level cache
  constexpr Index slab = 64 * 1024;       // values worth a task
  constexpr Index most_tasks = 64;
  const Index n = x.count();

  Plan plan{};
  plan.is_rows = x.is_rows();
  plan.channels = x.channels;
  plan.blocks = plan.is_rows ? Rows::blocks(x) : Runs::blocks(x);
  // Channels side by side stay together, for long reads; channels apart are grouped to fit the
  // cache.
  plan.group_channels =
      plan.is_rows ? std::min<Index>(x.channels, x.size() <= in_cache ? x.channels : 1024)
                   : std::clamp<Index>(in_cache / n, 1,
                                       std::min((x.channels + 15) / 16, Runs::most_channels));
  plan.groups = (x.channels + plan.group_channels - 1) / plan.group_channels;
  const Index slabs = std::clamp<Index>(n * plan.group_channels / slab, 1,
                                        std::max<Index>(most_tasks / plan.groups, 1));
  plan.slab_blocks = (plan.blocks + slabs - 1) / slabs;
  plan.slabs = (plan.blocks + plan.slab_blocks - 1) / plan.slab_blocks;
  return plan;
}

/// Runs the three steps of a pass over all channels: reduce(part) for each part of a group, then
/// finish(group), then apply(part). Where a thread has a group to itself, it applies to one group,
/// still in its cache, while it reduces the next, block by block: then memory is read and written
/// at the same time. The parts of a slab come in order.
template <class Reduce, class Finish, class Apply>
void sweep(const Plan& plan, const Workers& workers, const Reduce& reduce, const Finish& finish,
           const Apply& apply) {
  constexpr Index worth_waking = 4;  // tasks' worth of values
  const Index tasks = plan.groups * plan.slabs;
  const int threads = tasks >= worth_waking ? workers.count() : 1;
  if (plan.slabs == 1 || threads == 1) {
    workers.run(threads, plan.groups, [&](const auto& take) {
      Index ready = take();  // the group to apply to, reduced and finished
      if (ready >= plan.groups) return;
      for (Index s = 0; s < plan.slabs; ++s) reduce(plan.part(ready, s));
      finish(ready);
      while (ready < plan.groups) {
        const Index next = take();
        for (Index s = 0; s < plan.slabs; ++s) {
          const Part slab = plan.part(ready, s);
          for (Index b = slab.b0; b < slab.b1; ++b) {
            if (next < plan.groups) reduce(plan.part(next, s).only(b));
            apply(slab.only(b));
          }
        }
        if (next < plan.groups) finish(next);
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
  each(reduce);
  for (Index g = 0; g < plan.groups; ++g) finish(g);
  each(apply);
}

}  // namespace batchnorm::detail
