// SPDX-License-Identifier: MIT
// Compares what a layer's backward gives with central differences of its forward.
#pragma once

#include <algorithm>
#include <cmath>

#include "../support/catch.hpp"
#include "../support/derivative.hpp"
#include "layer.hpp"
#include "random.hpp"

namespace testing {

inline nn::Tensor<double> random_tensor(const nn::Shape& shape, nn::Random& random,
                                        double low = -1.0, double high = 1.0) {
  nn::Tensor<double> t(shape);
  std::generate_n(t.data(), t.size(), [&] { return random.uniform(low, high); });
  return t;
}

inline double dot(const nn::Tensor<double>& a, const nn::Tensor<double>& b) {
  return nn::rows(a, 0, a.dimension(0)).cwiseProduct(nn::rows(b, 0, b.dimension(0))).sum();
}

/// The derivative of loss() by value, with steps of 1e-6: for losses of about 10 the rounding error
/// is 10 * 1e-16 / 1e-6 = 1e-9. kGradientError leaves room for sums of a hundred such terms.
template <class Loss>
double central_difference(double& value, const Loss& loss) {
  return derivative(value, loss, 1e-6);
}
inline constexpr double kGradientError = 1e-7;

inline void require_close(double given, double expected) {
  REQUIRE(std::abs(given - expected) <= kGradientError * std::max(1.0, std::abs(expected)));
}

/// Checks dx and the gradients of all parameters of the loss dot(dy, y) with a random dy: with
/// dy = 1 many errors would cancel. Gradients start at 7, to see that backward adds to them.
inline void check_gradients(nn::Layer<double>& layer, nn::Tensor<double> x, nn::Random& random) {
  nn::Tensor<double> y(layer.output_shape(x.dimensions()));
  nn::Tensor<double> dx(x.dimensions());
  const auto dy = random_tensor(y.dimensions(), random);
  const auto loss = [&] {
    layer.forward(x, y);
    return dot(dy, y);
  };
  auto parameters = layer.parameters();
  for (auto& parameter : parameters) parameter.grad.setConstant(7.0);
  loss();
  layer.backward(x, y, dy, &dx);

  for (nn::Index i = 0; i < x.size(); ++i) {
    require_close(dx.data()[i], central_difference(x.data()[i], loss));
  }
  for (auto& parameter : parameters) {
    for (nn::Index i = 0; i < parameter.value.size(); ++i) {
      require_close(parameter.grad[i] - 7.0, central_difference(parameter.value[i], loss));
    }
  }
}

}  // namespace testing
