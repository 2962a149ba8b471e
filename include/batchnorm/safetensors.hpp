// SPDX-License-Identifier: MIT
#pragma once

// Layers in safetensors files, as Python's frameworks write and read them. This header needs
// nlohmann-json. The CMake target is batchnorm::safetensors, of the component safetensors.
//
//   batchnorm::save_safetensors("bn.safetensors", bn);          // one layer
//   batchnorm::load_safetensors("bn.safetensors", bn);
//
//   batchnorm::SafetensorsWriter network;                       // the layers of a network
//   network.add("layer1.0.bn1.", bn1).add("fc.weight", w).write("net.safetensors");
//   batchnorm::SafetensorsReader file("net.safetensors");
//   auto bn1 = file.layer<batchnorm::BatchNorm2d<float>>("layer1.0.bn1.");
//   auto w = file.tensor<float, 2>("fc.weight");
//
// Entries are written with PyTorch's names after a prefix, and read with PyTorch's, Keras's or
// Flax's. The file's metadata hold, under the same prefix, the options that the results depend on:
//   eps "1e-05",  momentum "weight_of_new 0.1" or "cumulative",  running_variance "unbiased" or
//   "population"
// If a file does not have them, the caller must state them. If both have them, they must agree.
//
// Errors are std::invalid_argument, which names the file and what is wrong with it, and
// std::runtime_error if the file cannot be read or written.

#include <Eigen/Core>
#include <algorithm>
#include <array>
#include <cerrno>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <random>
#include <set>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <unsupported/Eigen/CXX11/Tensor>
#include <utility>
#include <vector>
#if defined(_WIN32)
#include <io.h>
#elif __has_include(<unistd.h>)
#include <unistd.h>
#endif

#include "batchnorm/detail/for_each_element.hpp"
#include "batchnorm/layer.hpp"
#include "batchnorm/state.hpp"

namespace batchnorm {

/// One tensor of a file. Its bytes are [begin, end) of the data that follow the header.
struct SafetensorsEntry {
  std::string dtype;  ///< F64, F32, F16, BF16, I64, or another that this header does not read
  std::vector<Eigen::Index> extents;
  std::uint64_t begin = 0, end = 0;
};

namespace detail {

/// Unsigned numbers as the little-endian bytes of files, on any machine.
template <class Bits>
void put_bytes(Bits bits, std::string& to) {
  for (std::size_t b = 0; b < sizeof bits; ++b) to += static_cast<char>(bits >> 8 * b & 0xff);
}
template <class Bits>
[[nodiscard]] Bits get_bytes(const char* from) {
  std::uint64_t bits = 0;
  for (std::size_t b = 0; b < sizeof(Bits); ++b)
    bits |= std::uint64_t{static_cast<unsigned char>(from[b])} << 8 * b;
  return static_cast<Bits>(bits);
}
template <class Scalar>
using BitsOf =
    std::conditional_t<sizeof(Scalar) == 8, std::uint64_t,
                       std::conditional_t<sizeof(Scalar) == 4, std::uint32_t, std::uint16_t>>;

template <class Scalar>
[[nodiscard]] constexpr const char* dtype_of() {
  constexpr bool is_counter = std::is_same_v<Scalar, std::int64_t>;
  static_assert(is_counter || is_supported_scalar<Scalar>,
                "batchnorm: safetensors are written of float, double, Eigen::half, "
                "Eigen::bfloat16 and std::int64_t");
  return is_counter                            ? "I64"
         : std::is_same_v<Scalar, double>      ? "F64"
         : std::is_same_v<Scalar, float>       ? "F32"
         : std::is_same_v<Scalar, Eigen::half> ? "F16"
                                               : "BF16";
}
/// The bytes of a number; 0 for a dtype that the format does not have.
[[nodiscard]] inline std::uint64_t bytes_of_dtype(const std::string& dtype) {
  constexpr std::pair<const char*, std::uint64_t> known[] = {
      {"F64", 8}, {"F32", 4}, {"F16", 2},     {"BF16", 2},    {"I64", 8},
      {"I32", 4}, {"I16", 2}, {"I8", 1},      {"U64", 8},     {"U32", 4},
      {"U16", 2}, {"U8", 1},  {"F8_E5M2", 1}, {"F8_E4M3", 1}, {"BOOL", 1}};
  for (const auto& [name, bytes] : known) {
    if (dtype == name) return bytes;
  }
  return 0;
}
/// Calls f(a number of the dtype), or returns false if this header does not read the dtype.
template <class F>
[[nodiscard]] bool with_dtype(const std::string& dtype, const F& f) {
  if (dtype == "F64") return f(double{}), true;
  if (dtype == "F32") return f(float{}), true;
  if (dtype == "F16") return f(Eigen::half{}), true;
  if (dtype == "BF16") return f(Eigen::bfloat16{}), true;
  if (dtype == "I64") return f(std::int64_t{}), true;
  return false;
}

[[nodiscard]] inline std::string text_of(double v) { return nlohmann::json(v).dump(); }
[[nodiscard]] inline std::string text_of(Momentum momentum) {
  return momentum.is_cumulative() ? "cumulative"
                                  : "weight_of_new " + text_of(momentum.weight_of_new());
}
[[nodiscard]] inline const char* text_of(VarianceEstimate estimate) {
  return estimate == VarianceEstimate::unbiased ? "unbiased" : "population";
}

/// Reads a number by JSON's rules, which do not depend on the locale. False if it is none.
[[nodiscard]] inline bool read_number(const std::string& text, double& v) {
  const auto json = nlohmann::json::parse(text, nullptr, false);
  if (!json.is_number()) return false;
  v = json.get<double>();
  return is_finite(v);
}

}  // namespace detail

/// A safetensors file, open for reading. The constructor checks the whole header, also against the
/// size of the file. The other members read numbers when they are called.
class SafetensorsReader {
 public:
  explicit SafetensorsReader(std::filesystem::path path) : path_(std::move(path)) { open(); }

