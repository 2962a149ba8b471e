// SPDX-License-Identifier: MIT
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <limits>
#include <map>
#include <string>
#include <type_traits>
#include <unsupported/Eigen/CXX11/Tensor>
#include <utility>
#include <vector>

#include "batchnorm/layer.hpp"
#include "batchnorm/safetensors/header.hpp"
#include "batchnorm/safetensors/layers.hpp"
#include "batchnorm/safetensors/metadata.hpp"
#include "batchnorm/state.hpp"

namespace batchnorm {

/// A safetensors file, open for reading. The constructor checks that all tensors lie within the
/// file and do not overlap. The other members read numbers when they are called.
class SafetensorsReader {
 public:
  explicit SafetensorsReader(std::filesystem::path path) : in_{std::move(path)} { open(); }

  /// All tensors by name, with dtype and shape (extents), whether this library reads them or not.
  [[nodiscard]] const std::map<std::string, SafetensorsEntry>& entries() const& {
    return header_.entries;
  }
  [[nodiscard]] const std::map<std::string, std::string>& metadata() const& {
    return header_.metadata;
  }
  // Those of a temporary reader, as in for (auto& e : SafetensorsReader(path).entries()).
  [[nodiscard]] std::map<std::string, SafetensorsEntry> entries() && { return header_.entries; }
  [[nodiscard]] std::map<std::string, std::string> metadata() && { return header_.metadata; }
  /// The prefixes of all batch norms, for layer(prefix): "layer1.0.bn1." for example. A batch norm
  /// is what has a mean and a variance of equal length, under the names of any framework, or what
  /// this library wrote.
  [[nodiscard]] std::vector<std::string> batch_norm_prefixes() const {
    return detail::find_batch_norms(entries(), metadata());
  }

  // Tensors. -------------------------------------------------------------------------------------

  /// A tensor of numbers of any dtype (not of complex, 8-bit or smaller floating point), rounded to
  /// Scalar if it has fewer digits (F64 to 16 bits by way of float), or infinite beyond its range.
  /// An integer Scalar cuts fractions off; numbers beyond its range are refused. The rank must be
  /// the file's. Eigen does not convert an Eigen::Tensor to an Eigen::Matrix: call matrix() or
  /// vector() for one.
  template <class Scalar, int rank>
  [[nodiscard]] Eigen::Tensor<Scalar, rank, Eigen::RowMajor> tensor(const std::string& name) {
    const SafetensorsEntry& entry = entry_of(name, rank);
    std::array<Eigen::Index, static_cast<std::size_t>(rank)> extents{};
    for (std::size_t d = 0; d < extents.size(); ++d) extents[d] = entry.extents[d];
    Eigen::Tensor<Scalar, rank, Eigen::RowMajor> values(extents);
    read(name, entry, values.data());
    return values;
  }
  /// The same of a tensor of rank 2, as a matrix. It is row-major unless `order` is
  /// Eigen::ColMajor; rows and columns are the same in both.
  template <class Scalar, int order = Eigen::RowMajor>
  [[nodiscard]] Eigen::Matrix<Scalar, Eigen::Dynamic, Eigen::Dynamic, order> matrix(
      const std::string& name) {
    const SafetensorsEntry& entry = entry_of(name, 2);
    Eigen::Matrix<Scalar, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor> values(entry.extents[0],
                                                                                  entry.extents[1]);
    read(name, entry, values.data());
    return values;
  }
  /// The same of a tensor of rank 1, as a column.
  template <class Scalar>
  [[nodiscard]] Eigen::Matrix<Scalar, Eigen::Dynamic, 1> vector(const std::string& name) {
    const SafetensorsEntry& entry = entry_of(name, 1);
    Eigen::Matrix<Scalar, Eigen::Dynamic, 1> values(entry.extents[0]);
    read(name, entry, values.data());
    return values;
  }
  /// The bytes of a tensor of any dtype, for SafetensorsWriter::add().
  [[nodiscard]] SafetensorsBytes bytes(const std::string& name);

  // Layers. --------------------------------------------------------------------------------------

  /// `others` with the options that the file has. It must have eps, momentum and the variance
  /// estimate. This library writes channel_axis, single_value and non_finite too.
  [[nodiscard]] Options options(const std::string& prefix = "", Options others = {}) const;

