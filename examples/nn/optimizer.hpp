// SPDX-License-Identifier: MIT
#pragma once

#include <cmath>
#include <vector>

#include "layer.hpp"

namespace nn {

/// Moves parameters against their gradients. step() must be given the same parameters each time.
template <class Scalar>
class Optimizer {
 public:
  virtual ~Optimizer() = default;
  virtual void step(std::vector<Parameter<Scalar>>& parameters, double learning_rate) = 0;

 protected:
  using State = std::vector<Vector<Scalar>>;  // one vector for each parameter

  static void fit(State& state, const std::vector<Parameter<Scalar>>& parameters) {
    for (std::size_t i = state.size(); i < parameters.size(); ++i) {
      state.push_back(Vector<Scalar>::Zero(parameters[i].value.size()));
    }
  }
};

/// v = momentum * v + g        p = p - learning_rate * v
template <class Scalar>
class Sgd final : public Optimizer<Scalar> {
 public:
  explicit Sgd(double momentum = 0.0) : momentum_(static_cast<Scalar>(momentum)) {}

  void step(std::vector<Parameter<Scalar>>& parameters, double learning_rate) override {
    const auto rate = static_cast<Scalar>(learning_rate);
    this->fit(velocity_, parameters);
    for (std::size_t i = 0; i < parameters.size(); ++i) {
      auto& [p, g] = parameters[i];
      Vector<Scalar>& v = velocity_[i];
      v = momentum_ * v + g;
      p -= rate * v;
    }
  }

 private:
  Scalar momentum_;
  typename Optimizer<Scalar>::State velocity_;  // v
};

struct AdamOptions {
  double beta1 = 0.9;
  double beta2 = 0.999;
  double eps = 1e-8;
};

/// m = beta1 * m + (1 - beta1) * g        v = beta2 * v + (1 - beta2) * g^2
/// p = p - learning_rate * (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps)
/// at step t = 1, 2, ... Kingma and Ba, 2015, arXiv 1412.6980.
template <class Scalar>
class Adam final : public Optimizer<Scalar> {
 public:
  explicit Adam(const AdamOptions& options = {}) : options_(options) {}

  void step(std::vector<Parameter<Scalar>>& parameters, double learning_rate) override {
    this->fit(mean_, parameters);
    this->fit(square_, parameters);
    ++steps_;
    const auto beta1 = static_cast<Scalar>(options_.beta1);
    const auto beta2 = static_cast<Scalar>(options_.beta2);
    const auto eps = static_cast<Scalar>(options_.eps);
    const auto rate = static_cast<Scalar>(learning_rate / (1.0 - std::pow(options_.beta1, steps_)));
    const auto unbias = static_cast<Scalar>(1.0 / (1.0 - std::pow(options_.beta2, steps_)));
    for (std::size_t i = 0; i < parameters.size(); ++i) {
      auto& [p, g] = parameters[i];
      Vector<Scalar>& m = mean_[i];
      Vector<Scalar>& v = square_[i];
      m = beta1 * m + (1 - beta1) * g;
      v = beta2 * v + (1 - beta2) * g.cwiseAbs2();
      p.array() -= rate * m.array() / ((unbias * v.array()).sqrt() + eps);
    }
  }

 private:
  AdamOptions options_;
  int steps_ = 0;                             // t
  typename Optimizer<Scalar>::State mean_;    // m
  typename Optimizer<Scalar>::State square_;  // v
};

}  // namespace nn
