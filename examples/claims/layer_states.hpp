// SPDX-License-Identifier: MIT
// Looks into a network: its activations and gradients on a batch.
#pragma once

#include "networks.hpp"
#include "subset.hpp"

namespace claims {

/// A state for each activation function outside residual blocks, with the gradient of the weights
/// before it. Leaves the network in training mode.
[[nodiscard]] std::vector<LayerState> layer_states(Model& model, const Subset& batch);

}  // namespace claims
