// SPDX-License-Identifier: MIT
#pragma once

#include <stdexcept>
#include <utility>
#include <vector>

#include "sequential.hpp"

namespace nn {

/// y = x + block(x). He, Zhang, Ren and Sun, 2015.
template <class Scalar>
class Residual final : public Layer<Scalar> {
 public:
  explicit Residual(Sequential<Scalar> block) : block_(std::move(block)) {}

  [[nodiscard]] Sequential<Scalar>& block() { return block_; }

  [[nodiscard]] Shape output_shape(const Shape& x) const override { return x; }

  void forward(const Tensor<Scalar>& x, Tensor<Scalar>& y) override {
    const auto& added = block_.forward(x);
    if (added.dimensions() != x.dimensions()) {
      throw std::invalid_argument("[Residual] expected a block that keeps the shape of x");
    }
    y = x + added;
  }

  void backward(const Tensor<Scalar>& x, const Tensor<Scalar>& /*y*/, const Tensor<Scalar>& dy,
                Tensor<Scalar>* dx) override {
    block_.backward(x, dy, dx == nullptr ? nullptr : &block_dx_);
    if (dx != nullptr) *dx = dy + block_dx_;
  }

  [[nodiscard]] std::vector<Parameter<Scalar>> parameters() override { return block_.parameters(); }
  void train(bool on) override { block_.train(on); }
  void set_device(Device device) override {
    Layer<Scalar>::set_device(device);
    block_.set_device(device);
  }

 private:
  Sequential<Scalar> block_;
  Tensor<Scalar> block_dx_;
};

}  // namespace nn