  /// A new layer with options(prefix). It has gamma, beta and statistics if the file has them.
  template <class Layer>
  [[nodiscard]] Layer layer(const std::string& prefix = "") {
    check_type<Layer>();
    const detail::LayerEntries found = find(prefix);
    Options o = options(prefix);
    o.track_running_stats =
        found.has(detail::StatePart::mean) || found.has(detail::StatePart::variance);
    return layer<Layer>(prefix, o);
  }
  /// A new layer with the stated options. It has gamma and beta if the file has them. The file is
  /// refused if it has one that Options::scale or Options::shift switches off, except under
  /// SwitchedOff::ignore. MXNet with fix_gamma, for example, writes a gamma that its layer ignores.
  template <class Layer>
  [[nodiscard]] Layer layer(const std::string& prefix, const Options& stated,
                            SwitchedOff off = SwitchedOff::reject) {
    check_type<Layer>();
    const detail::LayerEntries found = find(prefix);
    Options o = stated;
    o.scale = stated.scale && found.has(detail::StatePart::gamma);
    o.shift = stated.shift && found.has(detail::StatePart::beta);
    Layer bn(detail::channels_of(in_, header_, prefix, found), o);
    load(bn, prefix, off);
    return bn;
  }
  /// Gives an existing layer the state under a prefix. If that fails, the layer is unchanged. The
  /// file must have what the layer's options switch on and, except under SwitchedOff::ignore,
  /// nothing that they switch off.
  template <class Scalar, int spatial>
  void load(BatchNorm<Scalar, spatial>& bn, const std::string& prefix = "",
            SwitchedOff off = SwitchedOff::reject) {
    const StateDict found = state(prefix);
    detail::check_options_agree(in_, metadata(), prefix, bn.options());
    detail::load_state({in_.name()}, bn, found, prefix, off);
  }
  /// The state of the layer under a prefix, for load_state_dict. Names that load_state_dict does
  /// not know become PyTorch's.
  [[nodiscard]] StateDict state(const std::string& prefix = "");

 private:
  static constexpr std::uint64_t largest_header = 100'000'000;  // the format's own limit

  void open() {
    std::error_code error;
    const std::uint64_t size = std::filesystem::file_size(in_.path, error);
    if (error) in_.give_up({"expected a file to read, got: ", error.message()});
    file_.open(in_.path, std::ios::binary);
    if (!file_) in_.give_up({"expected a file that can be read"});
    std::array<char, 8> length{};
    if (size < length.size()) in_.refuse({"expected 8 bytes and a header, got ", size, " bytes"});
    file_.read(length.data(), length.size());  // if this fails, so does the next read
    if (std::string(length.data(), 4) == "PK\3\4")
      in_.refuse(
          {"expected a safetensors file, got a zip file, as torch.save writes: write it with "
           "safetensors.torch.save_file"});
    const auto header_size = detail::get_bytes<std::uint64_t>(length.data());
    if (header_size > size - length.size() || header_size > largest_header) {
      in_.refuse({"expected a header within the file of ", size, " bytes, and up to ",
                  largest_header, ", got one of ", std::to_string(header_size),
                  ": is this a safetensors file?"});
    }
    data_start_ = length.size() + header_size;
    std::string header(static_cast<std::size_t>(header_size), '\0');
    file_.read(header.data(), static_cast<std::streamsize>(header_size));
    if (!file_) in_.give_up({"the header cannot be read"});  // GCOV_EXCL_BR_LINE: on a failing disk
    header_ = detail::parse_header(in_, header, size - data_start_);
  }

  [[nodiscard]] const SafetensorsEntry& entry_of(const std::string& name) const {
    const auto it = entries().find(name);
    if (it == entries().end())
      in_.refuse({name, ": expected it, got no such entry: entries() lists the names"});
    return it->second;
  }
  /// Throws unless this library reads the entry's dtype.
  [[nodiscard]] const SafetensorsEntry& numbers_of(const std::string& name) const {
    const SafetensorsEntry& entry = entry_of(name);
    if (!detail::with_dtype(entry.dtype, [](auto) {})) {
      in_.refuse({name, ": expected dtype ", detail::dtypes_of_numbers, ", got ", entry.dtype,
                  ", which bytes() reads"});
    }
    return entry;
  }
  [[nodiscard]] const SafetensorsEntry& entry_of(const std::string& name, int rank) const {
    const SafetensorsEntry& entry = numbers_of(name);
    if (entry.extents.size() != static_cast<std::size_t>(rank))
      in_.refuse({name, ": expected rank ", rank, ", got ", detail::shape_text(entry.extents)});
    return entry;
  }

