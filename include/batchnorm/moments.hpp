// SPDX-License-Identifier: MIT
#pragma once

// Statistics that merge. What a batch is to batch normalization, its count, mean and sum of squared
// deviations, can be measured in parts and put together exactly:
//
//   Moments all = moments_of(a);            // a part of the data, of any size
//   all.merge(moments_of(b));               // as of a and b at once
//
//   Recalibration                           // running statistics of a whole data set
//   MicroBatches big(bn);                   // a batch too large for memory, exactly
//   GhostBatches ghost(bn, 32);             // a batch normalized 32 samples at a time
//
// Over threads and machines: sync.hpp and mpi.hpp.

#include "batchnorm/moments/ghost_batches.hpp"
#include "batchnorm/moments/merge.hpp"
#include "batchnorm/moments/micro_batches.hpp"
#include "batchnorm/moments/recalibration.hpp"
