// SPDX-License-Identifier: MIT
// Small idx files for the tests, and folders to put them in.
#pragma once

#include <zlib.h>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "../support/catch.hpp"

namespace testing {

using Bytes = std::vector<std::uint8_t>;

/// A folder of the test's own, removed with all that is in it.
class Folder {
 public:
  Folder() {
    std::string name = (std::filesystem::temp_directory_path() / "fashion_mnist.XXXXXX").string();
    REQUIRE(mkdtemp(name.data()) != nullptr);
    path_ = name;
  }
  ~Folder() { std::filesystem::remove_all(path_); }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;

  [[nodiscard]] std::string file(const std::string& name) const { return path_ + "/" + name; }
  [[nodiscard]] const std::string& path() const { return path_; }

 private:
  std::string path_;
};

inline void append_big_endian(Bytes& bytes, std::uint32_t value) {
  for (int shift = 24; shift >= 0; shift -= 8) {
    bytes.push_back(static_cast<std::uint8_t>(value >> shift & 255U));
  }
}

inline Bytes image_header(std::uint32_t count, std::uint32_t rows = 28,
                          std::uint32_t columns = 28) {
  Bytes bytes;
  for (const std::uint32_t value : {std::uint32_t{0x803}, count, rows, columns}) {
    append_big_endian(bytes, value);
  }
  return bytes;
}

inline Bytes label_file(const Bytes& labels) {
  Bytes bytes;
  append_big_endian(bytes, 0x801);
  append_big_endian(bytes, static_cast<std::uint32_t>(labels.size()));
  bytes.insert(bytes.end(), labels.begin(), labels.end());
  return bytes;
}

inline void write_plain(const std::string& path, const Bytes& bytes) {
  std::ofstream out(path, std::ios::binary);
  out.write(reinterpret_cast<const char*>(bytes.data()),
            static_cast<std::streamsize>(bytes.size()));
  REQUIRE(out.good());
}

inline Bytes read_plain(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

inline std::string read_text(const std::string& path) {
  const Bytes bytes = read_plain(path);
  return {bytes.begin(), bytes.end()};
}

inline void write_gzip(const std::string& path, const Bytes& bytes) {
  gzFile file = gzopen(path.c_str(), "wb");
  REQUIRE(file != nullptr);
  REQUIRE(gzwrite(file, bytes.data(), static_cast<unsigned>(bytes.size())) ==
          static_cast<int>(bytes.size()));
  REQUIRE(gzclose(file) == Z_OK);
}

/// Images that a network can learn: class k has a bright band at rows 2k + 4 and 2k + 5 on noise.
inline void write_split(const Folder& folder, const std::string& split, std::uint32_t count) {
  Bytes images = image_header(count);
  Bytes labels;
  std::uint32_t noise = 12345;
  for (std::uint32_t n = 0; n < count; ++n) {
    const std::uint32_t label = n * 7 % 10;
    labels.push_back(static_cast<std::uint8_t>(label));
    for (std::uint32_t pixel = 0; pixel < 28 * 28; ++pixel) {
      noise = noise * 1664525 + 1013904223;
      const std::uint32_t band = (pixel / 28 - 4) / 2 == label ? 150 : 0;
      images.push_back(static_cast<std::uint8_t>(band + (noise >> 26)));
    }
  }
  write_gzip(folder.file(split + "-images-idx3-ubyte.gz"), images);
  write_gzip(folder.file(split + "-labels-idx1-ubyte.gz"), label_file(labels));
}

/// So many images for training and for testing.
inline void write_bands(const Folder& folder, std::uint32_t train, std::uint32_t test) {
  write_split(folder, "train", train);
  write_split(folder, "t10k", test);
}

}  // namespace testing
