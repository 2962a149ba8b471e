// SPDX-License-Identifier: MIT
#pragma once

#include <cmath>

#include "random.hpp"
#include "tensor.hpp"

namespace nn {

/// Xavier (Glorot) uniform: variance 2 / (fan_in + fan_out), which keeps the scale of values and
/// of gradients from layer to layer. Glorot and Bengio, 2010.
template <class Scalar>
void xavier_uniform(Matrix<Scalar>& weight, Index fan_in, Index fan_out, Random& random) {
  const double bound = std::sqrt(6.0 / static_cast<double>(fan_in + fan_out));
  for (Index i = 0; i < weight.size(); ++i) {
    weight.data()[i] = static_cast<Scalar>(random.uniform(-bound, bound));
  }
}

}  // namespace nn
