// SPDX-License-Identifier: MIT
#include <functional>

#include "fashion_files.hpp"
#include "idx.hpp"

namespace {

using fashion_mnist::read_dataset;
using fashion_mnist::read_images;
using fashion_mnist::read_labels;
using testing::Bytes;
using testing::Folder;

/// What the error says; empty where there was none.
std::string error_of(const std::function<void()>& read) {
  try {
    read();
  } catch (const fashion_mnist::DataError& error) {
    return error.what();
  }
  return "";
}

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

void require_error(const std::string& path, const std::string& what) {
  const std::string error = error_of([&] { (void)read_images(path); });
  CAPTURE(error);
  REQUIRE(contains(error, path + ": "));
  REQUIRE(contains(error, what));
}

Bytes three_images() {
  Bytes bytes = testing::image_header(3);
  for (int i = 0; i < 3 * 784; ++i) bytes.push_back(static_cast<std::uint8_t>(i * i % 251));
  return bytes;
}

}  // namespace

TEST_CASE("idx files give their pixels and labels", "[fashion]") {
  const Folder folder;
  const Bytes images = three_images();
  testing::write_gzip(folder.file("t10k-images-idx3-ubyte.gz"), images);
  testing::write_gzip(folder.file("t10k-labels-idx1-ubyte.gz"), testing::label_file({9, 0, 4}));
  const auto data = read_dataset(folder.path(), "t10k");
  REQUIRE(data.pixels == Bytes(images.begin() + 16, images.end()));
  REQUIRE(data.labels == Bytes{9, 0, 4});
}

TEST_CASE("a missing file is named with the reason and what to do", "[fashion]") {
  const Folder folder;
  require_error(folder.file("none.gz"), "No such file");
  require_error(folder.file("none.gz"), "dataset-fashion-mnist");
  require_error(folder.path(), "cannot be read");  // a folder, not a file
}

TEST_CASE("a file cut anywhere is an error, its last byte included", "[fashion]") {
  const Folder folder;
  const std::string path = folder.file("images.gz");
  testing::write_gzip(path, three_images());
  const Bytes whole = testing::read_plain(path);
  REQUIRE(error_of([&] { (void)read_images(path); }).empty());
  for (std::size_t size = 0; size < whole.size(); ++size) {
    testing::write_plain(path, Bytes(whole.begin(), whole.begin() + static_cast<long>(size)));
    CAPTURE(size, whole.size());
    require_error(path, "cut");
  }
}

TEST_CASE("a byte changed anywhere in the compressed data or its checksum is an error",
          "[fashion]") {
  const Folder folder;
  const std::string path = folder.file("images.gz");
  testing::write_gzip(path, three_images());
  const Bytes whole = testing::read_plain(path);
  for (std::size_t at = 10; at < whole.size(); ++at) {  // behind gzip's header of ten bytes
    Bytes changed = whole;
    changed[at] ^= 0x10U;
    testing::write_plain(path, changed);
    CAPTURE(at, whole.size());
    REQUIRE(contains(error_of([&] { (void)read_images(path); }), path));
  }
  Bytes changed = whole;
  changed[whole.size() - 5] ^= 1U;  // in the checksum
  testing::write_plain(path, changed);
  require_error(path, "is corrupted (zlib: incorrect data check)");
}

TEST_CASE("a file of another kind is an error", "[fashion]") {
  const Folder folder;
  const std::string path = folder.file("images.gz");
  testing::write_gzip(path, testing::label_file({1, 2, 3, 4, 5, 6, 7, 8, 9}));
  require_error(path, "expected the magic number 0x00000803, got 0x00000801");
  testing::write_plain(path, {'h', 'e', 'l', 'l', 'o'});  // no gzip at all
  require_error(path, "got 0x68656c6c");
  testing::write_gzip(path, three_images());
  REQUIRE(contains(error_of([&] { (void)read_labels(path); }), "0x00000801, got 0x00000803"));
}

TEST_CASE("a file of another size than its header's is an error", "[fashion]") {
  const Folder folder;
  const std::string path = folder.file("images.gz");
  Bytes bytes = three_images();
  bytes.pop_back();
  testing::write_gzip(path, bytes);
  require_error(path, "ends after 2351 of the 2352 bytes");
  bytes.push_back(0);
  bytes.push_back(0);
  testing::write_gzip(path, bytes);
  require_error(path, "more than its header announces");
  testing::write_gzip(path, testing::image_header(0));
  require_error(path, "holds no images");
  testing::write_gzip(path, testing::image_header(3, 28, 27));
  require_error(path, "expected images of 28 x 28, got 28 x 27");
  testing::write_gzip(path, testing::image_header(3, 0xffffffffU, 0xffffffffU));
  require_error(path, "expected images of 28 x 28");
}

TEST_CASE("no memory is taken for images that a header only promises", "[fashion]") {
  const Folder folder;
  const std::string path = folder.file("images.gz");
  testing::write_gzip(path, testing::image_header(0xffffffffU));  // 3 terabytes
  require_error(path, "ends after 0 of the");
}

TEST_CASE("labels out of range and labels without images are errors", "[fashion]") {
  const Folder folder;
  const std::string images = folder.file("train-images-idx3-ubyte.gz");
  const std::string labels = folder.file("train-labels-idx1-ubyte.gz");
  testing::write_gzip(images, three_images());
  testing::write_gzip(labels, testing::label_file({1, 2, 10}));
  std::string error = error_of([&] { (void)read_dataset(folder.path(), "train"); });
  REQUIRE(contains(error, labels + ": expected labels from 0 to 9, got 10 at image 2"));
  testing::write_gzip(labels, testing::label_file({1, 2, 3, 4}));
  error = error_of([&] { (void)read_dataset(folder.path(), "train"); });
  REQUIRE(contains(error, labels + ": holds 4 labels, but there are 3 images in " + images));
}