  [[nodiscard]] const std::map<std::string, SafetensorsEntry>& entries() const { return entries_; }
  [[nodiscard]] const std::map<std::string, std::string>& metadata() const { return metadata_; }

  /// A tensor of any of the five dtypes, rounded to Scalar if Scalar has fewer digits. Numbers
  /// beyond the range of an integer Scalar are refused.
  template <class Scalar, int rank>
  [[nodiscard]] Eigen::Tensor<Scalar, rank, Eigen::RowMajor> tensor(const std::string& name) {
    const auto it = entries_.find(name);
    if (it == entries_.end()) refuse({name, ": expected it, got no such entry"});
    const SafetensorsEntry& entry = it->second;
    if (entry.extents.size() != static_cast<std::size_t>(rank))
      refuse({name, ": expected rank ", rank, ", got ", shape_text(entry)});
    std::array<Eigen::Index, static_cast<std::size_t>(rank)> extents{};
    std::copy(entry.extents.begin(), entry.extents.end(), extents.begin());
    Eigen::Tensor<Scalar, rank, Eigen::RowMajor> values(extents);
    read(name, entry, [&](Eigen::Index i, auto v) {
      if constexpr (std::is_integral_v<Scalar> && !std::is_same_v<Scalar, decltype(v)>)
        check_range<Scalar>(name, static_cast<double>(v));
      values.data()[i] = static_cast<Scalar>(v);
    });
    return values;
  }
  /// The entries under a prefix, for load_state_dict: F64, F32, F16 or BF16, and I64 for the
  /// counter.
  [[nodiscard]] StateDict state(const std::string& prefix = "");

  /// `others` with the file's eps, momentum and variance estimate, which the file must have.
  [[nodiscard]] Options options(const std::string& prefix = "", Options others = {}) const;

