// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <vector>

#include "cell.hpp"

namespace bench {

/// The inputs of ResNet-50's 53 batch-norm layers (He et al., 2015, arXiv 1512.03385) for images of
/// 224x224, in the order of the forward pass. The 3x3 convolution of a stage's first block strides.
inline std::vector<Shape> resnet50_layers(std::ptrdiff_t batch) {
  struct Stage {
    int blocks;
    std::ptrdiff_t channels, size;
  };
  constexpr std::array<Stage, 4> stages = {{{3, 64, 56}, {4, 128, 28}, {6, 256, 14}, {3, 512, 7}}};
  std::vector<Shape> layers = {{batch, 64, 112, 112}};
  std::ptrdiff_t size_before = 56;  // after the pooling
  for (const auto& [blocks, channels, size] : stages) {
    for (int block = 0; block < blocks; ++block) {
      layers.push_back({batch, channels, size_before, size_before});
      layers.push_back({batch, channels, size, size});
      layers.push_back({batch, 4 * channels, size, size});
      if (block == 0) layers.push_back({batch, 4 * channels, size, size});  // the shortcut
      size_before = size;
    }
  }
  return layers;
}

}  // namespace bench
