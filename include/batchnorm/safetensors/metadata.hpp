// SPDX-License-Identifier: MIT
#pragma once

#include <cmath>
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

/// The values of an option by the texts that stand for them in files.
template <class Value>
using Texts = std::map<std::string, Value>;
[[nodiscard]] inline Texts<VarianceEstimate> texts_for(VarianceEstimate) {
  return {{"unbiased", VarianceEstimate::unbiased}, {"population", VarianceEstimate::population}};
}
[[nodiscard]] inline Texts<ChannelAxis> texts_for(ChannelAxis) {
  return {{"first", ChannelAxis::first}, {"last", ChannelAxis::last}};
}
[[nodiscard]] inline Texts<SingleValue> texts_for(SingleValue) {
  using S = SingleValue;
  return {{"reject", S::reject}, {"use_running", S::use_running}, {"accept", S::accept}};
}
[[nodiscard]] inline Texts<NonFinite> texts_for(NonFinite) {
  using N = NonFinite;
  return {{"skip_update", N::skip_update}, {"propagate", N::propagate}, {"reject", N::reject}};
}
template <class Value>
[[nodiscard]] std::string text_of(Value value) {
  std::string text;
  for (const auto& [name, of_name] : texts_for(value)) {
    if (of_name == value) text = name;
  }
  return text;
}

/// Reads a number by JSON's rules, which do not depend on the locale. False if it is none.
[[nodiscard]] inline bool read_number(const std::string& text, double& v) {
  const auto json = nlohmann::json::parse(text, nullptr, false);
  if (!json.is_number()) return false;
  v = json.get<double>();
  return is_finite(v);
}

/// The options of a layer that a file has, under a prefix. Its tensors say which of gamma, beta and
/// the running statistics a layer has.
[[nodiscard]] inline SafetensorsMetadata metadata_of(const std::string& prefix, const Options& o) {
  return {{prefix + "eps", text_of(o.eps)},
          {prefix + "momentum", text_of(o.momentum)},
          {prefix + "running_variance", text_of(o.running_variance)},
          {prefix + "channel_axis", text_of(o.channel_axis)},
          {prefix + "single_value", text_of(o.single_value)},
          {prefix + "non_finite", text_of(o.non_finite)}};
}

/// Sets each option in `o` that the metadata contain. Returns the name of the first of eps,
/// momentum and running_variance that they do not contain, or nullptr.
[[nodiscard]] inline const char* read_options(const InFile& file,
                                              const SafetensorsMetadata& metadata,
                                              const std::string& prefix, Options& o) {
  const auto said = [&](const char* key) {
    const auto it = metadata.find(prefix + key);
    return it == metadata.end() ? "" : it->second;
  };
  const auto read_choice = [&file, &prefix, &said](const char* key, auto& option) {
    const std::string text = said(key);
    const auto texts = texts_for(option);
    const auto it = texts.find(text);
    if (it != texts.end()) option = it->second;
    if (it != texts.end() || text.empty()) return;
    std::string expected;
    for (const auto& [name, value] : texts) expected += (expected.empty() ? "" : " or ") + name;
    file.refuse({prefix, key, ": expected ", expected, ", got \"", text, "\""});
  };
  const std::string e = said("eps"), m = said("momentum");
  if (prefix.empty() && said("running_variance").empty()) return "eps";  // another program's words
  const std::string start = "weight_of_new ";
  double weight = 0;
  const bool is_eps = e.empty() || (read_number(e, o.eps) && o.eps >= 0);
  if (!is_eps) file.refuse({prefix, "eps: expected a number of at least 0, got \"", e, "\""});
  const bool is_weight = m.compare(0, start.size(), start) == 0 &&
                         read_number(m.substr(start.size()), weight) && weight >= 0 && weight <= 1;
  if (is_weight) o.momentum = Momentum::weight_of_new(weight);
  if (m == "cumulative") o.momentum = Momentum::cumulative();
  if (!m.empty() && m != "cumulative" && !is_weight) {
    file.refuse({prefix,
                 "momentum: expected \"weight_of_new 0.1\" or the like, or \"cumulative\", got \"",
                 m, "\""});
  }
  read_choice("running_variance", o.running_variance);
  read_choice("channel_axis", o.channel_axis);
  read_choice("single_value", o.single_value);
  read_choice("non_finite", o.non_finite);
  if (e.empty()) return "eps";
  return m.empty() ? "momentum" : said("running_variance").empty() ? "running_variance" : nullptr;
}

/// Throws if the metadata have an eps, momentum or variance estimate under the prefix that differs
/// from the layer's. The other options say how a layer is used, which a program may choose.
inline void check_options_agree(const InFile& file, const SafetensorsMetadata& metadata,
                                const std::string& prefix, const Options& o) {
  Options in_file = o;
  static_cast<void>(read_options(file, metadata, prefix, in_file));
  // weight_of_old(0.9) is not weight_of_new(0.1) to the last bit.
  const double difference = o.momentum.weight_of_new() - in_file.momentum.weight_of_new();
  const bool same_kind = o.momentum.is_cumulative() == in_file.momentum.is_cumulative();
  if (same_kind && std::abs(difference) < 1e-12) in_file.momentum = o.momentum;
  const auto must_agree = [&](const char* what, const std::string& stated,
                              const std::string& expected) {
    if (expected == stated) return;
    file.refuse({prefix, what, ": expected the layer to have ", expected, ", got one of ", stated,
                 "; build it with options(\"", prefix, "\")"});
  };
  must_agree("eps", text_of(o.eps), text_of(in_file.eps));
  must_agree("momentum", text_of(o.momentum), text_of(in_file.momentum));
  must_agree("running_variance", text_of(o.running_variance), text_of(in_file.running_variance));
}

}  // namespace batchnorm::detail
