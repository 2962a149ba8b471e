// SPDX-License-Identifier: MIT
#include "networks.hpp"

#include <utility>

#include "conv3d.hpp"
#include "dropout.hpp"
#include "local_response_norm.hpp"
#include "models.hpp"
#include "residual.hpp"
#include "subset.hpp"

namespace claims {
namespace {

using nn::Index;

constexpr Index kClasses = 10;

nn::ActivationKind kind_of(Function function) {
  return function == Function::relu ? nn::ActivationKind::relu : nn::ActivationKind::sigmoid;
}

void add_function(Model& model, const Network& network) {
  nn::detail::add_activation(model, kind_of(network.function));
}

void add_norm(Model& model, Index features, const Network& network) {
  if (!network.batch_norm) return;
  batchnorm::Options options;
  if (network.statistics == Statistics::whole_set) {
    // Each training forward, which then sees the whole set, renews what eval mode uses.
    options.momentum = batchnorm::Momentum::weight_of_new(1.0);
    options.running_variance = batchnorm::VarianceEstimate::population;
  }
  model.add<nn::BatchNorm1d<float>>(features, options);
}

/// x + linear(function(norm(linear(function(norm(x)))))): He et al., 2016.
void add_residual_pair(Model& model, const Network& network, nn::Random& random) {
  Model block;
  for (int i = 0; i < 2; ++i) {
    add_norm(block, network.width, network);
    add_function(block, network);
    block.add<nn::Linear<float>>(network.width, network.width, true, random);
  }
  model.add<nn::Residual<float>>(std::move(block));
}

Model perceptron(const Network& network, nn::Random& random) {
  Model model;
  nn::Random dropping = random;  // of its own, so that the weights are the same with dropout
  Index in = static_cast<Index>(fashion_mnist::kPixels);
  for (int layer = 0; layer < network.hidden; ++layer) {
    if (network.residual && layer > 0 && layer + 1 < network.hidden) {
      add_residual_pair(model, network, random);
      ++layer;
      continue;
    }
    model.add<nn::Linear<float>>(in, network.width, true, random);
    add_norm(model, network.width, network);
    add_function(model, network);
    if (network.dropout > 0.0) model.add<nn::Dropout<float>>(network.dropout, dropping);
    in = network.width;
  }
  model.add<nn::Linear<float>>(in, kClasses, true, random);
  return model;
}

Model lenet(const Network& network, nn::Random& random) {
  nn::ModelOptions options;
  options.batch_norm = network.batch_norm;
  options.normalize_input = network.normalize_input;
  options.activation = kind_of(network.function);
  return nn::lenet<float>(options, random);
}

Model small_conv(const Network& network, nn::Random& random) {
  Model model;
  model.add<nn::AvgPool2d<float>>();  // (N, 1, 14, 14)
  Index in = 1;
  for (const Index channels : {Index{8}, Index{16}}) {
    nn::Conv2dOptions conv;
    conv.in_channels = in, conv.out_channels = channels, conv.padding = 1;
    model.add<nn::Conv2d<float>>(conv, random);
    if (network.batch_norm) model.add<nn::BatchNorm2d<float>>(channels);
    add_function(model, network);
    if (network.response_norm) model.add<nn::LocalResponseNorm<float>>();
    model.add<nn::MaxPool2d<float>>();
    in = channels;
  }
  model.add<nn::Linear<float>>(in * 3 * 3, kClasses, true, random);
  return model;
}

Model volume_conv(const Network& network, nn::Random& random) {
  Model model;
  nn::Conv3dOptions conv;
  conv.extent = {kDepth, kHalfSide, kHalfSide};
  conv.stride = 2;
  for (const Index channels : {Index{8}, Index{16}}) {
    conv.out_channels = channels;
    const auto& layer = model.add<nn::Conv3d<float>>(conv, random);
    if (network.batch_norm) model.add<nn::BatchNorm3d<float>>(channels);
    add_function(model, network);
    conv.in_channels = channels;
    conv.extent = layer.out_extent();  // 2 x 7 x 7, then 1 x 4 x 4
  }
  const auto& [depth, height, width] = conv.extent;
  model.add<nn::Linear<float>>(conv.in_channels * depth * height * width, kClasses, true, random);
  return model;
}

Model unscaled(const Network& network, nn::Random& random) {
  switch (network.kind) {
    case Kind::perceptron:
      return perceptron(network, random);
    case Kind::lenet:
      return lenet(network, random);
    case Kind::small_conv:
      return small_conv(network, random);
    case Kind::volume_conv:
      return volume_conv(network, random);
  }
  return {};
}

bool has_weights(nn::Layer<float>& layer) {
  return dynamic_cast<nn::Linear<float>*>(&layer) != nullptr ||
         dynamic_cast<nn::Conv2d<float>*>(&layer) != nullptr ||
         dynamic_cast<nn::Conv3d<float>*>(&layer) != nullptr;
}

}  // namespace

Model build(const Network& network, nn::Random& random) {
  Model model = unscaled(network, random);
  auto weights = weights_of(model);
  for (auto& weight : weights) {
    const bool last = &weight == &weights.back();
    weight.value *= static_cast<float>(last ? network.last_scale : network.hidden_scale);
  }
  return model;
}

std::vector<nn::Parameter<float>> weights_of(Model& model) {
  std::vector<nn::Parameter<float>> all;
  for (std::size_t i = 0; i < model.size(); ++i) {
    auto& layer = model.layer(i);
    if (has_weights(layer)) all.push_back(layer.parameters().front());
    if (auto* residual = dynamic_cast<nn::Residual<float>*>(&layer)) {
      for (auto& weight : weights_of(residual->block())) all.push_back(weight);
    }
  }
  return all;
}

}  // namespace claims
