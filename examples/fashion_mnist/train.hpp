// SPDX-License-Identifier: MIT
// The training loop.
#pragma once

#include <vector>

#include "history.hpp"
#include "idx.hpp"
#include "models.hpp"
#include "options.hpp"

namespace fashion_mnist {

struct Run {
  nn::Sequential<float> model;
  History history;
};

/// Trains the networks that the options ask for, each batch through all of them in turn.
[[nodiscard]] std::vector<Run> train(const Options& options, const Dataset& train_set,
                                     const Dataset& test_set);

}  // namespace fashion_mnist
