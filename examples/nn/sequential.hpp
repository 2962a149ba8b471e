// SPDX-License-Identifier: MIT
#pragma once

#include <memory>
#include <utility>
#include <vector>

#include "layer.hpp"

namespace nn {

/// Layers one after the other. Owns their outputs and the gradients of these, and keeps them from
/// batch to batch, so that a step allocates only when the shape changes.
template <class Scalar>
class Sequential {
 public:
  /// Appends a layer and returns it.
  template <class L, class... Args>
  L& add(Args&&... args) {
    auto layer = std::make_unique<L>(std::forward<Args>(args)...);
    L& added = *layer;
    layers_.push_back(std::move(layer));
    return added;
  }

  [[nodiscard]] std::size_t size() const { return layers_.size(); }
  [[nodiscard]] Layer<Scalar>& layer(std::size_t i) { return *layers_[i]; }

  /// Puts another layer in place i and returns the one that was there.
  std::unique_ptr<Layer<Scalar>> exchange(std::size_t i, std::unique_ptr<Layer<Scalar>> layer) {
    return std::exchange(layers_[i], std::move(layer));
  }

  /// The result stays valid until the next forward.
  const Tensor<Scalar>& forward(const Tensor<Scalar>& x) {
    outputs_.resize(layers_.size());
    const Tensor<Scalar>* in = &x;
    for (std::size_t i = 0; i < layers_.size(); ++i) {
      outputs_[i].resize(layers_[i]->output_shape(in->dimensions()));
      layers_[i]->forward(*in, outputs_[i]);
      in = &outputs_[i];
    }
    return *in;
  }

  /// Adds to the parameters' gradients; x is what the last forward was given. Writes dx unless it
  /// is nullptr: training needs none for the images, which spares the first layer the work.
  void backward(const Tensor<Scalar>& x, const Tensor<Scalar>& dy, Tensor<Scalar>* dx = nullptr) {
    grads_.resize(layers_.size());
    const Tensor<Scalar>* grad = &dy;
    for (std::size_t i = layers_.size(); i-- > 0;) {
      const Tensor<Scalar>& in = i == 0 ? x : outputs_[i - 1];
      Tensor<Scalar>* out = i == 0 ? dx : &grads_[i];
      if (out != nullptr) out->resize(in.dimensions());
      layers_[i]->backward(in, outputs_[i], *grad, out);
      grad = out;
    }
  }

  [[nodiscard]] std::vector<Parameter<Scalar>> parameters() {
    std::vector<Parameter<Scalar>> all;
    for (auto& layer : layers_) {
      for (auto& parameter : layer->parameters()) all.push_back(parameter);
    }
    return all;
  }

  void zero_grad() {
    for (auto& parameter : parameters()) parameter.grad.setZero();
  }

  void train(bool on = true) {
    for (auto& layer : layers_) layer->train(on);
  }
  void eval() { train(false); }

  void set_device(Device device) {
    for (auto& layer : layers_) layer->set_device(device);
  }

 private:
  std::vector<std::unique_ptr<Layer<Scalar>>> layers_;
  std::vector<Tensor<Scalar>> outputs_;  // of each layer
  std::vector<Tensor<Scalar>> grads_;    // of each layer's input
};

}  // namespace nn
