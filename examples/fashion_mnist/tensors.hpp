// SPDX-License-Identifier: MIT
// Images as the networks take them.
#pragma once

#include <algorithm>
#include <cstdint>

#include "idx.hpp"
#include "tensor.hpp"

namespace fashion_mnist {

/// Images [begin, end) of a set, with pixels in [0, 1].
[[nodiscard]] inline nn::Tensor<float> images(const Dataset& data, std::size_t begin,
                                              std::size_t end) {
  nn::Tensor<float> x(static_cast<nn::Index>(end - begin), 1, kSide, kSide);
  std::transform(data.pixels.data() + begin * kPixels, data.pixels.data() + end * kPixels, x.data(),
                 [](std::uint8_t pixel) { return static_cast<float>(pixel) * (1.0F / 255.0F); });
  return x;
}

/// The class with the largest logit, for each image.
[[nodiscard]] inline std::vector<std::uint8_t> classes(const nn::Tensor<float>& logits) {
  std::vector<std::uint8_t> all;
  for (nn::Index n = 0; n < logits.dimension(0); ++n) {
    nn::Index best = 0;
    nn::rows(logits, n, n + 1).row(0).maxCoeff(&best);
    all.push_back(static_cast<std::uint8_t>(best));
  }
  return all;
}

}  // namespace fashion_mnist