  /// A new layer with the file's options. It has gamma, beta and statistics if the file has them.
  template <class Layer>
  [[nodiscard]] Layer layer(const std::string& prefix = "") {
    const auto has = [&](std::size_t k) {
      const auto& names = detail::state_names[k];
      return std::any_of(names.begin(), names.end(),
                         [&](const char* name) { return entries_.count(prefix + name) > 0; });
    };
    Options o = options(prefix);
    o.scale = has(0), o.shift = has(1), o.track_running_stats = has(2) || has(3);
    return layer<Layer>(prefix, o);
  }
  /// A new layer with the stated options.
  template <class Layer>
  [[nodiscard]] Layer layer(const std::string& prefix, const Options& stated) {
    for (const auto& names : detail::state_names) {
      for (const char* name : names) {
        const auto it = entries_.find(prefix + name);
        if (it == entries_.end()) continue;
        const auto& extents = it->second.extents;
        if (extents.size() != 1 || extents[0] < 1) continue;
        Layer bn(extents[0], stated);
        load(bn, prefix);
        return bn;
      }
    }
    refuse({prefix, detail::state_names[0][0], ": expected a batch-norm layer, got no such entry"});
  }
  /// Gives an existing layer the state under a prefix. If that fails, the layer is unchanged.
  template <class Scalar, int spatial>
  void load(BatchNorm<Scalar, spatial>& bn, const std::string& prefix = "") {
    const Options& o = bn.options();
    Options in_file = o;
    static_cast<void>(read_options(prefix, in_file));
    using detail::text_of;
    check_agrees(prefix, "eps", text_of(o.eps), text_of(in_file.eps));
    check_agrees(prefix, "momentum", text_of(o.momentum), text_of(in_file.momentum));
    check_agrees(prefix, "running_variance", text_of(o.running_variance),
                 text_of(in_file.running_variance));
    load_state_dict(bn, state(prefix), prefix);
  }

 private:
  static constexpr std::uint64_t largest_header = 100'000'000;  // the format's own limit

  [[nodiscard]] std::string message(detail::Pieces what) const {
    return "[safetensors] " + path_.string() + ": " + detail::joined(what);
  }
  [[noreturn]] void refuse(detail::Pieces what) const {
    detail::fail<std::invalid_argument>(message(what));
  }
  [[noreturn]] void give_up(detail::Pieces what) const {
    detail::fail<std::runtime_error>(message(what));
  }
  [[nodiscard]] static std::string shape_text(const SafetensorsEntry& entry) {
    return "shape " + nlohmann::json(entry.extents).dump();
  }

  void open();
  void parse(const std::string& header, std::uint64_t data_size);
  [[nodiscard]] SafetensorsEntry parse_entry(const std::string& name, const nlohmann::json& json,
                                             std::uint64_t data_size) const;
  void check_size(const std::string& name, const SafetensorsEntry& entry) const;
  void check_ranges(std::uint64_t data_size) const;

  /// Throws unless v is in an integer's range, beyond which a conversion is undefined.
  template <class Integer>
  void check_range(const std::string& name, double v) const {
    const double beyond = std::ldexp(1.0, std::numeric_limits<Integer>::digits);
    const bool is_below = std::is_signed_v<Integer> ? v < -beyond : v <= -1;
    if (detail::is_finite(v) && v < beyond && !is_below) return;
    refuse({name, ": expected integers below ", beyond, ", got ", v});
  }
  /// Calls f(i, number) for every number of an entry, in the order of the file.
  template <class F>
  void read(const std::string& name, const SafetensorsEntry& entry, const F& f);

  /// Replaces the options of a layer that the metadata have. Returns the first that they do not
  /// have, or nullptr.
  [[nodiscard]] const char* read_options(const std::string& prefix, Options& o) const;
  void check_agrees(const std::string& prefix, const char* what, const std::string& stated,
                    const std::string& in_file) const {
    if (in_file == stated) return;
    refuse({prefix, what, ": expected the layer to have ", in_file, ", got one of ", stated,
            "; build it with options(\"", prefix, "\")"});
  }

