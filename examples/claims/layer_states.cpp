// SPDX-License-Identifier: MIT
#include "layer_states.hpp"

#include "activation.hpp"
#include "loss.hpp"

namespace claims {
namespace {

LayerState state_of(const nn::Tensor<float>& y) {
  const Eigen::Map<const Eigen::ArrayXf> flat(y.data(), y.size());
  const Eigen::ArrayXd values = flat.cast<double>();
  LayerState state;
  state.mean = values.mean();
  state.variance = (values - state.mean).square().mean();
  return state;
}

bool is_activation(nn::Layer<float>& layer) {
  return dynamic_cast<nn::Sigmoid<float>*>(&layer) != nullptr ||
         dynamic_cast<nn::Relu<float>*>(&layer) != nullptr;
}

}  // namespace

std::vector<LayerState> layer_states(Model& model, const Subset& batch) {
  model.train();
  model.zero_grad();
  nn::Tensor<float> dlogits;
  nn::softmax_cross_entropy(model.forward(batch.x), batch.labels, &dlogits);
  model.backward(batch.x, dlogits);
  const auto weights = weights_of(model);

  std::vector<LayerState> states;
  nn::Tensor<float> x = batch.x, y;
  for (std::size_t i = 0; i < model.size(); ++i) {
    auto& layer = model.layer(i);
    y.resize(layer.output_shape(x.dimensions()));
    layer.forward(x, y);
    if (is_activation(layer)) {
      states.push_back(state_of(y));
      states.back().gradient = static_cast<double>(weights[states.size() - 1].grad.norm());
    }
    std::swap(x, y);
  }
  model.zero_grad();
  return states;
}

}  // namespace claims
