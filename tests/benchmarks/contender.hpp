// SPDX-License-Identifier: MIT
// Who is measured. Each contender is a file, and a shared library that shows nothing else, so that
// each can have compiler flags of its own: Eigen's inline functions must not be mixed.
#pragma once

#include <memory>
#include <vector>

#include "cell.hpp"

#define BENCH_EXPORT __attribute__((visibility("default")))

namespace bench {

/// The memory of a cell: all contenders read and write the same.
struct Data {
  const void* x;
  const void* dy;
  void* out;  // y or dx
  const float* gamma;
  const float* beta;
  const float* mean;  // the running statistics, for inference
  const float* var;
};

/// What the last run() computed. Elements of out are of the cell's type, in its layout.
struct Outcome {
  const void* out;
  std::vector<double> dgamma, dbeta;  // after backward
  std::vector<double> mean,
      inv_std;  // of the batch, after a forward, where the contender tells them
};

class Contender {
 public:
  virtual ~Contender() = default;
  virtual void run() = 0;  // one call of the cell's operation, by memory that is there already
  [[nodiscard]] virtual Outcome outcome() = 0;
};

constexpr double eps = 1e-5;

/// Each prepares everything that one call does not need, or returns null for what it cannot do.
using Make = std::unique_ptr<Contender>(const Cell&, const Data&);
BENCH_EXPORT Make make_ours, make_ours_portable;  // -march=native, and without
BENCH_EXPORT Make make_old, make_new;             // two folders of headers, for versions.cpp
BENCH_EXPORT Make make_torch;                     // at::native_batch_norm and its backward
BENCH_EXPORT Make make_onednn;                    // in the cell's layout
BENCH_EXPORT Make make_onednn_blocked;            // in oneDNN's own, for NCHW
BENCH_EXPORT Make make_eigen_loops, make_eigen_tensors;
BENCH_EXPORT Make make_copy, make_streamed_copy;  // the limit: copies, or triads for backward

// Versions, for the report.
BENCH_EXPORT std::string torch_version();
BENCH_EXPORT std::string onednn_version();
BENCH_EXPORT std::string onednn_blocked_layout();  // "nChw16c" with AVX-512, else "nChw8c"
BENCH_EXPORT std::string eigen_version();

}  // namespace bench
