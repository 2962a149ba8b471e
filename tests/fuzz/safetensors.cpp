// SPDX-License-Identifier: MIT
// The safetensors reader. An input is a file; one that starts with { is a header and, after the first
// newline, data, which get their length in front here, so that changes need not find it too. What is
// read is compared with the bytes of the file, written, and read again.
#include <algorithm>
#include <array>
#include <batchnorm/batchnorm.hpp>
#include <batchnorm/safetensors.hpp>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "fuzz/require.hpp"
#include "safetensors/files.hpp"
#include "support/same_state.hpp"

namespace {

using batchnorm::BatchNorm1d;
using batchnorm::BatchNorm2d;
using batchnorm::SafetensorsEntry;
using batchnorm::SafetensorsReader;
using batchnorm::SafetensorsWriter;
using Eigen::Index;
using fuzz::require;
using std::filesystem::path;

std::string file_of(const std::string& input) {
  if (input.empty() || input[0] != '{') return input;
  const std::size_t end = std::min(input.find('\n'), input.size());
  return testing::safetensors(input.substr(0, end), input.substr(std::min(end + 1, input.size())));
}

/// Makes the call; whether it was not refused.
template <class Call>
bool accepts(const Call& call) {
  try {
    call();
    return true;
  } catch (const std::invalid_argument&) {
    return false;
  }
}

/// A file that is open, and its bytes.
struct File {
  SafetensorsReader reader;
  std::string bytes;

