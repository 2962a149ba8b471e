// SPDX-License-Identifier: MIT
#pragma once

#include <Eigen/Core>
#include <cstddef>
#include <stdexcept>
#include <string>
#include <vector>

#include "batchnorm/state.hpp"

namespace batchnorm {

namespace detail {

[[noreturn]] inline void refuse_average(Pieces what) {
  fail<std::invalid_argument>("[federated_average] " + joined(what));
}
/// Each client's share of all samples.
[[nodiscard]] inline Eigen::VectorXd shares_of(const std::vector<double>& samples,
                                               std::size_t clients) {
  if (clients == 0 || samples.size() != clients)
    refuse_average({"expected samples for each of at least 1 state, got ", samples.size(), " for ",
                    clients, " states"});
  Eigen::VectorXd shares(static_cast<Index>(clients));
  for (Index k = 0; k < shares.size(); ++k) {
    shares[k] = samples[static_cast<std::size_t>(k)];
    const bool counts = is_finite(shares[k]) && shares[k] >= 0;
    if (!counts) refuse_average({"expected samples of at least 0, got ", shares[k]});
  }
  const double sum = shares.sum();
  const bool some = is_finite(sum) && sum > 0;
  if (!some) refuse_average({"expected a finite number of samples in all, above 0, got ", sum});
  return shares / sum;
}
/// Is `name` the last part of key, after a dot or a slash? A name of several words, as running_var,
/// may follow any character.
[[nodiscard]] inline bool is_last_part(const std::string& name, const std::string& key) {
  if (!ends_with(key, name)) return false;
  const std::size_t start = key.size() - name.size();
  return start == 0 || is_separator(key[start - 1]) || name.find('_') != name.npos;
}
/// The key of the mean that stands beside a running variance of as many channels; "" if `key` names
/// no such variance.
[[nodiscard]] inline std::string mean_beside(const StateDict& state, const std::string& key) {
  for (std::size_t names = 0; names < state_names[3].size(); ++names) {
    const std::string var = state_names[3][names];
    if (!is_last_part(var, key)) continue;
    const auto mean = state.find(key.substr(0, key.size() - var.size()) + state_names[2][names]);
    if (mean != state.end() && mean->second.size() == state.at(key).size()) return mean->first;
  }
  return "";
}

}  // namespace detail

/// The average of the states of clients that trained copies of one model, client k on samples[k]
/// samples. With w_k = samples[k] / sum samples:
///
///   parameters, running means   mean = sum w_k * mean_k
///   running variances           var  = sum w_k * (var_k + (mean_k - mean)^2)
///   num_batches_tracked         the sum of the clients' counters
///
/// The variance of clients whose means differ is larger than the average of their variances. An
/// entry is a running variance if its name is one of state_dict() and the mean stands beside it;
/// states of whole models may have other entries too, which are averaged as parameters are. The
/// numbers of a client without samples do not count. Throws std::invalid_argument unless all states
/// have the same entries, of the same lengths. Source for the variance: Chan, Golub and LeVeque,
/// 1983.
[[nodiscard]] inline StateDict federated_average(const std::vector<StateDict>& states,
                                                 const std::vector<double>& samples) {
  const Eigen::VectorXd w = detail::shares_of(samples, states.size());
  for (std::size_t k = 0; k < states.size(); ++k) {
    if (states[k].size() != states[0].size())
      detail::refuse_average({"expected the same entries in all states, got ", states[0].size(),
                              " in state 0 and ", states[k].size(), " in state ", k});
  }
  StateDict average;  // of each entry by itself
  for (const auto& [key, first] : states[0]) {
    const bool is_counter = detail::is_last_part(detail::counter_name, key);
    Eigen::VectorXd& sum = average[key] = Eigen::VectorXd::Zero(first.size());
    for (std::size_t k = 0; k < states.size(); ++k) {
      const auto entry = states[k].find(key);
      if (entry == states[k].end())
        detail::refuse_average(
            {"expected the same entries in all states, got no ", key, " in state ", k});
      if (entry->second.size() != first.size())
        detail::refuse_average({"expected ", first.size(), " numbers in ", key, ", got ",
                                entry->second.size(), " in state ", k});
      const double share = w[static_cast<Eigen::Index>(k)];
      if (share > 0) sum += (is_counter ? 1 : share) * entry->second;
    }
  }
  for (auto& [key, var] : average) {  // then what the means add to the variances
    const std::string mean = detail::mean_beside(average, key);
    for (std::size_t k = 0; k < states.size() && !mean.empty(); ++k) {
      const double share = w[static_cast<Eigen::Index>(k)];
      const auto d = states[k].at(mean).array() - average.at(mean).array();
      if (share > 0) var.array() += share * d.square();
    }
  }
  return average;
}

}  // namespace batchnorm
