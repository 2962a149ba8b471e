// SPDX-License-Identifier: MIT
#pragma once

// Statistics that merge. The count, the mean and the sum of squared deviations of a batch can be
// measured in parts and merged without an error beyond rounding:
//
//   Moments all = moments_of(a);            // a part of the data, of any size
//   all.merge(moments_of(b));               // now the moments of a and b together
//
//   Recalibration                           // running statistics of a whole data set
//   MicroBatches big(bn);                   // a batch that is too large for memory
//   GhostBatches ghost(bn, 32);             // a batch normalized 32 samples at a time
//
// Over threads and machines: sync.hpp and mpi.hpp.

#include "batchnorm/moments/ghost_batches.hpp"
#include "batchnorm/moments/micro_batches.hpp"
#include "batchnorm/moments/recalibration.hpp"
