// SPDX-License-Identifier: MIT
// The reader of Fashion-MNIST's files, on inputs as files: gzipped ones, and plain ones, which zlib
// hands on as they are. What a plain one holds is told here a second time, by hand.
#include "idx.hpp"

#include <zlib.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "fuzz/require.hpp"
#include "safetensors/files.hpp"

namespace {

using Bytes = std::vector<std::uint8_t>;
using Read = Bytes (*)(const std::string& path);

/// What the reader gives, or nothing where it refuses the file, and says which.
std::optional<Bytes> read(Read reader, const std::filesystem::path& path, const std::string& file) {
  testing::write_file(path, file);
  try {
    return reader(path.string());
  } catch (const fashion_mnist::DataError& error) {
    const std::string start = "[fashion_mnist] " + path.string() + ": ";
    fuzz::require(std::string(error.what()).rfind(start, 0) == 0, "an error names the file");
    return std::nullopt;
  }
}

/// Files of images, or of labels.
struct Kind {
  Read read;
  std::vector<std::uint32_t> header;  // but for the count, which comes second
  std::size_t bytes_of_one;
  std::uint8_t largest;
};

std::string big_endian(std::size_t word) {
  std::string bytes;
  for (int shift = 24; shift >= 0; shift -= 8) bytes += static_cast<char>(word >> shift & 255U);
  return bytes;
}

std::string file_of(const Kind& kind, const Bytes& values) {
  std::string file = big_endian(kind.header[0]) + big_endian(values.size() / kind.bytes_of_one);
  for (std::size_t k = 1; k < kind.header.size(); ++k) file += big_endian(kind.header[k]);
  return file.append(values.begin(), values.end());
}

/// The values of a plain file, or nothing where it should be refused.
std::optional<Bytes> expected(const Kind& kind, const std::string& file) {
  const std::size_t start = 4 + 4 * kind.header.size();
  if (file.size() <= start || (file.size() - start) % kind.bytes_of_one != 0) return std::nullopt;
  const Bytes values(file.begin() + static_cast<std::ptrdiff_t>(start), file.end());
  const bool fit = *std::max_element(values.begin(), values.end()) <= kind.largest;
  if (!fit || file != file_of(kind, values)) return std::nullopt;
  return values;
}

std::string gzipped(const std::string& bytes) {
  z_stream stream{};
  fuzz::require(deflateInit2(&stream, 1, Z_DEFLATED, 16 + 15, 8, Z_DEFAULT_STRATEGY) == Z_OK,
                "zlib starts");
  std::string result(deflateBound(&stream, bytes.size()), '\0');
  std::string from = bytes;
  stream.next_in = reinterpret_cast<Bytef*>(from.data());
  stream.avail_in = static_cast<uInt>(from.size());
  stream.next_out = reinterpret_cast<Bytef*>(result.data());
  stream.avail_out = static_cast<uInt>(result.size());
  fuzz::require(deflate(&stream, Z_FINISH) == Z_STREAM_END, "zlib writes all");
  result.resize(stream.total_out);
  deflateEnd(&stream);
  return result;
}

/// Values that were read are read again from a plain file and from a gzipped one; from a gzipped one
/// that is cut or damaged they are, or nothing is.
void check_written_again(const Kind& kind, const std::filesystem::path& path, const Bytes& values) {
  const std::string file = file_of(kind, values), whole = gzipped(file);
  fuzz::require(read(kind.read, path, file) == values, "values written again read equal");
  fuzz::require(read(kind.read, path, whole) == values, "a gzipped file reads as a plain one");
  const std::size_t place = std::hash<std::string>()(file) % whole.size();
  fuzz::require(!read(kind.read, path, whole.substr(0, place)), "a file that is cut is refused");
  std::string changed = whole;
  changed[place] = static_cast<char>(changed[place] ^ (1 << place % 8));
  const auto again = read(kind.read, path, changed);
  fuzz::require(!again || *again == values, "a changed bit is found, or is none of the values'");
}

void check(const Kind& kind, const std::filesystem::path& path, const std::string& file) {
  const auto values = read(kind.read, path, file);
  const bool is_gzipped = file.compare(0, 1, "\x1f") == 0;
  fuzz::require(is_gzipped || values == expected(kind, file),
                "a plain file is read, or refused, as by hand");
  if (values) check_written_again(kind, path, *values);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const testing::Folder folder("fuzz_idx");
  static const Kind images{fashion_mnist::read_images, {0x803, 28, 28}, 28 * 28, 255};
  static const Kind labels{fashion_mnist::read_labels, {0x801}, 1, 9};
  const std::string file(data, data + size);
  check(images, folder / "images", file);
  check(labels, folder / "labels", file);
  return 0;
}
