// SPDX-License-Identifier: MIT
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <cstdint>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "batchnorm/safetensors/format.hpp"

// The header of a safetensors file: JSON that lists its tensors, and metadata. What is checked of
// every entry is what keeps reads within the file. An unknown dtype is an error only when its
// tensor is read.
namespace batchnorm::detail {

struct SafetensorsHeader {
  std::map<std::string, SafetensorsEntry> entries;
  std::map<std::string, std::string> metadata;
};

/// Refuses JSON of more than three levels, or with a key that comes twice, of which nlohmann-json
/// would keep the last. Its parser calls these functions for what it reads.
struct HeaderCheck {
  static constexpr std::size_t deepest = 3;  // the file's object, a tensor's object, its lists
  const InFile& file;
  std::set<std::string> keys[deepest] = {};  // of the object at each depth that is being read
  std::size_t depth = 0;

  bool open() {
    if (depth == deepest) file.refuse({"expected lists of numbers in the header, got them nested"});
    keys[depth++].clear();
    return true;
  }
  bool close() {
    --depth;
    return true;
  }
  bool key(std::string& name) {
    if (!keys[depth - 1].insert(name).second)
      file.refuse({"expected each key once in the header, got ", name, " again"});
    return true;
  }
  bool start_object(std::size_t) { return open(); }
  bool start_array(std::size_t) { return open(); }
  bool end_object() { return close(); }
  bool end_array() { return close(); }
  bool null() { return true; }
  bool boolean(bool) { return true; }
  bool number_integer(std::int64_t) { return true; }
  bool number_unsigned(std::uint64_t) { return true; }
  bool number_float(double, const std::string&) { return true; }
  bool string(std::string&) { return true; }
  bool binary(nlohmann::json::binary_t&) { return true; }  // GCOV_EXCL_LINE: JSON has none
  template <class Exception>
  bool parse_error(std::size_t, const std::string&, const Exception&) {
    return false;
  }
};
/// The check has a pass of its own: json::parse with a callback takes time by the square of the
/// number of tensors.
[[nodiscard]] inline nlohmann::json parse_json(const InFile& file, const std::string& text) {
  using nlohmann::json;
  if (text.empty() || text[0] != '{') file.refuse({"expected a header that starts with {"});
  if (text.find('\0') != text.npos) file.refuse({"expected a header of text, got a zero in it"});
  HeaderCheck check{file};
  if (!json::sax_parse(text, &check))
    file.refuse({"expected a header of JSON, got something else"});
  return json::parse(text);
}

[[nodiscard]] inline SafetensorsEntry parse_entry(const InFile& file, const std::string& name,
                                                  const nlohmann::json& json,
                                                  std::uint64_t data_size) {
  const auto is_list = [&](const char* key) {
    return json.contains(key) && json[key].is_array() &&
           std::all_of(json[key].begin(), json[key].end(),
                       [](const nlohmann::json& v) { return v.is_number_unsigned(); });
  };
  const bool is_entry = json.is_object() && json.size() == 3 && json.contains("dtype") &&
                        json["dtype"].is_string() && is_list("shape") && is_list("data_offsets") &&
                        json["data_offsets"].size() == 2;
  if (!is_entry) file.refuse({name, ": expected dtype, shape and data_offsets of whole numbers"});
  SafetensorsEntry entry;
  entry.dtype = json["dtype"].get<std::string>();
  entry.begin = json["data_offsets"][0].get<std::uint64_t>();
  entry.end = json["data_offsets"][1].get<std::uint64_t>();
  if (entry.begin > entry.end || entry.end > data_size) {
    file.refuse({name, ": expected offsets within the ", data_size, " bytes of data, got ",
                 std::to_string(entry.begin), " to ", std::to_string(entry.end)});
  }
  constexpr std::uint64_t largest = (std::numeric_limits<Eigen::Index>::max)();
  for (const nlohmann::json& extent : json["shape"]) {
    const bool is_index = extent.get<std::uint64_t>() <= largest;
    entry.extents.push_back(is_index ? extent.get<Eigen::Index>() : -1);  // no shape has -1
  }
  if (!is_possible_shape(entry.extents, entry.dtype))
    file.refuse({name, ": expected a shape that fits a file, got ", json["shape"].dump()});
  const std::uint64_t bytes = bytes_of_shape(entry.extents, entry.dtype);
  if (bytes != entry.end - entry.begin && bytes_of_dtype(entry.dtype) > 0) {
    file.refuse({name, ": expected ", bytes, " bytes for ", entry.dtype, " of ",
                 shape_text(entry.extents), ", got ", entry.end - entry.begin});
  }
  return entry;
}

/// Throws unless the tensors fill the data one after the other, without gaps and overlaps.
inline void check_ranges(const InFile& file, const std::map<std::string, SafetensorsEntry>& entries,
                         std::uint64_t data_size) {
  std::vector<std::pair<std::uint64_t, std::uint64_t>> ranges{{data_size, data_size}};
  for (const auto& [name, entry] : entries) ranges.emplace_back(entry.begin, entry.end);
  std::sort(ranges.begin(), ranges.end());
  std::uint64_t end = 0;
  for (const auto& range : ranges) {
    if (range.first != end) {
      file.refuse({"expected tensors without gaps and overlaps in the data, got byte ", range.first,
                   " after byte ", end});
    }
    end = range.second;
  }
}

[[nodiscard]] inline SafetensorsHeader parse_header(const InFile& file, const std::string& text,
                                                    std::uint64_t data_size) {
  SafetensorsHeader header;
  const nlohmann::json all = parse_json(file, text);
  for (const auto& [name, value] : all.items()) {
    if (name != "__metadata__") {
      header.entries[name] = parse_entry(file, name, value, data_size);
      continue;
    }
    if (!value.is_object()) file.refuse({"expected metadata of texts by name"});
    for (const auto& [key, words] : value.items()) {
      if (!words.is_string()) file.refuse({"expected metadata of texts, got no text for ", key});
      header.metadata[key] = words.get<std::string>();
    }
  }
  check_ranges(file, header.entries, data_size);
  return header;
}

}  // namespace batchnorm::detail
