// SPDX-License-Identifier: MIT
// Reads the four gzipped idx files of Fashion-MNIST.
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

namespace fashion_mnist {

inline constexpr std::size_t kSide = 28;               // pixels
inline constexpr std::size_t kPixels = kSide * kSide;  // of one image
inline constexpr std::size_t kClasses = 10;

/// A file that cannot be used; the message names it and says what is wrong.
class DataError : public std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct Dataset {
  std::vector<std::uint8_t> pixels;  // kPixels for each image, row by row
  std::vector<std::uint8_t> labels;  // 0 to 9

  [[nodiscard]] std::size_t size() const { return labels.size(); }
};

/// Pixels of an idx3 file of 28 x 28 images. Everything is checked: the header, that the file
/// holds exactly what it announces, and gzip's checksum. Memory grows with what is really read.
[[nodiscard]] std::vector<std::uint8_t> read_images(const std::string& path);

/// Labels of an idx1 file, each below kClasses.
[[nodiscard]] std::vector<std::uint8_t> read_labels(const std::string& path);

/// Images and labels of one split, "train" or "t10k".
[[nodiscard]] Dataset read_dataset(const std::string& folder, const std::string& split);

}  // namespace fashion_mnist
