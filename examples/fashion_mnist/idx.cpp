// SPDX-License-Identifier: MIT
#include "idx.hpp"

#include <zlib.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>
#include <utility>

namespace fashion_mnist {
namespace {

[[noreturn]] void fail(const std::string& path, const std::string& what) {
  throw DataError("[fashion_mnist] " + path + ": " + what +
                  "\nInstall Debian's dataset-fashion-mnist, or name the folder of the four files "
                  "with --data.");
}

std::string hex(std::uint32_t value) {
  std::string digits;
  for (int shift = 28; shift >= 0; shift -= 4) digits += "0123456789abcdef"[value >> shift & 15U];
  return "0x" + digits;
}

/// A gzip stream that ends with an error unless it is read to its very end.
class GzipFile {
 public:
  explicit GzipFile(std::string path) : path_(std::move(path)) {
    errno = 0;
    file_.reset(gzopen(path_.c_str(), "rb"));
    if (file_ == nullptr) {
      fail(path_, std::string("cannot be opened (") +
                      (errno == 0 ? "out of memory" : std::strerror(errno)) + ")");
    }
  }

  /// The next size bytes, which the message calls what.
  std::vector<std::uint8_t> read(std::size_t size, const std::string& what) {
    constexpr std::size_t kBlock = std::size_t{1} << 20;
    std::vector<std::uint8_t> bytes;
    while (bytes.size() < size) {
      const std::size_t have = bytes.size();
      const std::size_t wanted = std::min(kBlock, size - have);
      bytes.resize(have + wanted);
      const std::size_t got = read_some(bytes.data() + have, wanted);
      if (got < wanted) {
        fail(path_, "ends after " + std::to_string(have + got) + " of the " + std::to_string(size) +
                        " bytes of its " + what + "; the file is cut");
      }
    }
    return bytes;
  }

  std::uint32_t read_big_endian(const std::string& what) {
    std::uint32_t value = 0;
    for (const std::uint8_t byte : read(4, what)) value = value << 8U | byte;
    return value;
  }

  /// Checks that nothing follows and that the checksum at the end of the stream is there and fits.
  void finish() {
    std::uint8_t extra = 0;
    if (read_some(&extra, 1) != 0) fail(path_, "holds more than its header announces");
    if (gzclose_r(file_.release()) != Z_OK)
      fail(path_, "ends within its checksum; the file is cut");
  }

  [[nodiscard]] const std::string& path() const { return path_; }

 private:
  struct Close {
    void operator()(gzFile file) const { gzclose_r(file); }
  };

  std::size_t read_some(std::uint8_t* to, std::size_t size) {
    const int got = gzread(file_.get(), to, static_cast<unsigned>(size));
    int code = Z_OK;
    std::string text = gzerror(file_.get(), &code);
    if (text.rfind(path_ + ": ", 0) == 0) text.erase(0, path_.size() + 2);  // zlib names it too
    if (code == Z_DATA_ERROR) fail(path_, "is corrupted (zlib: " + text + ")");
    if (code == Z_ERRNO) fail(path_, std::string("cannot be read (") + std::strerror(errno) + ")");
    // Z_BUF_ERROR is a cut stream; what was read before the cut is returned and told by the caller.
    if (code != Z_OK && code != Z_BUF_ERROR) {
      fail(path_, "cannot be read (zlib: " + text + ")");
    }
    return got > 0 ? static_cast<std::size_t>(got) : 0;
  }

  std::string path_;
  std::unique_ptr<gzFile_s, Close> file_;
};

void check_magic(GzipFile& file, std::uint32_t expected, const char* kind) {
  const std::uint32_t magic = file.read_big_endian("header");
  if (magic != expected) {
    fail(file.path(), std::string("is no idx file of ") + kind + " (expected the magic number " +
                          hex(expected) + ", got " + hex(magic) + ")");
  }
}

}  // namespace

std::vector<std::uint8_t> read_images(const std::string& path) {
  GzipFile file(path);
  check_magic(file, 0x00000803, "images");
  const std::size_t count = file.read_big_endian("header");
  const std::size_t rows = file.read_big_endian("header");
  const std::size_t columns = file.read_big_endian("header");
  if (rows != kSide || columns != kSide) {
    fail(path, "expected images of 28 x 28, got " + std::to_string(rows) + " x " +
                   std::to_string(columns));
  }
  if (count == 0) fail(path, "holds no images");
  auto pixels = file.read(count * kPixels, std::to_string(count) + " images");
  file.finish();
  return pixels;
}

std::vector<std::uint8_t> read_labels(const std::string& path) {
  GzipFile file(path);
  check_magic(file, 0x00000801, "labels");
  const std::size_t count = file.read_big_endian("header");
  if (count == 0) fail(path, "holds no labels");
  auto labels = file.read(count, std::to_string(count) + " labels");
  file.finish();
  const auto bad =
      std::find_if(labels.begin(), labels.end(), [](auto label) { return label >= kClasses; });
  if (bad != labels.end()) {
    fail(path, "expected labels from 0 to 9, got " + std::to_string(*bad) + " at image " +
                   std::to_string(bad - labels.begin()));
  }
  return labels;
}

Dataset read_dataset(const std::string& folder, const std::string& split) {
  const std::string images = folder + "/" + split + "-images-idx3-ubyte.gz";
  const std::string labels = folder + "/" + split + "-labels-idx1-ubyte.gz";
  Dataset data{read_images(images), read_labels(labels)};
  if (data.pixels.size() != data.size() * kPixels) {
    fail(labels, "holds " + std::to_string(data.size()) + " labels, but there are " +
                     std::to_string(data.pixels.size() / kPixels) + " images in " + images);
  }
  return data;
}

}  // namespace fashion_mnist
