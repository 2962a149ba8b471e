// SPDX-License-Identifier: MIT
// How far a layer may be from the reference layer. The bounds are the library's promises:
//   y         6e-7 * max(1, |gamma * x_hat|, |beta|) in float,
//   mean      1e-7 sigma,   var  1e-6 of it,   each with a rounding when it is stored in float,
//   sums      5e-7 of sum |dy| and sum |dy * x_hat|.
// dx has the error of the sums and of some ten roundings of 6e-8 in its terms: 1.2e-6 of them.
// Doubles add up a few thousand values, each with a rounding of 1.1e-16: 1e-12.
// half and bfloat16 are the float result rounded once more, by Kind::unit.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "support/any_layer.hpp"
#include "support/reference.hpp"

namespace testing {

/// The largest error in units of what is allowed; infinite for a NaN. Up to 1 is right.
class Worst {
 public:
  void see(double got, double expected, double allowed) {
    const double error = std::abs(got - expected);
    if (got == expected) return;
    const double ratio = error / allowed;
    worst_ = ratio <= std::numeric_limits<double>::max() ? std::max(worst_, ratio)
                                                         : std::numeric_limits<double>::infinity();
  }
  double ratio() const { return worst_; }

 private:
  double worst_ = 0;
};

struct Precision {
  double y, dx, sums, mean, var, stored;
};
inline Precision precision_of(const Kind& kind) {
  if (kind.is_double) return {1e-12, 1e-12, 1e-12, 1e-12, 1e-12, 1.2e-16};
  return {6e-7, 1.2e-6, 5e-7, 1e-7, 1e-6, 6e-8};
}

/// y against the reference layer, after its forward.
inline double error_of_y(const Kind& kind, const ReferenceLayer& reference, const Values& x,
                         const Values& y, const Values& expected) {
  Worst worst;
  x.each([&](Index n, Index c, Index p) {
    const double scaled = static_cast<double>(reference.gamma[at(c)] * reference.x_hat(x, n, c, p));
    const double beta = static_cast<double>(reference.beta[at(c)]);
    const double size = std::max({1.0, std::abs(scaled), std::abs(beta)});
    const double e = expected(n, c, p);
    worst.see(y(n, c, p), e, precision_of(kind).y * size + kind.unit * std::abs(e) + kind.small);
  });
  return worst.ratio();
}

struct GradientErrors {
  double dx, dgamma, dbeta;
};

/// dx and the accumulated gradients against the reference layer, after its backward. `before` is
/// the layer's state before its own, whose gradients the reference had too.
inline GradientErrors errors_of_gradients(const Kind& kind, const ReferenceLayer& reference,
                                          const Values& x, const Values& dy, const Values& dx,
                                          const Values& expected, const State& after) {
  const Precision precision = precision_of(kind);
  const double n = static_cast<double>(x.count());
  std::vector<double> size_dy(at(x.channels)), size_dy_x_hat(at(x.channels));
  const auto x_hat = [&](Index i, Index c, Index p) {
    return std::abs(static_cast<double>(reference.x_hat(x, i, c, p)));
  };
  x.each([&](Index i, Index c, Index p) {
    size_dy[at(c)] += std::abs(dy(i, c, p));
    size_dy_x_hat[at(c)] += std::abs(dy(i, c, p)) * x_hat(i, c, p);
  });
  Worst dx_error, dgamma, dbeta;
  x.each([&](Index i, Index c, Index p) {
    const double factor = std::abs(static_cast<double>(reference.gamma[at(c)])) *
                          static_cast<double>(reference.inv_std(c));
    const double terms =
        std::abs(dy(i, c, p)) + size_dy[at(c)] / n + x_hat(i, c, p) * size_dy_x_hat[at(c)] / n;
    const double e = expected(i, c, p);
    dx_error.see(dx(i, c, p), e,
                 precision.dx * factor * terms + kind.unit * std::abs(e) + kind.small);
  });
  for (std::size_t c = 0; c < after.grad_gamma.size(); ++c) {
    const double e = static_cast<double>(reference.grad_gamma[c]);
    dgamma.see(after.grad_gamma[c], e,
               precision.sums * size_dy_x_hat[c] + precision.stored * std::abs(e));
  }
  for (std::size_t c = 0; c < after.grad_beta.size(); ++c) {
    const double e = static_cast<double>(reference.grad_beta[c]);
    dbeta.see(after.grad_beta[c], e, precision.sums * size_dy[c] + precision.stored * std::abs(e));
  }
  return {dx_error.ratio(), dgamma.ratio(), dbeta.ratio()};
}

/// The running statistics against the reference layer's.
inline double error_of_statistics(const Kind& kind, const ReferenceLayer& reference,
                                  const State& state) {
  const Precision precision = precision_of(kind);
  Worst worst;
  for (std::size_t c = 0; c < state.running_mean.size(); ++c) {
    const double mean = static_cast<double>(reference.running_mean[c]);
    const double var = static_cast<double>(reference.running_var[c]);
    const double sigma = std::sqrt(static_cast<double>(reference.var[c]));
    // 1 - 0.9 and the like are rounded in double, on either side: 1e-15 of what they weigh.
    const double weights = 1e-15 * (std::abs(mean) + sigma + var + 1);
    worst.see(state.running_mean[c], mean,
              precision.mean * sigma + precision.stored * std::abs(mean) + weights);
    worst.see(state.running_var[c], var, (precision.var + precision.stored) * var + weights);
  }
  return worst.ratio();
}

/// The reference layer takes over a layer's parameters, gradients and statistics.
inline void copy_state(const State& from, ReferenceLayer& to) {
  const auto copy = [](const std::vector<double>& values, ReferenceLayer::Vector& target) {
    for (std::size_t c = 0; c < values.size(); ++c) target[c] = values[c];
  };
  copy(from.gamma, to.gamma);
  copy(from.beta, to.beta);
  copy(from.grad_gamma, to.grad_gamma);
  copy(from.grad_beta, to.grad_beta);
  copy(from.running_mean, to.running_mean);
  copy(from.running_var, to.running_var);
  to.counter = from.counter;
}

/// Random parameters, gradients and statistics for the ones that a layer has.
inline void randomize(AnyLayer& layer, Random& random) {
  State state = layer.state();
  for (double& v : state.gamma) v = random.normal(0.5, 1);
  for (double& v : state.beta) v = random.normal(0, 1);
  for (double& v : state.grad_gamma) v = 8;
  for (double& v : state.grad_beta) v = 9;
  for (double& v : state.running_mean) v = random.normal(0, 1);
  for (double& v : state.running_var) v = random.uniform(0.5, 3);
  layer.set(state);
}

}  // namespace testing
