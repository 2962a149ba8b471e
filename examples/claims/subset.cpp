// SPDX-License-Identifier: MIT
#include "subset.hpp"

#include <algorithm>
#include <array>
#include <numeric>

namespace claims {
namespace {

using fashion_mnist::Dataset, fashion_mnist::kClasses, fashion_mnist::kPixels, fashion_mnist::kSide;

float shade(double pixel, Pixels pixels) {
  constexpr double kMean = 0.2860 * 255.0, kDeviation = 0.3530 * 255.0;  // of the training images
  return static_cast<float>(pixels == Pixels::raw ? pixel : (pixel - kMean) / kDeviation);
}

std::vector<std::size_t> shuffled(std::size_t count, nn::Random& random) {
  std::vector<std::size_t> order(count);
  std::iota(order.begin(), order.end(), std::size_t{0});
  random.shuffle(order);
  return order;
}

Subset draw_images(const Dataset& data, std::size_t count, Pixels pixels, nn::Random& random) {
  const auto order = shuffled(data.size(), random);
  count = std::min(count, data.size());
  Subset subset;
  subset.x.resize(static_cast<nn::Index>(count), 1, kSide, kSide);
  float* to = subset.x.data();
  for (std::size_t n = 0; n < count; ++n) {
    const std::uint8_t* from = data.pixels.data() + order[n] * kPixels;
    to = std::transform(from, from + kPixels, to,
                        [&](std::uint8_t pixel) { return shade(pixel, pixels); });
    subset.labels.push_back(data.labels[order[n]]);
  }
  return subset;
}

/// Means of 2 x 2 pixels.
void halve(const std::uint8_t* image, Pixels pixels, float* to) {
  constexpr std::size_t half = kSide / 2;
  for (std::size_t i = 0; i < half; ++i) {
    for (std::size_t j = 0; j < half; ++j) {
      const std::uint8_t* p = image + 2 * i * kSide + 2 * j;
      *to++ = shade(0.25 * (p[0] + p[1] + p[kSide] + p[kSide + 1]), pixels);
    }
  }
}

Subset draw_volumes(const Dataset& data, std::size_t count, Pixels pixels, nn::Random& random) {
  std::array<std::vector<std::size_t>, kClasses> of_class;
  for (std::size_t i = 0; i < data.size(); ++i) of_class[data.labels[i]].push_back(i);
  Subset subset;
  constexpr nn::Index kPlane = kHalfSide * kHalfSide;
  subset.x.resize(static_cast<nn::Index>(count), 1, kDepth, kPlane);
  float* to = subset.x.data();
  while (subset.size() < count) {
    const auto label = static_cast<std::uint8_t>(random.next() % kClasses);
    const auto& images = of_class[label];
    if (images.empty()) continue;
    for (nn::Index d = 0; d < kDepth; ++d, to += kPlane) {
      halve(data.pixels.data() + images[random.next() % images.size()] * kPixels, pixels, to);
    }
    subset.labels.push_back(label);
  }
  return subset;
}

}  // namespace

Subset draw(const Dataset& data, std::size_t count, Form form, Pixels pixels, nn::Random& random) {
  return form == Form::images ? draw_images(data, count, pixels, random)
                              : draw_volumes(data, count, pixels, random);
}

void gather(const Subset& all, const std::vector<std::size_t>& order, std::size_t begin,
            std::size_t end, Subset& batch) {
  nn::Shape shape = all.x.dimensions();
  shape[0] = static_cast<nn::Index>(end - begin);
  batch.x.resize(shape);
  batch.labels.resize(end - begin);
  for (std::size_t i = begin; i < end; ++i) {
    const auto from = static_cast<nn::Index>(order[i]), to = static_cast<nn::Index>(i - begin);
    nn::rows(batch.x, to, to + 1) = nn::rows(all.x, from, from + 1);
    batch.labels[i - begin] = all.labels[order[i]];
  }
}

void distort(Subset& batch, nn::Random& random) {
  constexpr int side = kSide;
  std::array<float, kPixels> image{};
  for (nn::Index n = 0; n < batch.x.dimension(0); ++n) {
    float* pixels = batch.x.data() + n * static_cast<nn::Index>(kPixels);
    std::copy_n(pixels, kPixels, image.begin());
    const float black = image[0];
    const int down = static_cast<int>(random.next() % 5) - 2;
    const int right = static_cast<int>(random.next() % 5) - 2;
    const bool flip = random.next() % 2 == 0;
    for (int i = 0; i < side; ++i) {
      for (int j = 0; j < side; ++j) {
        const int row = i - down, column = (flip ? side - 1 - j : j) - right;
        const bool inside = row >= 0 && row < side && column >= 0 && column < side;
        pixels[i * side + j] =
            inside ? image[static_cast<std::size_t>(row * side + column)] : black;
      }
    }
  }
}

}  // namespace claims
