// SPDX-License-Identifier: MIT
// Compares the gradients of a layer with central differences of its forward.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "support/any_layer.hpp"
#include "support/catch.hpp"
#include "support/derivative.hpp"

namespace testing {

/// Checks `got` against `before` plus the derivative of `loss` by each of `values`.
template <class Loss>
void check_derivatives(const std::string& name, std::vector<double>& values, const Loss& loss,
                       const std::vector<double>& got, const std::vector<double>& before) {
  REQUIRE(got.size() == values.size());
  REQUIRE(before.size() == values.size());
  for (std::size_t i = 0; i < values.size(); ++i) {
    const double expected = before[i] + derivative(values[i], loss);
    if (near(got[i], expected)) continue;
    FAIL_CHECK(name << "[" << i << "] is " << got[i] << ", expected " << expected);
  }
}

/// Checks that backward is the gradient of dot(dy, forward(x)) by x, gamma and beta, and that the
/// layer adds it to the gradients that it has. A random dy shows errors that dy = 1 hides: the dx
/// of training would be 0.
inline void check_gradients(AnyLayer& layer, Values x, const Values& dy) {
  State state = layer.state();
  layer.forward(x);
  const Values dx = layer.backward(x, dy);
  const State after = layer.state();
  const auto loss = [&] {
    layer.set(state);
    const Values y = layer.forward(x);
    double sum = 0;
    for (std::size_t i = 0; i < y.data.size(); ++i) sum += dy.data[i] * y.data[i];
    return sum;
  };
  const std::vector<double> zeros(x.data.size());
  check_derivatives("dx", x.data, loss, dx.data, zeros);
  check_derivatives("grad_gamma", state.gamma, loss, after.grad_gamma, state.grad_gamma);
  check_derivatives("grad_beta", state.beta, loss, after.grad_beta, state.grad_beta);
}

/// The same with random x and dy, in a mode.
inline void check_gradients(const Kind& kind, AnyLayer& layer, Index samples, Index channels,
                            bool training) {
  layer.train(training);
  const auto spatial = small_spatial(kind.rank);
  check_gradients(layer, random_values(samples, channels, spatial, 1),
                  random_values(samples, channels, spatial, 2));
}

/// Checks that dx and the gradients of a layer, which were 0 before, are those of loss() by x,
/// gamma and beta.
template <class Loss, class X, class Layer>
void check_gradients_of(const Loss& loss, X& x, const X& dx, Layer& layer) {
  for (Index i = 0; i < x.size(); ++i) CHECK(near(dx.data()[i], derivative(x.data()[i], loss)));
  for (Index c = 0; c < layer.gamma().size(); ++c) {
    CHECK(near(layer.grad_gamma()[c], derivative(layer.gamma()[c], loss)));
  }
  for (Index c = 0; c < layer.beta().size(); ++c) {
    CHECK(near(layer.grad_beta()[c], derivative(layer.beta()[c], loss)));
  }
}

}  // namespace testing
