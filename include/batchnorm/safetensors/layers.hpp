// SPDX-License-Identifier: MIT
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <array>
#include <cstddef>
#include <map>
#include <string>
#include <utility>
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
};

/// Where a layer's entries are: under its prefix, and its statistics where Flax and Haiku put them.
[[nodiscard]] inline std::vector<std::string> places_of(const std::string& prefix) {
  std::vector<std::string> places{prefix};
  const std::string params = "params";  // Flax: "params.bn.scale", "batch_stats.bn.mean"
  if (starts_with(prefix, params + ".") || starts_with(prefix, params + "/"))
    places.push_back("batch_stats" + prefix.substr(params.size()));
  if (!prefix.empty() && prefix.back() == '.')  // Haiku: "bn.scale", "bn/~/mean_ema.average"
    places.push_back(prefix.substr(0, prefix.size() - 1) + "/~/");
  return places;
}

/// Does an entry whose name starts with `place` belong to another layer? It does if the name goes on
/// after another "." or "/", or is a longer prefix with a part's name: "bn_1_gamma" under "bn_".
[[nodiscard]] inline bool is_of_another_layer(const std::string& name, const std::string& place) {
  std::string prefix;
  return std::any_of(name.begin() + static_cast<std::ptrdiff_t>(place.size()), name.end(),
                     is_separator) ||
         (split_name(name, prefix) && prefix.size() > place.size());
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
  std::map<std::string, LayerEntries> layers;
  std::map<std::string, std::ptrdiff_t> most;  // vectors of a layer that has this entry
  for (const auto& item : entries) {
    std::string prefix;
    if (!split_name(item.first, prefix) || layers.count(prefix) > 0) continue;
    LayerEntries found = find_layer(entries, prefix);
    if (!is_batch_norm(entries, found, metadata.count(prefix + "running_variance") > 0)) continue;
    for (const std::string& name : found.names) {
      if (!name.empty()) most[name] = (std::max)(most[name], found.vectors());
    }
    layers.emplace(std::move(prefix), std::move(found));
  }
  std::vector<std::string> prefixes;
  for (const auto& [prefix, found] : layers) {
    // "batch_stats.bn." has the statistics alone; "params.bn." has them too, and gamma.
    const bool is_whole = std::all_of(found.names.begin(), found.names.end(),
                                      [&, vectors = found.vectors()](const std::string& name) {
                                        return name.empty() || most[name] == vectors;
                                      });
    if (is_whole) prefixes.push_back(prefix);
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
      {prefix, state_names[0][0],
       ": expected a batch-norm layer, got no such entry, or none with a number for each channel; "
       "batch_norm_prefixes() lists the layers of the file"});
}
/// The entries under a prefix. Throws if the file has neither entries nor options there.
[[nodiscard]] inline LayerEntries existing_layer(const InFile& file,
                                                 const SafetensorsHeader& header,
                                                 const std::string& prefix) {
  LayerEntries found = find_layer(header.entries, prefix);
  const bool has_options = header.metadata.count(prefix + "running_variance") > 0;
  if (found.vectors() == 0 && !has_options) refuse_prefix(file, header, prefix);
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