  [[nodiscard]] std::size_t data_start() const {
    return 8 + static_cast<std::size_t>(static_cast<std::uint8_t>(bytes[0]) +
                                        256 * static_cast<std::uint8_t>(bytes[1]));
  }
};

/// Bytes of a dtype's number: the digits of its name, except for a few; 0 if they are not known.
std::uint64_t bytes_of(const std::string& dtype) {
  static const std::set<std::string> by_digits{"F64", "F32", "F16", "BF16", "C64", "I64", "I32",
                                               "I16", "I8",  "U64", "U32",  "U16", "U8"};
  static const std::set<std::string> bytes{"BOOL",    "F8_E5M2",     "F8_E4M3",
                                           "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"};
  if (bytes.count(dtype) > 0) return 1;
  if (by_digits.count(dtype) == 0) return 0;
  return std::stoul(dtype.substr(dtype.find_first_of("0123456789"))) / 8;
}

/// Entries lie within the data, one after the other, and are as long as their shape if the size of
/// their dtype is known.
void check_entries(const File& file) {
  std::vector<std::pair<std::uint64_t, std::uint64_t>> ranges;
  for (const auto& [name, entry] : file.reader.entries()) {
    const std::uint64_t known = bytes_of(entry.dtype);
    std::uint64_t bytes = known;
    const auto& extents = entry.extents;
    if (std::count(extents.begin(), extents.end(), 0) > 0) bytes = 0;
    for (const Index extent : extents) {
      require(extent >= 0, "extents are not negative");
      require(bytes <= file.bytes.size(), "a tensor lies within the file");
      bytes *= static_cast<std::uint64_t>(extent);
    }
    require(entry.begin <= entry.end, "a tensor has an end after its begin");
    require(known == 0 || entry.end - entry.begin == bytes, "a tensor is as long as its shape");
    ranges.emplace_back(entry.begin, entry.end);
  }
  std::sort(ranges.begin(), ranges.end());
  std::uint64_t end = 0;
  for (const auto& range : ranges) {
    require(range.first == end, "tensors follow one another");
    end = range.second;
  }
  require(file.data_start() + end == file.bytes.size(), "tensors fill the file");
}

// Tensors. ----------------------------------------------------------------------------------------

/// A tensor in its own type has the bits of the file, in others its numbers.
template <class Scalar, int rank>
void check_tensor(File& file, const std::string& name, SafetensorsWriter& again) {
  const SafetensorsEntry& entry = file.reader.entries().at(name);
  auto values = file.reader.tensor<Scalar, rank>(name);
  const std::size_t bytes = sizeof(Scalar) * static_cast<std::size_t>(values.size());
  require(bytes == entry.end - entry.begin, "a tensor has the file's numbers");
  require(
      bytes == 0 || std::memcmp(values.data(), file.bytes.data() + file.data_start() + entry.begin,
                                bytes) == 0,
      "a tensor has the file's bits");
  const auto as_double = file.reader.tensor<double, rank>(name);
  for (Index i = 0; i < values.size(); ++i) {
    const double v = static_cast<double>(values.data()[i]), got = as_double.data()[i];
    require(got == v || (got != got && v != v), "a tensor of double has the numbers");
  }
  static_cast<void>(
      accepts([&] { static_cast<void>(file.reader.tensor<std::int64_t, rank>(name)); }));
  require(!accepts([&] { static_cast<void>(file.reader.tensor<Scalar, rank + 1>(name)); }),
          "another rank is refused");
  again.add(name, std::move(values));
}

template <class Scalar>
void check_tensor_of(File& file, const std::string& name, SafetensorsWriter& again) {
  switch (file.reader.entries().at(name).extents.size()) {
    case 0:
      return check_tensor<Scalar, 0>(file, name, again);
    case 1:
      return check_tensor<Scalar, 1>(file, name, again);
    case 2:
      return check_tensor<Scalar, 2>(file, name, again);
    case 3:
      return check_tensor<Scalar, 3>(file, name, again);
    default:
      again.add(name, file.reader.bytes(name));
  }
}
void check_tensor(File& file, const std::string& name, SafetensorsWriter& again) {
  const std::string dtype = file.reader.entries().at(name).dtype;
  if (dtype == "F64") return check_tensor_of<double>(file, name, again);
  if (dtype == "F32") return check_tensor_of<float>(file, name, again);
  if (dtype == "F16") return check_tensor_of<Eigen::half>(file, name, again);
  if (dtype == "BF16") return check_tensor_of<Eigen::bfloat16>(file, name, again);
  if (dtype == "I64") return check_tensor_of<std::int64_t>(file, name, again);
  if (dtype == "U8") return check_tensor_of<std::uint8_t>(file, name, again);
  const bool is_integer = dtype == "BOOL" || dtype[0] == 'I' || dtype[0] == 'U';
  require(is_integer || !accepts([&] { static_cast<void>(file.reader.tensor<float, 1>(name)); }),
          "a dtype that is not read is refused");
  again.add(name, file.reader.bytes(name));
}

void check_tensors(File& file, const path& to) {
  SafetensorsWriter writer;
  for (const auto& entry : file.reader.entries()) check_tensor(file, entry.first, writer);
  for (const auto& [key, value] : file.reader.metadata()) writer.add_metadata(key, value);
  writer.write(to);
  File again{SafetensorsReader(to), testing::read_file(to)};
  check_entries(again);
  require(again.reader.metadata() == file.reader.metadata(), "metadata written again read equal");
  require(again.reader.entries().size() == file.reader.entries().size(),
          "what is written again is all there");
  SafetensorsWriter third;
  for (const auto& item : file.reader.entries()) {
    const std::string& name = item.first;
    const SafetensorsEntry &a = item.second, &b = again.reader.entries().at(name);
    const auto bytes = [&](const File& f, const SafetensorsEntry& e) {
      return f.bytes.substr(f.data_start() + e.begin, e.end - e.begin);
    };
    require(a.dtype == b.dtype && a.extents == b.extents && bytes(file, a) == bytes(again, b),
            "a tensor written again reads equal");
    check_tensor(again, name, third);
  }
}

// Layers. -----------------------------------------------------------------------------------------

/// The prefixes of names that may be a layer's.
std::set<std::string> prefixes(const File& file) {
  std::set<std::string> found{""};
  for (const auto& item : file.reader.entries()) {
    const std::string& name = item.first;
    found.insert(name.substr(0, name.rfind('.') == name.npos ? 0 : name.rfind('.') + 1));
    if (found.size() == 4) break;
  }
  for (const std::string& prefix : file.reader.batch_norm_prefixes()) {
    found.insert(prefix);
    if (found.size() == 6) break;
  }
  return found;
}

/// Numbers that were loaded are ones that a layer may have.
template <class Layer>
void check_state(const Layer& bn) {
  for (const auto* v : {&bn.gamma(), &bn.beta(), &bn.running_mean(), &bn.running_var()}) {
    require(v->allFinite(), "loaded numbers are finite");
  }
  require((bn.running_var().array() >= 0).all(), "loaded variances are not negative");
  require(bn.num_batches_tracked() >= 0, "a loaded counter is not negative");
}

/// Loads into a layer that is there; it is as it was, or is the file's.
template <class Layer>
void check_load(File& file, const std::string& prefix, const Layer& built, const path& to) {
  Layer bn = built;
  bn.gamma().setConstant(3);
  bn.running_mean().setConstant(4);
  bn.num_batches_tracked() = 5;
  bn.eval();
  const Layer before = bn;
  if (!accepts([&] { file.reader.load(bn, prefix); })) {
    require(testing::same_state(bn, before), "a layer is as it was after a file is refused");
    return;
  }
  check_state(bn);
  require(!bn.is_training(), "loading does not change the mode");
  batchnorm::save_safetensors(to, bn, prefix);
  Layer again = before;
  batchnorm::load_safetensors(to, again, prefix);
  require(testing::same_state(again, bn), "a layer written again reads equal");
}

template <class Layer>
void check_layer(File& file, const std::string& prefix, const path& to) {
  std::optional<Layer> bn;
  if (accepts([&] { bn = file.reader.layer<Layer>(prefix); })) {
    check_state(*bn);
    batchnorm::save_safetensors(to, *bn, prefix);
    const auto again = SafetensorsReader(to).layer<Layer>(prefix);
    require(testing::same_state(again, *bn), "a layer written again reads equal");
    require(again.options().eps == bn->options().eps, "eps written again reads equal");
    check_load(file, prefix, *bn, to);
  }
  if (accepts([&] { bn = file.reader.layer<Layer>(prefix, batchnorm::Options::keras()); })) {
    check_state(*bn);
    check_load(file, prefix, *bn, to);
  }
  check_load(file, prefix, Layer(1), to);
  check_load(file, prefix, Layer(2), to);
}

}  // namespace

