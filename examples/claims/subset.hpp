// SPDX-License-Identifier: MIT
// Random parts of the images, as what a network takes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "idx.hpp"
#include "random.hpp"
#include "tensor.hpp"

namespace claims {

enum class Pixels {
  standardized,  // mean 0 and variance 1 over the training images
  raw            // 0 to 255
};

enum class Form {
  images,  // (N, 1, 28, 28)
  volumes  // four images of a class, at half their size, stacked: (N, 1, 4, 14 * 14)
};

inline constexpr nn::Index kDepth = 4;      // of a volume
inline constexpr nn::Index kHalfSide = 14;  // of its images

struct Subset {
  nn::Tensor<float> x;
  std::vector<std::uint8_t> labels;

  [[nodiscard]] std::size_t size() const { return labels.size(); }
};

/// count samples, drawn without repetition; for images at most as many as there are.
[[nodiscard]] Subset draw(const fashion_mnist::Dataset& data, std::size_t count, Form form,
                          Pixels pixels, nn::Random& random);

/// The samples order[begin, end).
void gather(const Subset& all, const std::vector<std::size_t>& order, std::size_t begin,
            std::size_t end, Subset& batch);

/// Moves each image by up to two pixels each way and flips every second one, at random; what comes
/// in at an edge is as black as the image's first pixel.
void distort(Subset& batch, nn::Random& random);

}  // namespace claims
