// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <numeric>

#include "batchnorm/detail/kernels.hpp"
#include "batchnorm/detail/parallel.hpp"

namespace batchnorm::detail {

/// How a tensor is cut into tasks: groups of channels, each in slabs of blocks. It follows from the
/// tensor's shape alone, so that results are bitwise the same for any number of threads.
struct Plan {
  Loops loops;
  Index values, channels, blocks;     // in all
  Index group_channels, slab_blocks;  // of a task
  Index groups, slabs;

  /// Slab s of group g.
  [[nodiscard]] Part part(Index g, Index s) const {
    return {g * group_channels, std::min((g + 1) * group_channels, channels), s, s * slab_blocks,
            std::min((s + 1) * slab_blocks, blocks)};
  }
};

/// Settles the loops for a pass, and brings its views into a form that they serve. A pass that sums
/// is to find a group's values in the cache when it maps them.
template <class T>
[[nodiscard]] Plan plan_for(Operands<T>& v, bool sums) {
  constexpr Index in_cache = 768 * 1024;  // values to read twice from the caches
  constexpr Index slab = 32 * 1024;       // values worth a task
  constexpr Index most_tasks = 64;
  constexpr Index most_inner = 224, columns = 512;  // rows: at most and at least, if it can be
  constexpr Index columns_in_cache = 1024;          // whose numbers stay in the first-level cache
  constexpr Index bytes_in_caches = 24 << 20;

  const View<const T>& x = v.in[0];
  const auto all = [&](const auto& holds) {
    return holds(x) && (v.inputs == 1 || holds(v.in[1])) && holds(v.out);
  };
  if (!all([](const auto& u) { return u.inner_stride == 1; })) {  // strided matrices, of outer 1
    const auto turn = [](auto& u) {                               // each value is a run
      if (u.inner > 1) u = {u.data, u.inner, u.channels, 1, u.inner_stride, u.channel_stride, 1};
    };
    turn(v.in[0]), turn(v.in[1]), turn(v.out);
  }
  const Index n = x.count();
  const Index tasks = std::clamp<Index>(x.size() / slab, 1, most_tasks);
  Plan plan{};
  plan.values = x.size();
  plan.channels = x.channels;
  plan.loops.fold = 1;
  plan.loops.past_caches =
      x.size() * static_cast<Index>(sizeof(T)) * (1 + v.inputs) > bytes_in_caches;
  plan.loops.are_rows = (x.inner == 1 || (x.inner <= most_inner && x.outer > 1)) &&
                        all([](const auto& u) { return u.channel_stride == u.inner; });
  if (plan.loops.are_rows) {
    // Where values come from memory, long rows count for more.
    const Index most = plan.loops.past_caches ? most_columns : columns_in_cache;
    plan.group_channels = std::min(x.channels, most / x.inner);
    const Index of_lines = a_line / std::gcd(x.inner, a_line);  // channels that fill cache lines
    if (plan.group_channels > of_lines && plan.group_channels < x.channels) {
      plan.group_channels -= plan.group_channels % of_lines;
    }
    if (x.inner == 1 && all([](const auto& u) { return u.outer_stride == u.channels; })) {
      Index& fold = plan.loops.fold;
      fold = std::clamp<Index>(columns / x.channels, 1, x.outer);
      if (fold > 8) fold -= fold % 8;  // whole vectors, whatever the channels
    }
    plan.blocks = (x.outer + plan.loops.fold - 1) / plan.loops.fold;
  } else {
    plan.blocks = Runs::blocks(x);
    plan.group_channels = sums ? std::clamp<Index>(in_cache / n, 1, (x.channels + 15) / 16)
                               : std::clamp<Index>(x.channels * plan.blocks / tasks, 1, x.channels);
  }
  plan.groups = (x.channels + plan.group_channels - 1) / plan.group_channels;
  const Index slabs = std::clamp<Index>(n * plan.group_channels / slab, 1,
                                        std::max<Index>(most_tasks / plan.groups, 1));
  plan.slab_blocks = (plan.blocks + slabs - 1) / slabs;
  if (plan.loops.are_rows) plan.slab_blocks = (plan.slab_blocks + 7) / 8 * 8;  // done by fours
  plan.slabs = (plan.blocks + plan.slab_blocks - 1) / plan.slab_blocks;
  return plan;
}

/// A pass's steps: for a group of channels, or for a part of one.
class Steps {
 public:
  virtual void start(Index group) const = 0;
  virtual void sum(const Part& part) const = 0;
  virtual void finish(Index group) const = 0;
  virtual void prepare(Index group) const = 0;
  virtual void map(const Part& part) const = 0;

 protected:
  ~Steps() = default;
};

enum class Sweep { sums, maps, both };

/// Runs a pass's steps over all channels: start, sum and finish; prepare and map; or both. Where
/// there are groups enough, a thread takes one after the other, so that what was summed is mapped
/// from the cache.
inline void sweep(const Plan& plan, const Workers& workers, const Steps& steps, Sweep what) {
  constexpr Index worth_waking = 320 * 1024;  // values; below, waking may cost more than it saves
  const bool sums = what != Sweep::maps, maps = what != Sweep::sums;
  const int threads = plan.values >= worth_waking ? workers.count() : 1;
  if (threads == 1 || plan.slabs == 1 || plan.groups >= 4 * threads) {
    workers.run(threads, plan.groups, [&](Index g) {
      if (sums) {
        steps.start(g);
        for (Index s = 0; s < plan.slabs; ++s) steps.sum(plan.part(g, s));
        steps.finish(g);
      }
      if (maps) {
        steps.prepare(g);
        for (Index s = 0; s < plan.slabs; ++s) steps.map(plan.part(g, s));
      }
    });
    return;
  }
  const Index tasks = plan.groups * plan.slabs;
  const auto part = [&](Index t) { return plan.part(t / plan.slabs, t % plan.slabs); };
  if (sums) {
    for (Index g = 0; g < plan.groups; ++g) steps.start(g);
    workers.run(threads, tasks, [&](Index t) { steps.sum(part(t)); });
    for (Index g = 0; g < plan.groups; ++g) steps.finish(g);
  }
  if (maps) {
    for (Index g = 0; g < plan.groups; ++g) steps.prepare(g);
    workers.run(threads, tasks, [&](Index t) { steps.map(part(t)); });
  }
}

}  // namespace batchnorm::detail
