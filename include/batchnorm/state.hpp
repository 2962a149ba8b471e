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
// Options are not among them, though eps has a part in every result: give the layer those that the
// weights were trained with, as by Options::keras().
namespace batchnorm {

/// Numbers by name, as in "layer1.0.bn1.running_mean". The counter is a vector of one.
using StateDict = std::map<std::string, Eigen::VectorXd>;

/// Whose names to write. Read are all of them.
enum class Names { pytorch, keras, flax };

namespace detail {

/// What gamma, beta, mean and variance are called, by Names.
inline constexpr std::array<const char*, 3> state_names[] = {
    {"weight", "gamma", "scale"},
    {"bias", "beta", "bias"},
    {"running_mean", "moving_mean", "mean"},
    {"running_var", "moving_variance", "var"}};
inline constexpr const char* counter_name = "num_batches_tracked";
inline constexpr double largest_counter = 0x1p53;  // up to which doubles count exactly

/// An entry of a layer's state: what it is called, whether the layer has it, where it is.
template <class Vector>
struct Entry {
  std::array<const char*, 3> names;
  bool on;
  Vector* values;
};

/// gamma, beta, mean and variance; Vector is const where the layer is.
template <class Layer>
[[nodiscard]] auto entries_of(Layer& bn) {
  using Values = std::remove_reference_t<decltype(bn.gamma())>;
  const Options& o = bn.options();
  return std::array<Entry<Values>, 4>{{{state_names[0], o.scale, &bn.gamma()},
                                       {state_names[1], o.shift, &bn.beta()},
                                       {state_names[2], o.track_running_stats, &bn.running_mean()},
                                       {state_names[3], o.track_running_stats, &bn.running_var()}}};
}
[[noreturn]] inline void refuse_state(const std::string& key, const std::string& what) {
  fail<std::invalid_argument>("[load_state_dict] " + key + ": " + what);
}

/// Is every number of an entry one that a layer of Param may have?
template <class Param>
void check_numbers(const std::string& key, const Eigen::VectorXd& v, bool is_variance) {
  for (Eigen::Index c = 0; c < v.size(); ++c) {
    const bool fits = is_finite(v[c]) && is_finite(static_cast<double>(narrow<Param>(v[c])));
    if (fits && !(is_variance && v[c] < 0)) continue;
    refuse_state(key, std::string("expected ") + (is_variance ? "variances" : "numbers") +
                          " in the layer's range, got " + number(v[c]) + " in channel " +
                          std::to_string(c));
  }
}

[[nodiscard]] inline std::int64_t checked_counter(const std::string& key,
                                                  const Eigen::VectorXd& v) {
  if (v.size() != 1) refuse_state(key, "expected one number, got " + std::to_string(v.size()));
  const bool counts = is_finite(v[0]) && v[0] >= 0 && v[0] <= largest_counter;
  if (!counts || v[0] != std::floor(v[0])) {
    refuse_state(key, "expected a count of batches, got " + number(v[0]));
  }
  return static_cast<std::int64_t>(v[0]);
}

}  // namespace detail

/// The layer's state, under names that start with `prefix`. What options switch off is left out, and
/// so is the counter where it has no name. Throws std::logic_error for a vector of a wrong length.
template <class Scalar, int spatial>
[[nodiscard]] StateDict state_dict(const BatchNorm<Scalar, spatial>& bn,
                                   const std::string& prefix = "", Names names = Names::pytorch) {
  StateDict state;
  for (const auto& entry : detail::entries_of(bn)) {
    const std::string key = prefix + entry.names[static_cast<std::size_t>(names)];
    if (entry.values->size() != (entry.on ? bn.num_features() : 0)) {
      detail::fail<std::logic_error>("[state_dict] " + key + ": expected a vector of length " +
                                     std::to_string(entry.on ? bn.num_features() : 0) + ", got " +
                                     std::to_string(entry.values->size()));
    }
    if (entry.on) state[key] = entry.values->template cast<double>();
  }
  if (bn.options().track_running_stats && names == Names::pytorch) {
    const auto count = static_cast<double>(bn.num_batches_tracked());
    state[prefix + detail::counter_name] = Eigen::VectorXd::Constant(1, count);
  }
  return state;
}

/// Gives the layer the state whose names start with `prefix`, in PyTorch's, Keras's or Flax's names;
/// others are left alone. A missing counter is 0. Throws std::invalid_argument, naming the entry, if
/// one is missing, is not known, has a wrong length, is not finite, or if a variance or the counter is
/// negative; the layer then stays as it was.
template <class Scalar, int spatial>
void load_state_dict(BatchNorm<Scalar, spatial>& bn, const StateDict& state,
                     const std::string& prefix = "") {
  using Param = typename BatchNorm<Scalar, spatial>::Param;
  const auto entries = detail::entries_of(bn);
  std::array<const Eigen::VectorXd*, 4> found{};
  std::int64_t counter = 0;

  for (auto it = state.lower_bound(prefix); it != state.end(); ++it) {
    const auto& [key, values] = *it;
    if (key.compare(0, prefix.size(), prefix) != 0) break;
    const std::string name = key.substr(prefix.size());
    if (name == detail::counter_name && bn.options().track_running_stats) {
      counter = detail::checked_counter(key, values);
      continue;
    }
    std::size_t k = 0;
    const auto is_it = [&](const char* known) { return name == known; };
    while (k < 4 && std::none_of(entries[k].names.begin(), entries[k].names.end(), is_it)) ++k;
    if (k == 4) {
      detail::refuse_state(key,
                           name == detail::counter_name
                               ? "expected no counter, for the layer tracks no statistics"
                               : "expected an entry of a batch-norm layer, got an unknown one");
    }
    if (!entries[k].on) {
      detail::refuse_state(key, "expected no such entry, for the layer's options switch it off");
    }
    if (found[k]) {
      detail::refuse_state(key, "expected it once, got it by another name too");
    }
    if (values.size() != bn.num_features()) {
      detail::refuse_state(key, "expected " + std::to_string(bn.num_features()) + " numbers, got " +
                                    std::to_string(values.size()));
    }
    detail::check_numbers<Param>(key, values, k == 3);
    found[k] = &values;
  }
  for (std::size_t k = 0; k < 4; ++k) {
    if (!entries[k].on || found[k]) continue;
    const auto& names = entries[k].names;
    detail::refuse_state(prefix + names[0], std::string("expected it (or ") + names[1] + ", or " +
                                                names[2] + "), got no such entry");
  }

  bn.reset_running_stats();  // and what it knows of skipped batches
  for (std::size_t k = 0; k < 4; ++k) {
    if (found[k]) *entries[k].values = found[k]->template cast<Param>();
  }
  bn.num_batches_tracked() = counter;
}

}  // namespace batchnorm
