// SPDX-License-Identifier: MIT
#pragma once

#include <map>
#include <nlohmann/json.hpp>
#include <string>

#include "batchnorm/options.hpp"
#include "batchnorm/safetensors/format.hpp"

// A layer's options as texts in a file's metadata.
namespace batchnorm::detail {

using SafetensorsMetadata = std::map<std::string, std::string>;

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

/// The options of a layer that a file has, under a prefix.
[[nodiscard]] inline SafetensorsMetadata metadata_of(const std::string& prefix, const Options& o) {
  return {{prefix + "eps", text_of(o.eps)},
          {prefix + "momentum", text_of(o.momentum)},
          {prefix + "running_variance", text_of(o.running_variance)}};
}

/// Sets each option in `o` that the metadata contain. Returns the name of the first that they do
/// not contain, or nullptr.
[[nodiscard]] inline const char* read_options(const InFile& file,
                                              const SafetensorsMetadata& metadata,
                                              const std::string& prefix, Options& o) {
  const auto said = [&](const char* key) {
    const auto it = metadata.find(prefix + key);
    return it == metadata.end() ? "" : it->second;
  };
  const std::string e = said("eps"), m = said("momentum"), v = said("running_variance");
  const std::string start = "weight_of_new ";
  double weight = 0;
  if (!e.empty() && !read_number(e, o.eps))
    file.refuse({prefix, "eps: expected a number, got \"", e, "\""});
  const bool is_weight =
      m.compare(0, start.size(), start) == 0 && read_number(m.substr(start.size()), weight);
  if (is_weight) o.momentum = Momentum::weight_of_new(weight);
  if (m == "cumulative") o.momentum = Momentum::cumulative();
  if (!m.empty() && m != "cumulative" && !is_weight) {
    file.refuse({prefix,
                 "momentum: expected \"weight_of_new 0.1\" or the like, or \"cumulative\", got \"",
                 m, "\""});
  }
  if (v == "unbiased") o.running_variance = VarianceEstimate::unbiased;
  if (v == "population") o.running_variance = VarianceEstimate::population;
  if (!v.empty() && v != text_of(o.running_variance)) {
    file.refuse(
        {prefix, "running_variance: expected \"unbiased\" or \"population\", got \"", v, "\""});
  }
  if (e.empty()) return "eps";
  return m.empty() ? "momentum" : v.empty() ? "running_variance" : nullptr;
}

/// Throws if the metadata have an option under the prefix that differs from the layer's.
inline void check_options_agree(const InFile& file, const SafetensorsMetadata& metadata,
                                const std::string& prefix, const Options& o) {
  Options in_file = o;
  static_cast<void>(read_options(file, metadata, prefix, in_file));
  const auto check = [&](const char* what, const std::string& stated, const std::string& expected) {
    if (expected == stated) return;
    file.refuse({prefix, what, ": expected the layer to have ", expected, ", got one of ", stated,
                 "; build it with options(\"", prefix, "\")"});
  };
  check("eps", text_of(o.eps), text_of(in_file.eps));
  check("momentum", text_of(o.momentum), text_of(in_file.momentum));
  check("running_variance", text_of(o.running_variance), text_of(in_file.running_variance));
}

}  // namespace batchnorm::detail