  std::filesystem::path path_;
  std::ifstream file_;
  std::uint64_t data_start_ = 0;
  std::map<std::string, SafetensorsEntry> entries_;
  std::map<std::string, std::string> metadata_;
};

/// Collects layers and tensors, and writes them to a file at once.
class SafetensorsWriter {
 public:
  /// A layer's state, under names that start with `prefix`, and the options that results depend on.
  template <class Scalar, int spatial>
  SafetensorsWriter& add(const std::string& prefix, const BatchNorm<Scalar, spatial>& bn) {
    using Param = typename BatchNorm<Scalar, spatial>::Param;
    for (const auto& [name, values] : state_dict(bn, prefix)) {
      if (name == prefix + detail::counter_name) {
        std::string bytes;
        detail::put_bytes(static_cast<std::uint64_t>(bn.num_batches_tracked()), bytes);
        insert({name, "I64", {}, std::move(bytes)});
      } else {
        add(name, values.template cast<Param>().eval());
      }
    }
    metadata_[prefix + "eps"] = detail::text_of(bn.options().eps);
    metadata_[prefix + "momentum"] = detail::text_of(bn.options().momentum);
    metadata_[prefix + "running_variance"] = detail::text_of(bn.options().running_variance);
    return *this;
  }
  /// A vector, matrix or tensor, of any storage order.
  template <class X, class = std::enable_if_t<detail::is_tensor<X> || detail::is_matrix<X>>>
  SafetensorsWriter& add(const std::string& name, const X& x) {
    using Scalar = typename detail::Argument<X>::Scalar;
    const typename detail::Argument<X>::Plain plain(x);
    const detail::Shape shape = detail::shape_of(plain);
    Tensor tensor{name, detail::dtype_of<Scalar>(), {}, {}};
    tensor.extents.assign(shape.extents.begin(), shape.extents.begin() + shape.rank);
    if constexpr (detail::is_matrix<X>) {
      if (X::IsVectorAtCompileTime) tensor.extents = {plain.size()};
    }
    detail::for_each_element(plain, [&](const auto&, const Scalar& v) {
      detail::put_bytes(Eigen::numext::bit_cast<detail::BitsOf<Scalar>>(v), tensor.bytes);
    });
    insert(std::move(tensor));
    return *this;
  }
  SafetensorsWriter& add_metadata(const std::string& key, const std::string& value) {
    metadata_[key] = value;
    return *this;
  }

  /// Writes a new file beside `path` and renames it, so that at any time there is either the whole
  /// old file or the whole new one. If that fails, throws std::runtime_error and keeps the old
  /// file.
  void write(const std::filesystem::path& path) const;

 private:
  struct Tensor {
    std::string name, dtype;
    std::vector<Eigen::Index> extents;
    std::string bytes;
  };

  void insert(Tensor tensor) {
    if (tensor.name == "__metadata__" || !names_.insert(tensor.name).second) {
      detail::fail<std::invalid_argument>("[safetensors] expected a new name, got " + tensor.name +
                                          " again");
    }
    tensors_.push_back(std::move(tensor));
  }
  [[nodiscard]] std::string header() const;

