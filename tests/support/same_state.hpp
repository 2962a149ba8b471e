// SPDX-License-Identifier: MIT
// Equal to the bit: vectors, and all that a layer is.
#pragma once

#include <cstddef>
#include <cstring>
#include <type_traits>

namespace testing {

/// Same length and same bits: NaN equals itself, and -0 differs from 0.
template <class A, class B>
bool same_bits(const A& a, const B& b) {
  using Scalar = typename A::Scalar;
  static_assert(std::is_same_v<Scalar, typename B::Scalar>);
  if (a.size() != b.size()) return false;
  const std::size_t bytes = sizeof(Scalar) * static_cast<std::size_t>(a.size());
  return bytes == 0 || std::memcmp(a.data(), b.data(), bytes) == 0;
}

/// Everything in what a forward leaves for its backward. Saved is batchnorm::Saved.
template <class Saved>
bool same_saved(const Saved& a, const Saved& b) {
  return same_bits(a.mean, b.mean) && same_bits(a.var, b.var) && same_bits(a.inv_std, b.inv_std) &&
         a.count == b.count && a.batch_statistics == b.batch_statistics &&
         a.overwritten == b.overwritten && a.shape == b.shape;
}

/// Options is batchnorm::Options.
template <class Options>
bool same_options(const Options& a, const Options& b) {
  return a.eps == b.eps && a.momentum == b.momentum && a.running_variance == b.running_variance &&
         a.scale == b.scale && a.shift == b.shift &&
         a.track_running_stats == b.track_running_stats && a.channel_axis == b.channel_axis &&
         a.single_value == b.single_value && a.non_finite == b.non_finite;
}

/// Parameters, gradients, statistics, counters, mode, options and what backward uses.
template <class Layer>
bool same_state(const Layer& a, const Layer& b) {
  return same_bits(a.gamma(), b.gamma()) && same_bits(a.beta(), b.beta()) &&
         same_bits(a.grad_gamma(), b.grad_gamma()) && same_bits(a.grad_beta(), b.grad_beta()) &&
         same_bits(a.running_mean(), b.running_mean()) &&
         same_bits(a.running_var(), b.running_var()) &&
         same_bits(a.core().running.skipped, b.core().running.skipped) &&
         a.num_batches_tracked() == b.num_batches_tracked() && a.is_training() == b.is_training() &&
         a.num_features() == b.num_features() && same_options(a.options(), b.options()) &&
         same_saved(a.saved(), b.saved());
}

}  // namespace testing
