// SPDX-License-Identifier: MIT
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <map>
#include <stdexcept>
#include <string>

#include "batchnorm/layer.hpp"

// A layer's parameters and statistics by name, to bring them from one framework to another:
//
//   | here                  | PyTorch             | Keras           | Flax  |
//   |-----------------------|---------------------|-----------------|-------|
//   | gamma()               | weight              | gamma           | scale |
//   | beta()                | bias                | beta            | bias  |
//   | running_mean()        | running_mean        | moving_mean     | mean  |
//   | running_var()         | running_var         | moving_variance | var   |
//   | num_batches_tracked() | num_batches_tracked |                 |       |
//
// A state does not contain options, but every result depends on eps. Give the layer the options
// that the weights were trained with, for example Options::keras(). Nor does it say which batches a
// channel skipped: under Momentum::cumulative() a loaded layer counts all of them.
namespace batchnorm {

/// Numbers by name, as in "layer1.0.bn1.running_mean". The counter is a vector of length 1.
using StateDict = std::map<std::string, Eigen::VectorXd>;

/// Which framework's names state_dict() writes. load_state_dict() accepts all of them.
enum class Names { pytorch, keras, flax };

/// What load_state_dict() does with entries that the layer's options switch off, such as a gamma
/// for a layer with Options::scale off.
enum class SwitchedOff { reject, ignore };

namespace detail {

/// The names of gamma, beta, mean and variance, in the order of Names.
inline constexpr std::array<const char*, 3> state_names[] = {
    {"weight", "gamma", "scale"},
    {"bias", "beta", "bias"},
    {"running_mean", "moving_mean", "mean"},
    {"running_var", "moving_variance", "var"}};
/// The options that switch them on.
inline constexpr const char* option_names[] = {"scale", "shift", "track_running_stats",
                                               "track_running_stats"};
inline constexpr const char* counter_name = "num_batches_tracked";
/// Is v a whole number from 0 to 2^53? A double holds each of them.
[[nodiscard]] inline bool is_count(double v) {
  return is_finite(v) && v >= 0 && v <= 0x1p53 && v == std::floor(v);
}

[[nodiscard]] inline bool is_separator(char c) { return c == '.' || c == '/'; }
[[nodiscard]] inline bool starts_with(const std::string& text, const std::string& start) {
  return text.compare(0, start.size(), start) == 0;
}
[[nodiscard]] inline bool ends_with(const std::string& text, const std::string& end) {
  return text.size() >= end.size() && text.compare(text.size() - end.size(), end.npos, end) == 0;
}

/// gamma, beta, mean and variance of a layer, and which of them its options switch on.
template <class Layer>
[[nodiscard]] auto vectors_of(Layer& bn) {
  return std::array{&bn.gamma(), &bn.beta(), &bn.running_mean(), &bn.running_var()};
}
[[nodiscard]] inline std::array<bool, 4> switched_on(const Options& o) {
  return {o.scale, o.shift, o.track_running_stats, o.track_running_stats};
}
/// Where a state comes from, for messages that name its entries.
struct StateSource {
  std::string words;