  void read_bytes(const std::string& name, std::uint64_t from, char* to, std::size_t count) {
    file_.clear();
    file_.seekg(static_cast<std::streamoff>(data_start_ + from));
    if (!file_.read(to, static_cast<std::streamsize>(count)))
      in_.give_up({name, " cannot be read"});
  }
  /// Reads all numbers of an entry, in the order of the file.
  template <class Number>
  void read(const std::string& name, const SafetensorsEntry& entry, Number* to) {
    const auto decode_all = [this, &name, &entry, to](auto element) {
      using Element = decltype(element);
      const std::uint64_t count = (entry.end - entry.begin) / sizeof(Element);
      const std::uint64_t most = detail::piece_bytes / sizeof(Element);
      std::vector<char> bytes(detail::piece_bytes);
      for (std::uint64_t i = 0; i < count; i += most) {
        const auto some = static_cast<std::size_t>((std::min)(most, count - i));
        read_bytes(name, entry.begin + i * sizeof(Element), bytes.data(), some * sizeof(Element));
        double misfit = 0;
        if (!detail::decode<Element>(bytes.data(), some, to + i, misfit)) {
          const double beyond = std::ldexp(1.0, std::numeric_limits<Number>::digits);
          const double lowest = std::is_signed_v<Number> ? -beyond : 0;
          in_.refuse(
              {name, ": expected integers from ", lowest, " to below ", beyond, ", got ", misfit});
        }
      }
    };
    static_cast<void>(detail::with_dtype(entry.dtype, decode_all));
  }

  template <class Layer>
  static constexpr void check_type() {
    static_assert(std::is_class_v<Layer>,
                  "batchnorm: layer takes the type of a layer: layer<BatchNorm2d<float>>(prefix)");
  }
  [[nodiscard]] detail::LayerEntries find(const std::string& prefix) const {
    return detail::existing_layer(in_, header_, prefix);
  }
  [[nodiscard]] Eigen::VectorXd channel_numbers(const std::string& name) {
    const SafetensorsEntry& entry = entry_of(name);
    const std::string& type = entry.dtype;
    if (type != "F64" && type != "F32" && type != "F16" && type != "BF16")
      in_.refuse({name, ": expected dtype F64, F32, F16 or BF16, got ", type});
    const Eigen::Index channels = detail::channels_of(entry);
    if (channels == 0) {
      in_.refuse({name, ": expected a number for each channel, got ",
                  detail::shape_text(entry.extents),
                  ": batch_norm_prefixes() lists the batch norms of the file"});
    }
    Eigen::VectorXd values(channels);
    read(name, entry, values.data());
    return values;
  }
  /// A counter may have any dtype, as one that was cast with its whole layer, but must be whole.
  [[nodiscard]] Eigen::VectorXd counter(const std::string& name) {
    const SafetensorsEntry& entry = numbers_of(name);
    if (detail::channels_of(entry) != 1)
      in_.refuse({name, ": expected one number, got ", detail::shape_text(entry.extents)});
    double v = 0;
    read(name, entry, &v);
    if (!detail::is_count(v)) {
      in_.refuse({name, ": expected a count of batches, a whole number from 0 to 2^53, got ", v,
                  " (", entry.dtype, "): write the counter as I64, or leave it out"});
    }
    return Eigen::VectorXd::Constant(1, v);
  }

  detail::InFile in_;
  std::ifstream file_;
  std::uint64_t data_start_ = 0;
  detail::SafetensorsHeader header_;
};

inline SafetensorsBytes SafetensorsReader::bytes(const std::string& name) {
  const SafetensorsEntry& entry = entry_of(name);
  SafetensorsBytes all{entry.dtype, entry.extents, {}};
  const std::uint64_t size = entry.end - entry.begin;
  all.bytes.resize(static_cast<std::size_t>(size));
  read_bytes(name, entry.begin, reinterpret_cast<char*>(all.bytes.data()), all.bytes.size());
  return all;
}
inline StateDict SafetensorsReader::state(const std::string& prefix) {
  const detail::LayerEntries found = find(prefix);
  StateDict state;
  for (std::size_t k = 0; k < 4; ++k) {
    const std::string& name = found.names[k];
    if (name.empty()) continue;
    const auto& known = detail::state_names[k];
    const bool is_known =
        std::any_of(known.begin(), known.end(), [&](const char* n) { return name == prefix + n; });
    state[is_known ? name : prefix + known[0]] = channel_numbers(name);
  }
  const std::string& count = found.name(detail::StatePart::counter);
  if (!count.empty()) state[prefix + detail::counter_name] = counter(count);
  // load_state_dict refuses these by name.
  for (const std::string& name : found.unknown) state[name] = channel_numbers(name);
  return state;
}
inline Options SafetensorsReader::options(const std::string& prefix, Options others) const {
  if (const char* const missing = detail::read_options(in_, metadata(), prefix, others)) {
    in_.refuse({prefix, missing,
                ": expected it in the file's metadata, got none: state options, as in "
                "layer(prefix, Options::pytorch())"});
  }
  return others;
}

}  // namespace batchnorm
