// SPDX-License-Identifier: MIT
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <array>
#include <cstddef>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "batchnorm/safetensors/header.hpp"
#include "batchnorm/safetensors/names.hpp"
#include "batchnorm/state.hpp"

// Which entries of a file are a layer's.
namespace batchnorm::detail {

/// A shape of one number for each channel has one extent, or others that are 1, as (1, 1, 1, C) of
/// Haiku and Sonnet. Returns the number of channels, or 0 for another shape.
[[nodiscard]] inline Eigen::Index channels_of(const SafetensorsEntry& entry) {
  Eigen::Index channels = 1;
  for (const Eigen::Index extent : entry.extents) {
    if (channels != 1 && extent != 1) return 0;
    channels *= extent;
  }
  return channels;
}

/// What this library writes into the metadata of every layer, after its prefix.
inline const std::string written_option = "running_variance";

using SafetensorsEntries = std::map<std::string, SafetensorsEntry>;

/// The entries of one layer.
struct LayerEntries {
  std::array<std::string, named_parts> names;  ///< of each part, or "" where the file has none
  std::string again;                           ///< an entry for a part that has one, or ""
  std::vector<std::string> unknown;            ///< names that are no part's

  [[nodiscard]] const std::string& name(StatePart part) const {
    return names[static_cast<std::size_t>(part)];
  }
  [[nodiscard]] bool has(StatePart part) const { return !name(part).empty(); }
  /// How many of gamma, beta, mean and variance there are.
  [[nodiscard]] std::ptrdiff_t vectors() const {
    return 4 - std::count(names.begin(), names.begin() + 4, "");
  }
  /// There must be one.
  [[nodiscard]] const std::string& first_vector() const {
    return *std::find_if(names.begin(), names.end(), [](const auto& n) { return n != ""; });
  }
};

/// Where a layer's entries are: under its prefix, and where some frameworks put the other half.
[[nodiscard]] inline std::vector<std::string> places_of(const std::string& prefix) {
  // Flax: "params.bn.scale", "batch_stats.bn.mean"; MXNet: "arg:bn0_gamma", "aux:bn0_moving_mean"
  constexpr std::array<const char*, 2> halves[] = {{"params", "batch_stats"}, {"arg", "aux"}};
  std::vector<std::string> places{prefix};
  std::size_t start = 0, end = 0;
  for (; (end = prefix.find_first_of("./:", start)) != prefix.npos; start = end + 1) {
    const std::string word = prefix.substr(start, end - start);
    for (const auto& [parameters, statistics] : halves) {
      if (word != parameters && word != statistics) continue;
      const char* const other = word == parameters ? statistics : parameters;
      places.push_back(prefix.substr(0, start) + other + prefix.substr(end));
    }
  }
  // Haiku: "bn.scale", "bn/~/mean_ema.average"
  if (ends_with(prefix, ".")) places.push_back(prefix.substr(0, prefix.size() - 1) + "/~/");
  if (ends_with(prefix, "/")) places.push_back(prefix.substr(0, prefix.size() - 1) + ".");
  return places;
}

/// Does an entry whose name starts with `place` belong to another layer? It does if the name goes
/// on after another "." or "/", or is a longer prefix with a part's name: "bn_1_gamma" under "bn_".
[[nodiscard]] inline bool is_of_another_layer(const std::string& name, const std::string& place) {
  std::string longer;
  return std::any_of(name.begin() + static_cast<std::ptrdiff_t>(place.size()), name.end(),
                     is_separator) ||
         split_name(name, longer);
}

/// The entries of the layer under a prefix.
[[nodiscard]] inline LayerEntries find_layer(const SafetensorsEntries& entries,
                                             const std::string& prefix) {
  LayerEntries found;
  for (const std::string& place : places_of(prefix)) {
    for (auto it = entries.lower_bound(place); it != entries.end(); ++it) {
      const std::string& name = it->first;
      if (!starts_with(name, place)) break;
      const StatePart part = part_of(name.substr(place.size()));
      if (part < StatePart::skipped) {
        std::string& known = found.names[static_cast<std::size_t>(part)];
        (known.empty() ? known : found.again) = name;
      } else if (part == StatePart::none && !is_of_another_layer(name, place)) {
        found.unknown.push_back(name);
      }
    }
  }
  return found;
}

/// Is this a batch norm, and not another layer that has a gamma and a beta? It is if it has
/// statistics of equal length, or, written by this library, options.
[[nodiscard]] inline bool is_batch_norm(const SafetensorsEntries& entries,
                                        const LayerEntries& found, bool has_options) {
  if (!found.has(StatePart::mean) || !found.has(StatePart::variance))
    return has_options && found.vectors();
  const auto mean = channels_of(entries.at(found.name(StatePart::mean)));
  return mean > 0 && mean == channels_of(entries.at(found.name(StatePart::variance)));
}

/// The prefixes of all batch norms, in the order of their names.
[[nodiscard]] inline std::vector<std::string> find_batch_norms(
    const SafetensorsEntries& entries, const std::map<std::string, std::string>& metadata) {
  std::set<std::string> possible;
  std::string prefix;
  for (const auto& item : entries) {
    if (split_name(item.first, prefix)) possible.insert(prefix);
  }
  for (const auto& item : metadata) {
    if (ends_with(item.first, written_option))
      possible.insert(item.first.substr(0, item.first.size() - written_option.size()));
  }
  std::vector<std::string> prefixes;
  for (const std::string& p : possible) {
    const LayerEntries found = find_layer(entries, p);
    if (!is_batch_norm(entries, found, metadata.count(p + written_option) > 0)) continue;
    // A layer is listed once: as "params.bn.", and not as "batch_stats.bn." too.
    if (starts_with(found.first_vector(), p)) prefixes.push_back(p);
  }
  return prefixes;
}

/// Throws: a file has no layer under this prefix. The message says if only its last "." is missing.
[[noreturn]] inline void refuse_prefix(const InFile& file, const SafetensorsHeader& header,
                                       const std::string& prefix) {
  for (const char* const separator : {".", "/", "_"}) {
    const std::string longer = prefix + separator;
    if (find_layer(header.entries, longer).vectors() == 0) continue;
    file.refuse({prefix, ": expected a prefix with its \"", separator,
                 "\", got one without it: write \"", longer, "\""});
  }
  file.refuse(
      {"expected a batch-norm layer under the prefix \"", prefix,
       "\", got no such entry, or none with a number for each channel: batch_norm_prefixes() lists "
       "the batch norms of the file"});
}
/// The entries under a prefix. Throws if the file has neither entries nor options there.
[[nodiscard]] inline LayerEntries existing_layer(const InFile& file,
                                                 const SafetensorsHeader& header,
                                                 const std::string& prefix) {
  LayerEntries found = find_layer(header.entries, prefix);
  const bool has_options = header.metadata.count(prefix + written_option) > 0;
  if (found.vectors() == 0 && !has_options) refuse_prefix(file, header, prefix);
  // Of layers with longer prefixes, as "bn_2_bias" under "bn_".
  if (has_options) found.unknown.clear();
  if (!found.again.empty()) {
    file.refuse({found.again,
                 ": expected one entry for this part of the layer, got it by another "
                 "name too"});
  }
  return found;
}
[[nodiscard]] inline Eigen::Index channels_of(const InFile& file, const SafetensorsHeader& header,
                                              const std::string& prefix,
                                              const LayerEntries& found) {
  for (std::size_t k = 0; k < 4; ++k) {
    if (found.names[k].empty()) continue;
    if (const auto channels = channels_of(header.entries.at(found.names[k]))) return channels;
  }
  refuse_prefix(file, header, prefix);
}

}  // namespace batchnorm::detail
