// SPDX-License-Identifier: MIT
// Builds the networks.
#pragma once

#include "random.hpp"
#include "recipe.hpp"
#include "sequential.hpp"

namespace claims {

using Model = nn::Sequential<float>;

/// From the same random numbers, networks with and without batch norm get the same weights.
[[nodiscard]] Model build(const Network& network, nn::Random& random);

/// The matrices of all linear layers and convolutions, first to last: no biases, gammas or betas.
[[nodiscard]] std::vector<nn::Parameter<float>> weights_of(Model& model);

}  // namespace claims
