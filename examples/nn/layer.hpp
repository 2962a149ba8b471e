// SPDX-License-Identifier: MIT
// What every layer of the network offers.
#pragma once

#include <memory>
#include <vector>

#include "parallel.hpp"
#include "tensor.hpp"

namespace nn {

/// One learned tensor, seen flat, and its gradient. The layer owns both.
template <class Scalar>
struct Parameter {
  Eigen::Map<Vector<Scalar>> value;
  Eigen::Map<Vector<Scalar>> grad;

  Parameter(Scalar* value_data, Scalar* grad_data, Index size)
      : value(value_data, size), grad(grad_data, size) {}

  template <class Dense>
  Parameter(Dense& v, Dense& g) : Parameter(v.data(), g.data(), v.size()) {}
};

/// y = f(x). Layers keep no activations: backward is given x and y of the last forward again.
template <class Scalar>
class Layer {
 public:
  virtual ~Layer() = default;

  /// The shape of y for an x of shape x; throws std::invalid_argument where x does not fit.
  [[nodiscard]] virtual Shape output_shape(const Shape& x) const = 0;

  /// Writes y, which has output_shape.
  virtual void forward(const Tensor<Scalar>& x, Tensor<Scalar>& y) = 0;

  /// Adds to the gradients of the parameters and writes dx, of x's shape, unless it is nullptr.
  virtual void backward(const Tensor<Scalar>& x, const Tensor<Scalar>& y, const Tensor<Scalar>& dy,
                        Tensor<Scalar>* dx) = 0;

  [[nodiscard]] virtual std::vector<Parameter<Scalar>> parameters() { return {}; }
  virtual void train(bool /*on*/) {}
  virtual void set_device(Device device) { device_ = device; }

 protected:
  [[nodiscard]] Device device() const { return device_; }

 private:
  Device device_ = nullptr;
};

}  // namespace nn