  [[noreturn]] void refuse(const std::string& key, Pieces what) const {
    fail<std::invalid_argument>(words + key + ": " + joined(what));
  }
};

/// Throws unless a layer of this Param can have the numbers.
template <class Param>
void check_numbers(const StateSource& from, const std::string& key, const Eigen::VectorXd& v,
                   bool is_variance) {
  const char* const what = is_variance ? "variances" : "numbers";
  for (Index c = 0; c < v.size(); ++c) {
    const bool fits = is_finite(v[c]) && is_finite(static_cast<double>(narrow<Param>(v[c])));
    if (fits && !(is_variance && v[c] < 0)) continue;
    from.refuse(key, {"expected ", what, " in the layer's range, got ", v[c], " in channel ", c});
  }
}
[[nodiscard]] inline std::int64_t checked_counter(const StateSource& from, const std::string& key,
                                                  const Eigen::VectorXd& v) {
  if (v.size() != 1) from.refuse(key, {"expected one number, got ", v.size()});
  if (!is_count(v[0]))
    from.refuse(key, {"expected a count of batches, got ", v[0],
                      ": federated.hpp averages the states of several layers"});
  return static_cast<std::int64_t>(v[0]);
}
/// Which of gamma, beta, mean and variance has this name; 4 if none has.
[[nodiscard]] inline std::size_t vector_named(const std::string& name) {
  std::size_t k = 0;
  while (k < 4 && std::count(state_names[k].begin(), state_names[k].end(), name) == 0) ++k;
  return k;
}
/// Throws for an entry that is no vector of the layer under the prefix.
[[noreturn]] inline void refuse_unknown(const StateSource& from, const std::string& key,
                                        const std::string& prefix) {
  const std::size_t separator = key.find_last_of("./");
  const std::size_t last = separator == key.npos ? 0 : separator + 1;
  if (vector_named(key.substr(last)) < 4) {
    const std::string expected = key.substr(0, last), got = prefix.empty() ? "none" : prefix;
    from.refuse(key, {"expected the prefix ", expected, ", got ", got});
  }
  from.refuse(key, {"expected an entry of a batch-norm layer, got an unknown one"});
}
/// The vectors of a state that a layer takes, and its counter.
struct FoundState {
  std::array<const Eigen::VectorXd*, 4> vectors{};
  std::int64_t counter = 0;
  bool has_entries = false;
};
/// Throws unless all entries that the options switch on were found.
inline void check_complete(const StateSource& from, const std::array<bool, 4>& on,
                           const FoundState& found, const StateDict& state,
                           const std::string& prefix) {
  const std::string first = state.empty() ? "" : "; the first entry is " + state.begin()->first;
  for (std::size_t k = 0; k < 4; ++k) {
    const auto& [a, b, c] = state_names[k];
    const bool is_new = c != std::string(a);
    if (on[k] && !found.has_entries)
      from.refuse(prefix + a,
                  {"expected entries with the prefix \"", prefix, "\", got none", first});
    if (on[k] && !found.vectors[k])
      from.refuse(prefix + a, {"expected it (or ", b, is_new ? ", or " : "", is_new ? c : "",
                               "), got no such entry", ": switch Options::", option_names[k],
                               " off if the model has none"});
  }
}
template <class Param>
[[nodiscard]] FoundState find_state(const StateSource& from, const Options& options, Index channels,
                                    const StateDict& state, const std::string& prefix,
                                    SwitchedOff off) {
  const std::array<bool, 4> on = switched_on(options);
  FoundState found;
  for (auto it = state.lower_bound(prefix); it != state.end(); ++it) {
    const auto& [key, values] = *it;
    if (!starts_with(key, prefix)) break;
    found.has_entries = true;
    const std::string name = key.substr(prefix.size());
    if (name == counter_name) {
      if (!on[3] && off == SwitchedOff::ignore) continue;
      if (!on[3]) from.refuse(key, {"expected no counter, for the layer tracks no statistics"});
      found.counter = checked_counter(from, key, values);
      continue;
    }
    const std::size_t k = vector_named(name);
    if (k == 4) refuse_unknown(from, key, prefix);
    if (!on[k] && off == SwitchedOff::ignore) continue;
    if (!on[k])
      from.refuse(key, {"expected no such entry, for Options::", option_names[k],
                        " is off: switch it on, or pass SwitchedOff::ignore"});
    if (found.vectors[k]) from.refuse(key, {"expected it once, got it by another name too"});
    if (values.size() != channels)
      from.refuse(key, {"expected ", channels, " numbers, got ", values.size()});
    check_numbers<Param>(from, key, values, k == 3);
    found.vectors[k] = &values;
  }
  check_complete(from, on, found, state, prefix);
  return found;
}

/// load_state_dict for a state from any source.
template <class Scalar, int spatial>
void load_state(const StateSource& from, BatchNorm<Scalar, spatial>& bn, const StateDict& state,
                const std::string& prefix, SwitchedOff off) {
  using Param = typename BatchNorm<Scalar, spatial>::Param;
  const auto found = find_state<Param>(from, bn.options(), bn.num_features(), state, prefix, off);
  bn.reset_running_stats();  // which also forgets the batches that were skipped
  for (std::size_t k = 0; k < 4; ++k) {
    if (found.vectors[k]) *vectors_of(bn)[k] = found.vectors[k]->template cast<Param>();
  }
  bn.num_batches_tracked() = found.counter;
}

}  // namespace detail

/// The layer's state, under names that start with `prefix`. It leaves out what options switch off;
/// only PyTorch's names have a counter. Throws std::logic_error if a vector of the layer has
/// another length than C or the layer was moved from.
template <class Scalar, int spatial>
[[nodiscard]] StateDict state_dict(const BatchNorm<Scalar, spatial>& bn,
                                   const std::string& prefix = "", Names names = Names::pytorch) {
  bn.core().check_lengths({"batchnorm", "state_dict"});
  StateDict state;
  const auto vectors = detail::vectors_of(bn);
  for (std::size_t k = 0; k < 4; ++k) {
    const std::string key = prefix + detail::state_names[k][static_cast<std::size_t>(names)];
    if (detail::switched_on(bn.options())[k]) state[key] = vectors[k]->template cast<double>();
  }
  const auto count = static_cast<double>(bn.num_batches_tracked());
  if (bn.options().track_running_stats && names == Names::pytorch)
    state[prefix + detail::counter_name] = Eigen::VectorXd::Constant(1, count);
  return state;
}

/// Gives the layer the state whose names start with `prefix`, in PyTorch's, Keras's or Flax's
/// names. Entries without the prefix are ignored, and so are, by SwitchedOff::ignore, those that
/// the layer's options switch off. A missing counter is 0. Throws std::invalid_argument, which
/// names the entry, if an entry is missing, unknown, switched off, of wrong length or not finite,
/// or if a variance or the counter is negative. Then the layer does not change.
template <class Scalar, int spatial>
void load_state_dict(BatchNorm<Scalar, spatial>& bn, const StateDict& state,
                     const std::string& prefix = "", SwitchedOff off = SwitchedOff::reject) {
  detail::load_state({"[load_state_dict] "}, bn, state, prefix, off);
}

}  // namespace batchnorm
