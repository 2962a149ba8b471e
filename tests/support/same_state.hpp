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

/// Parameters, gradients, statistics, counter, mode, options and what backward uses.
template <class Layer>
bool same_state(const Layer& a, const Layer& b) {
  const auto& x = a.options();
  const auto& y = b.options();
  return same_bits(a.gamma(), b.gamma()) && same_bits(a.beta(), b.beta()) &&
         same_bits(a.grad_gamma(), b.grad_gamma()) && same_bits(a.grad_beta(), b.grad_beta()) &&
         same_bits(a.running_mean(), b.running_mean()) &&
         same_bits(a.running_var(), b.running_var()) &&
         a.num_batches_tracked() == b.num_batches_tracked() && a.is_training() == b.is_training() &&
         a.num_features() == b.num_features() && x.momentum == y.momentum &&
         x.non_finite == y.non_finite && x.single_value == y.single_value &&
         a.saved().count == b.saved().count && same_bits(a.saved().mean, b.saved().mean) &&
         same_bits(a.saved().inv_std, b.saved().inv_std);
}

}  // namespace testing
