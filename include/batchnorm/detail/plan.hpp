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

  /// The part that task (g, s) works on.
  [[nodiscard]] Part part(Index g, Index s) const {
    return {g * group_channels, std::min((g + 1) * group_channels, channels), s * slab_blocks,
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
  plan.group_channels = plan.is_rows
                            ? std::min<Index>(x.channels, x.size() <= in_cache ? x.channels : 1024)
                            : std::clamp<Index>(in_cache / n, 1, (x.channels + 15) / 16);
  plan.groups = (x.channels + plan.group_channels - 1) / plan.group_channels;
  const Index slabs = std::clamp<Index>(n * plan.group_channels / slab, 1,
                                        std::max<Index>(most_tasks / plan.groups, 1));
  plan.slab_blocks = (plan.blocks + slabs - 1) / slabs;
  plan.slabs = (plan.blocks + plan.slab_blocks - 1) / plan.slab_blocks;
  return plan;
}

/// Runs the three steps of a pass over all parts: reduce(g, s) for each slab of a group, then
/// finish(g), then apply(g, s). Where one thread has a whole group, it does all three while the
/// group is still in its cache.
template <class Reduce, class Finish, class Apply>
void sweep(const Plan& plan, const Workers& workers, const Reduce& reduce, const Finish& finish,
           const Apply& apply) {
  constexpr Index worth_waking = 4;  // tasks' worth of values
  const int threads = plan.groups * plan.slabs >= worth_waking ? workers.count() : 1;
  if (plan.slabs == 1 || threads == 1) {
    workers.run(plan.groups, threads, [&](Index g) {
      for (Index s = 0; s < plan.slabs; ++s) reduce(g, s);
      finish(g);
      for (Index s = 0; s < plan.slabs; ++s) apply(g, s);
    });
    return;
  }
  const Index tasks = plan.groups * plan.slabs;
  workers.run(tasks, threads, [&](Index t) { reduce(t / plan.slabs, t % plan.slabs); });
  workers.run(plan.groups, threads, finish);
  workers.run(tasks, threads, [&](Index t) { apply(t / plan.slabs, t % plan.slabs); });
}

}  // namespace batchnorm::detail
