// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <string>

#include "batchnorm/state.hpp"

// How frameworks name the parts of a batch norm. An entry's name is a prefix and the name of a
// part:
//
//   |             | gamma  | beta   | mean                | variance                |
//   |-------------|--------|--------|---------------------|-------------------------|
//   | PyTorch     | weight | bias   | running_mean        | running_var             |
//   | Keras       | gamma  | beta   | moving_mean         | moving_variance         |
//   | Flax        | scale  | bias   | mean                | var                     |
//   | Haiku       | scale  | offset | mean_ema.average    | var_ema.average         |
//   | Sonnet 2    | scale  | offset | moving_mean.average | moving_variance.average |
//   | MXNet       | gamma  | beta   | moving_mean         | moving_var              |
//   | MXNet Gluon | gamma  | beta   | running_mean        | running_var             |
//   | Paddle      | weight | bias   | _mean               | _variance               |
//
// TF-Slim and Sonnet 1 have Keras's names. "/" counts as ".", a name may start with "~/" (Haiku)
// and end with ":0" (TensorFlow).
namespace batchnorm::detail {

/// What an entry is to a layer. The first four are in the order of state_names.
enum class StatePart : std::size_t { gamma, beta, mean, variance, counter, skipped, none };
inline constexpr std::size_t named_parts = 5;  // up to the counter

struct PartName {
  const char* name;
  StatePart part;
  bool is_telling;  ///< is the part clear when it follows "_", as in MXNet's "bn0_gamma"?
};
inline constexpr PartName part_names[] = {
    {"weight", StatePart::gamma, false},
    {"gamma", StatePart::gamma, true},
    {"scale", StatePart::gamma, false},
    {"bias", StatePart::beta, false},
    {"beta", StatePart::beta, true},
    {"offset", StatePart::beta, false},
    {"running_mean", StatePart::mean, true},
    {"moving_mean", StatePart::mean, true},
    {"mean", StatePart::mean, false},
    {"mean_ema.average", StatePart::mean, false},
    {"moving_mean.average", StatePart::mean, false},
    {"_mean", StatePart::mean, false},
    {"running_var", StatePart::variance, true},
    {"moving_variance", StatePart::variance, true},
    {"var", StatePart::variance, false},
    {"var_ema.average", StatePart::variance, false},
    {"moving_variance.average", StatePart::variance, false},
    {"moving_var", StatePart::variance, true},
    {"_variance", StatePart::variance, false},
    {counter_name, StatePart::counter, true},
    // The averages before their bias is corrected, and how many values they are of.
    {"mean_ema.hidden", StatePart::skipped, false},
    {"mean_ema.counter", StatePart::skipped, false},
    {"var_ema.hidden", StatePart::skipped, false},
    {"var_ema.counter", StatePart::skipped, false},
    {"moving_mean.hidden", StatePart::skipped, false},
    {"moving_mean.counter", StatePart::skipped, false},
    {"moving_variance.hidden", StatePart::skipped, false},
    {"moving_variance.counter", StatePart::skipped, false}};

/// A name in the spelling of part_names. The beginning keeps its length.
[[nodiscard]] inline std::string plain_name(std::string name) {
  if (ends_with(name, ":0")) name.resize(name.size() - 2);
  std::replace(name.begin(), name.end(), '/', '.');
  return name;
}
/// The part whose name this is; `name` has no prefix.
[[nodiscard]] inline StatePart part_of(const std::string& name) {
  std::string plain = plain_name(name);
  if (starts_with(plain, "~.")) plain.erase(0, 2);
  for (const PartName& known : part_names) {
    if (plain == known.name) return known.part;
  }
  return StatePart::none;
}
/// Does a name end with a part's name? Then `prefix` becomes what stands before it.
[[nodiscard]] inline bool split_name(const std::string& name, std::string& prefix) {
  const std::string plain = plain_name(name);
  std::size_t length = 0;  // of the longest part's name: "running_mean", not "mean"
  for (const PartName& known : part_names) {
    const std::string end = known.name;
    if (!ends_with(plain, end) || end.size() <= length) continue;
    const std::size_t start = plain.size() - end.size();
    const char before = start == 0 ? '.' : plain[start - 1];
    if (before == '.' || (before == '_' && known.is_telling)) length = end.size();
  }
  prefix = name.substr(0, plain.size() - length);
  if (ends_with(plain_name(prefix), ".~.") || prefix == "~/") prefix.resize(prefix.size() - 2);
  return length > 0;
}

}  // namespace batchnorm::detail
