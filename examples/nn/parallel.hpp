// SPDX-License-Identifier: MIT
// Threads over the samples of a batch.
#pragma once

#ifndef EIGEN_USE_THREADS
#error "nn needs EIGEN_USE_THREADS defined before any Eigen header (the CMake target nn does it)"
#endif

#include "tensor.hpp"

namespace nn {

/// Threads to compute with; nullptr is the calling thread alone.
using Device = const Eigen::ThreadPoolDevice*;

/// A batch is always cut into this many slices, so that sums over samples are added in the same
/// order, and give the same bits, for any number of threads.
inline constexpr Index kSlices = 16;

/// Calls work(slice, begin, end) for each slice [begin, end) of [0, n); some may be empty.
template <class Work>
void for_each_slice(Device device, Index n, const Work& work) {
  const auto run = [&](Index first, Index last) {
    for (Index s = first; s < last; ++s) work(s, n * s / kSlices, n * (s + 1) / kSlices);
  };
  if (device == nullptr) return run(0, kSlices);
  const double cycles = 1e6;  // of one slice: enough that each becomes a task of its own
  device->parallelFor(kSlices, Eigen::TensorOpCost(0, 0, cycles), run);
}

}  // namespace nn
