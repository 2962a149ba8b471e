// SPDX-License-Identifier: MIT
// Two small networks for 28 x 28 images of ten classes.
#pragma once

#include "activation.hpp"
#include "batch_norm.hpp"
#include "conv2d.hpp"
#include "linear.hpp"
#include "pool.hpp"
#include "sequential.hpp"

namespace nn {

enum class ActivationKind { sigmoid, relu };

struct ModelOptions {
  bool batch_norm = true;
  bool conv_bias = true;  // under batch norm it has no effect: the mean takes it away again
  // Of lenet alone:
  bool normalize_input = false;  // a batch norm before all
  ActivationKind activation = ActivationKind::sigmoid;
};

namespace detail {

template <class Scalar>
void add_conv(Sequential<Scalar>& model, Conv2dOptions conv, const ModelOptions& options,
              Random& random) {
  conv.bias = options.conv_bias;
  model.template add<Conv2d<Scalar>>(conv, random);
  if (options.batch_norm) model.template add<BatchNorm2d<Scalar>>(conv.out_channels);
}

template <class Scalar>
void add_linear(Sequential<Scalar>& model, Index in, Index out, const ModelOptions& options,
                Random& random) {
  model.template add<Linear<Scalar>>(in, out, true, random);
  if (options.batch_norm) model.template add<BatchNorm1d<Scalar>>(out);
}

template <class Scalar>
void add_activation(Sequential<Scalar>& model, ActivationKind kind) {
  if (kind == ActivationKind::sigmoid) {
    model.template add<Sigmoid<Scalar>>();
  } else {
    model.template add<Relu<Scalar>>();
  }
}

}  // namespace detail

/// LeCun et al. 1998 as in Dive into Deep Learning 8.5: sigmoids and average pooling.
template <class Scalar>
[[nodiscard]] Sequential<Scalar> lenet(const ModelOptions& options, Random& random) {
  Sequential<Scalar> model;
  if (options.normalize_input) model.template add<BatchNorm2d<Scalar>>(1);
  Conv2dOptions conv1;
  conv1.out_channels = 6, conv1.kernel = 5, conv1.padding = 2;
  detail::add_conv(model, conv1, options, random);
  detail::add_activation(model, options.activation);
  model.template add<AvgPool2d<Scalar>>();  // (N, 6, 14, 14)
  Conv2dOptions conv2;
  conv2.in_channels = 6, conv2.out_channels = 16, conv2.kernel = 5;
  detail::add_conv(model, conv2, options, random);
  detail::add_activation(model, options.activation);
  model.template add<AvgPool2d<Scalar>>();  // (N, 16, 5, 5)
  detail::add_linear(model, 400, 120, options, random);
  detail::add_activation(model, options.activation);
  detail::add_linear(model, 120, 84, options, random);
  detail::add_activation(model, options.activation);
  model.template add<Linear<Scalar>>(84, 10, true, random);
  return model;
}

/// Two 3 x 3 convolutions with ReLU and max pooling.
template <class Scalar>
[[nodiscard]] Sequential<Scalar> conv_bn_net(const ModelOptions& options, Random& random) {
  Sequential<Scalar> model;
  Conv2dOptions conv1;
  conv1.out_channels = 32, conv1.kernel = 3, conv1.padding = 1;
  detail::add_conv(model, conv1, options, random);
  model.template add<Relu<Scalar>>();
  model.template add<MaxPool2d<Scalar>>();  // (N, 32, 14, 14)
  Conv2dOptions conv2;
  conv2.in_channels = 32, conv2.out_channels = 64, conv2.kernel = 3, conv2.padding = 1;
  detail::add_conv(model, conv2, options, random);
  model.template add<Relu<Scalar>>();
  model.template add<MaxPool2d<Scalar>>();  // (N, 64, 7, 7)
  model.template add<Linear<Scalar>>(3136, 10, true, random);
  return model;
}

}  // namespace nn