  std::vector<Tensor> tensors_;
  std::set<std::string> names_;
  std::map<std::string, std::string> metadata_;
};

/// Writes one layer.
template <class Scalar, int spatial>
void save_safetensors(const std::filesystem::path& path, const BatchNorm<Scalar, spatial>& bn,
                      const std::string& prefix = "") {
  SafetensorsWriter().add(prefix, bn).write(path);
}
/// Reads one layer. If that fails, the layer is unchanged. Its options are treated as stated.
template <class Scalar, int spatial>
void load_safetensors(const std::filesystem::path& path, BatchNorm<Scalar, spatial>& bn,
                      const std::string& prefix = "") {
  SafetensorsReader(path).load(bn, prefix);
}

// Reading. ----------------------------------------------------------------------------------------

inline void SafetensorsReader::open() {
  std::error_code error;
  const std::uint64_t size = std::filesystem::file_size(path_, error);
  if (error) give_up({"expected a file to read, got: ", error.message()});
  file_.open(path_, std::ios::binary);
  if (!file_) give_up({"expected a file that can be read"});
  std::array<char, 8> length{};
  if (size < length.size()) refuse({"expected 8 bytes and a header, got ", size, " bytes"});
  file_.read(length.data(), length.size());  // if this fails, so does the next read
  const auto header_size = detail::get_bytes<std::uint64_t>(length.data());
  if (header_size > size - length.size() || header_size > largest_header) {
    refuse({"expected a header within the file of ", size, " bytes, and up to ", largest_header,
            ", got one of ", std::to_string(header_size)});
  }
  data_start_ = length.size() + header_size;
  std::string header(static_cast<std::size_t>(header_size), '\0');
  file_.read(header.data(), static_cast<std::streamsize>(header_size));
  if (!file_) give_up({"the header cannot be read"});  // GCOV_EXCL_BR_LINE: on a disk that fails
  parse(header, size - data_start_);
}

inline void SafetensorsReader::parse(const std::string& header, std::uint64_t data_size) {
  using nlohmann::json;
  constexpr int deepest = 3;                // the file's object, a tensor's object, its lists
  std::set<std::string> keys[deepest + 1];  // of the object at each depth that is being read
  const auto check = [&](int depth, json::parse_event_t event, json& key) {
    const bool opens =
        event == json::parse_event_t::object_start || event == json::parse_event_t::array_start;
    if (opens && depth >= deepest)
      refuse({"expected lists of numbers in the header, got them nested"});
    if (opens) keys[depth + 1].clear();
    if (event == json::parse_event_t::key && !keys[depth].insert(key.get<std::string>()).second)
      refuse({"expected each key once in the header, got ", key.get<std::string>(), " again"});
    return true;
  };
  if (header.empty() || header[0] != '{') refuse({"expected a header that starts with {"});
  if (header.find('\0') != header.npos) refuse({"expected a header of text, got a zero in it"});
  const json all = json::parse(header, check, false);
  if (!all.is_object()) refuse({"expected a header of JSON, got what is none"});

  for (const auto& [name, value] : all.items()) {
    if (name != "__metadata__") {
      entries_[name] = parse_entry(name, value, data_size);
      continue;
    }
    if (!value.is_object()) refuse({"expected metadata of texts by name"});
    for (const auto& [key, text] : value.items()) {
      if (!text.is_string()) refuse({"expected metadata of texts, got no text for ", key});
      metadata_[key] = text.get<std::string>();
    }
  }
  check_ranges(data_size);
}

inline SafetensorsEntry SafetensorsReader::parse_entry(const std::string& name,
                                                       const nlohmann::json& json,
                                                       std::uint64_t data_size) const {
  const auto is_list = [&](const char* key) {
    return json.contains(key) && json[key].is_array() &&
           std::all_of(json[key].begin(), json[key].end(),
                       [](const nlohmann::json& v) { return v.is_number_unsigned(); });
  };
  const bool is_entry = json.is_object() && json.size() == 3 && json.contains("dtype") &&
                        json["dtype"].is_string() && is_list("shape") && is_list("data_offsets") &&
                        json["data_offsets"].size() == 2;
  if (!is_entry) refuse({name, ": expected dtype, shape and data_offsets of whole numbers"});
  SafetensorsEntry entry;
  entry.dtype = json["dtype"].get<std::string>();
  entry.begin = json["data_offsets"][0].get<std::uint64_t>();
  entry.end = json["data_offsets"][1].get<std::uint64_t>();
  const std::uint64_t bytes = detail::bytes_of_dtype(entry.dtype);
  if (bytes == 0) refuse({name, ": expected a dtype, got ", entry.dtype});
  if (entry.begin > entry.end || entry.end > data_size) {
    refuse({name, ": expected offsets within the ", data_size, " bytes of data, got ",
            std::to_string(entry.begin), " to ", std::to_string(entry.end)});
  }
  std::uint64_t most =
      (std::numeric_limits<Eigen::Index>::max)() / bytes;  // that the shape may have
  for (const auto& v : json["shape"]) {
    const auto extent = v.get<std::uint64_t>();
    if (extent > most)
      refuse({name, ": expected a shape that fits a file, got ", json["shape"].dump()});
    most /= std::max<std::uint64_t>(extent, 1);
    entry.extents.push_back(static_cast<Eigen::Index>(extent));
  }
  check_size(name, entry);
  return entry;
}

/// Throws unless an entry has the bytes of its shape.
inline void SafetensorsReader::check_size(const std::string& name,
                                          const SafetensorsEntry& entry) const {
  std::uint64_t bytes = detail::bytes_of_dtype(entry.dtype);
  for (const Eigen::Index extent : entry.extents) bytes *= static_cast<std::uint64_t>(extent);
  if (bytes == entry.end - entry.begin) return;
  refuse({name, ": expected ", bytes, " bytes for ", entry.dtype, " of ", shape_text(entry),
          ", got ", entry.end - entry.begin});
}

/// Throws unless the tensors fill the data one after the other, without gaps and overlaps.
inline void SafetensorsReader::check_ranges(std::uint64_t data_size) const {
  std::vector<std::pair<std::uint64_t, std::uint64_t>> ranges{{data_size, data_size}};
  for (const auto& [name, entry] : entries_) ranges.emplace_back(entry.begin, entry.end);
  std::sort(ranges.begin(), ranges.end());
  std::uint64_t end = 0;
  for (const auto& range : ranges) {
    if (range.first != end) {
      refuse(
          {"expected tensors that fill the data one after the other, got one that starts or ends "
           "at ",
           range.first, " where another ends at ", end});
    }
    end = range.second;
  }
}

template <class F>
void SafetensorsReader::read(const std::string& name, const SafetensorsEntry& entry, const F& f) {
  std::string bytes(static_cast<std::size_t>(entry.end - entry.begin), '\0');
  file_.clear();
  file_.seekg(static_cast<std::streamoff>(data_start_ + entry.begin));
  if (!file_.read(bytes.data(), static_cast<std::streamsize>(bytes.size())))
    give_up({name, " cannot be read"});
  const bool known = detail::with_dtype(entry.dtype, [&](auto number) {
    using Scalar = decltype(number);
    for (std::size_t i = 0; i < bytes.size() / sizeof(Scalar); ++i) {
      const auto bits = detail::get_bytes<detail::BitsOf<Scalar>>(&bytes[i * sizeof(Scalar)]);
      f(static_cast<Eigen::Index>(i), Eigen::numext::bit_cast<Scalar>(bits));
    }
  });
  if (!known) refuse({name, ": expected dtype F64, F32, F16, BF16 or I64, got ", entry.dtype});
}

inline StateDict SafetensorsReader::state(const std::string& prefix) {
  StateDict state;
  for (auto it = entries_.lower_bound(prefix); it != entries_.end(); ++it) {
    const auto& [name, entry] = *it;
    if (name.compare(0, prefix.size(), prefix) != 0) break;
    const bool is_counter = name.compare(prefix.size(), name.npos, detail::counter_name) == 0;
    const std::string& type = entry.dtype;
    const bool is_float = type == "F64" || type == "F32" || type == "F16" || type == "BF16";
    const char* const expected = is_counter ? "I64" : "F64, F32, F16 or BF16";
    if (is_counter ? type != "I64" : !is_float)
      refuse({name, ": expected dtype ", expected, ", got ", type});
    if (entry.extents.size() > 1)
      refuse({name, ": expected a number for each channel, got ", shape_text(entry)});
    Eigen::VectorXd values(entry.extents.empty() ? 1 : entry.extents[0]);
    read(name, entry, [&](Eigen::Index i, auto v) { values[i] = static_cast<double>(v); });
    state[name] = std::move(values);
  }
  return state;
}

inline const char* SafetensorsReader::read_options(const std::string& prefix, Options& o) const {
  const auto said = [&](const char* key) {
    const auto it = metadata_.find(prefix + key);
    return it == metadata_.end() ? "" : it->second;
  };
  const std::string e = said("eps"), m = said("momentum"), v = said("running_variance");
  const std::string start = "weight_of_new ";
  double weight = 0;
  if (!e.empty() && !detail::read_number(e, o.eps))
    refuse({prefix, "eps: expected a number, got \"", e, "\""});
  const bool is_weight =
      m.compare(0, start.size(), start) == 0 && detail::read_number(m.substr(start.size()), weight);
  if (is_weight) o.momentum = Momentum::weight_of_new(weight);
  if (m == "cumulative") o.momentum = Momentum::cumulative();
  if (!m.empty() && m != "cumulative" && !is_weight) {
    refuse({prefix,
            "momentum: expected \"weight_of_new 0.1\" or the like, or \"cumulative\", got \"", m,
            "\""});
  }
  if (v == "unbiased") o.running_variance = VarianceEstimate::unbiased;
  if (v == "population") o.running_variance = VarianceEstimate::population;
  if (!v.empty() && v != detail::text_of(o.running_variance)) {
    refuse({prefix, "running_variance: expected \"unbiased\" or \"population\", got \"", v, "\""});
  }
  if (e.empty()) return "eps";
  return m.empty() ? "momentum" : v.empty() ? "running_variance" : nullptr;
}
inline Options SafetensorsReader::options(const std::string& prefix, Options others) const {
  if (const char* const missing = read_options(prefix, others)) {
    refuse({prefix, missing,
            ": expected it in the file's metadata, got none: state options, as in layer(prefix, "
            "Options::pytorch())"});
  }
  return others;
}

// Writing. ----------------------------------------------------------------------------------------

inline std::string SafetensorsWriter::header() const {
  auto all = nlohmann::ordered_json::object();
  if (!metadata_.empty()) all["__metadata__"] = metadata_;
  std::uint64_t end = 0;
  for (const Tensor& t : tensors_) {
    const std::uint64_t begin = std::exchange(end, end + t.bytes.size());
    all[t.name] = {{"dtype", t.dtype}, {"shape", t.extents}, {"data_offsets", {begin, end}}};
  }
  std::string text = all.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');  // the data start at a multiple of 8
  return text;
}

inline void SafetensorsWriter::write(const std::filesystem::path& path) const {
  // The widest numbers first, so that each lies at a multiple of its size.
  SafetensorsWriter sorted = *this;
  std::stable_sort(sorted.tensors_.begin(), sorted.tensors_.end(),
                   [](const Tensor& a, const Tensor& b) {
                     return detail::bytes_of_dtype(a.dtype) > detail::bytes_of_dtype(b.dtype);
                   });
  const std::string header = sorted.header();
  std::string length;
  detail::put_bytes(std::uint64_t{header.size()}, length);

  std::filesystem::path beside = path;
  beside += "." + std::to_string(std::random_device()()) + ".tmp";
  errno = 0;
  std::FILE* file = std::fopen(beside.string().c_str(), "wbx");
  bool done = file != nullptr;
  const auto put = [&](const std::string& bytes) {
    done = done && std::fwrite(bytes.data(), 1, bytes.size(), file) == bytes.size();
  };
  put(length);
  put(header);
  for (const Tensor& t : sorted.tensors_) put(t.bytes);
  done = done && std::fflush(file) == 0;
  // The bytes must be on the disk before the name is, in case the machine fails.
#if defined(_WIN32)
  done = done && _commit(_fileno(file)) == 0;
#elif __has_include(<unistd.h>)
  done = done && fsync(fileno(file)) == 0;  // GCOV_EXCL_BR_LINE: on a disk that fails
#endif
  std::string reason = std::strerror(errno);
  const bool made = file != nullptr;
  if (made && std::fclose(file) != 0) done = false;  // GCOV_EXCL_BR_LINE: on a disk that fails
  std::error_code error;
  if (done) std::filesystem::rename(beside, path, error);
  if (done && !error) return;
  if (error) reason = error.message();
  if (made) std::filesystem::remove(beside, error);
  detail::fail<std::runtime_error>("[safetensors] " + path.string() +
                                   " cannot be written: " + reason);
}

}  // namespace batchnorm
