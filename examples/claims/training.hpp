// SPDX-License-Identifier: MIT
// Trains one network from one seed.
#pragma once

#include <cstdint>
#include <functional>

#include "idx.hpp"
#include "recipe.hpp"

namespace claims {

struct Source {
  fashion_mnist::Dataset train, test;
};

/// The seed chooses the images, their order and the weights: the same ones for every recipe that
/// asks for as many. Calls stepped(images) after each step.
[[nodiscard]] Outcome train(const Recipe& recipe, std::uint64_t seed, const Source& source,
                            const std::function<void(std::size_t)>& stepped);

}  // namespace claims