extern "C" std::size_t LLVMFuzzerMutate(std::uint8_t* data, std::size_t size, std::size_t most);

/// Half of the changes are of the data alone, for headers are much longer.
extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size,
                                               std::size_t most, unsigned seed) {
  std::uint8_t* const end = data + size;
  std::uint8_t* const newline = std::find(data, end, std::uint8_t{'\n'});
  if (size == 0 || data[0] != '{' || end - newline < 2 || seed % 2 == 0) {
    return LLVMFuzzerMutate(data, size, most);
  }
  std::uint8_t* const values = newline + 1;
  const auto room = static_cast<std::size_t>(end - values);
  std::fill(values + LLVMFuzzerMutate(values, room, room), end, std::uint8_t{0});
  return size;
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const testing::Folder folder("fuzz_safetensors");
  const std::string bytes = file_of({data, data + size});
  testing::write_file(folder / "f", bytes);
  std::optional<File> file;
  try {
    file.emplace(File{SafetensorsReader(folder / "f"), bytes});
  } catch (const std::invalid_argument& error) {
    const std::string start = "[safetensors] " + (folder / "f").string() + ": ";
    require(std::string(error.what()).rfind(start, 0) == 0, "an error names the file");
    return 0;
  }
  check_entries(*file);
  check_tensors(*file, folder / "again");
  for (const std::string& prefix : prefixes(*file)) {
    check_layer<BatchNorm1d<float>>(*file, prefix, folder / "layer");
    check_layer<BatchNorm2d<double>>(*file, prefix, folder / "layer");
  }
  return 0;
}
