// SPDX-License-Identifier: MIT
// Training over ranks.
#pragma once

#include <batchnorm/sync/communicator.hpp>
#include <functional>
#include <vector>

#include "idx.hpp"
#include "options.hpp"

namespace data_parallel {

/// Whose statistics a rank normalizes its images by.
enum class Statistics { of_all_ranks, of_its_own };

struct Run {
  std::vector<double> losses;  // of each batch, over all ranks
  double test_accuracy = 0;    // by rank 0's running statistics
  double seconds = 0;
};

/// Trains from the same weights on the same batches, whatever the number of ranks: each has an equal
/// share of every batch of `batch` images, and the gradients are averaged. In double, so that equal
/// curves can be told from nearly equal ones. A last batch that is not full is left out. Calls
/// progress(images done) after each batch.
[[nodiscard]] Run train(const Options& options, std::size_t batch, Statistics statistics,
                        const fashion_mnist::Dataset& train_set,
                        const fashion_mnist::Dataset& test_set, batchnorm::Communicator& world,
                        const std::function<void(std::size_t)>& progress);

}  // namespace data_parallel
