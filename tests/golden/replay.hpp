// SPDX-License-Identifier: MIT
// Runs a layer through a golden case and compares everything that comes out of it.
#pragma once

#include <algorithm>
#include <array>
#include <batchnorm/batchnorm.hpp>
#include <cmath>
#include <cstddef>
#include <limits>
#include <type_traits>
#include <vector>

#include "../support/catch.hpp"
#include "golden_file.hpp"

namespace golden {

template <typename Batch>
constexpr bool is_matrix = std::is_base_of_v<Eigen::MatrixBase<Batch>, Batch>;

/// The place in a batch of the element with logical row-major number `flat` of (N, C, ...).
template <std::size_t Rank>
std::array<Eigen::Index, Rank> place(Eigen::Index flat, const std::vector<Eigen::Index>& shape,
                                     batchnorm::ChannelAxis axis) {
  std::array<Eigen::Index, Rank> index{};
  for (std::size_t i = Rank; i > 0; flat /= shape[i]) {
    --i;
    index[i] = flat % shape[i];
  }
  if (axis == batchnorm::ChannelAxis::last) {
    std::rotate(index.begin() + 1, index.begin() + 2, index.end());
  }
  return index;
}

/// A tensor or matrix with the channel where `axis` says, from the row-major numbers of (N, C,
/// ...).
template <typename Batch>
Batch make_batch(const std::vector<double>& numbers, const std::vector<Eigen::Index>& shape,
                 batchnorm::ChannelAxis axis) {
  using Scalar = typename Batch::Scalar;
  Batch batch;
  if constexpr (is_matrix<Batch>) {
    batch.resize(shape[0], shape[1]);
  } else {
    std::array<Eigen::Index, Batch::NumIndices> extents{};
    std::copy(shape.begin(), shape.end(), extents.begin());
    if (axis == batchnorm::ChannelAxis::last) {
      std::rotate(extents.begin() + 1, extents.begin() + 2, extents.end());
    }
    batch.resize(extents);
  }
  for (std::size_t i = 0; i < numbers.size(); ++i) {
    const auto flat = static_cast<Eigen::Index>(i);
    if constexpr (is_matrix<Batch>) {
      batch(flat / shape[1], flat % shape[1]) = static_cast<Scalar>(numbers[i]);
    } else {
      batch(place<Batch::NumIndices>(flat, shape, axis)) = static_cast<Scalar>(numbers[i]);
    }
  }
  return batch;
}

/// The inverse of make_batch.
template <typename Batch>
std::vector<double> numbers_of(const Batch& batch, const std::vector<Eigen::Index>& shape,
                               batchnorm::ChannelAxis axis) {
  std::vector<double> numbers(static_cast<std::size_t>(batch.size()));
  for (std::size_t i = 0; i < numbers.size(); ++i) {
    const auto flat = static_cast<Eigen::Index>(i);
    if constexpr (is_matrix<Batch>) {
      numbers[i] = static_cast<double>(batch(flat / shape[1], flat % shape[1]));
    } else {
      numbers[i] = static_cast<double>(batch(place<Batch::NumIndices>(flat, shape, axis)));
    }
  }
  return numbers;
}

template <typename Vector>
void set_vector(Vector& vector, const Numbers& start, const char* name) {
  const auto found = start.find(name);
  REQUIRE(vector.size() == (found == start.end() ? 0 : Eigen::Index(found->second.size())));
  for (Eigen::Index c = 0; c < vector.size(); ++c) {
    vector[c] = static_cast<typename Vector::Scalar>(found->second[static_cast<std::size_t>(c)]);
  }
}

/// The numbers of that name, or `count` times `otherwise` where the layer has none.
inline std::vector<double> get(const Numbers& numbers, const char* name, std::size_t count,
                               double otherwise) {
  const auto found = numbers.find(name);
  return found == numbers.end() ? std::vector<double>(count, otherwise) : found->second;
}

/// |got - want| <= bound * scale + unit * |want| for each element; `scale` is the size of the terms
/// that an element is computed from.
inline void compare(const char* name, const std::vector<double>& got,
                    const std::vector<double>& want, const std::vector<double>& scale, double bound,
                    double unit = 0) {
  CAPTURE(name);
  REQUIRE(got.size() == want.size());
  for (std::size_t i = 0; i < got.size(); ++i) {
    const double allowed = bound * scale[i] + unit * std::abs(want[i]);
    if (!(std::abs(got[i] - want[i]) <= allowed)) {
      CAPTURE(i, got[i], want[i], allowed);
      CHECK(std::abs(got[i] - want[i]) <= allowed);
      return;  // the first of an array tells enough
    }
  }
}

template <typename Vector>
std::vector<double> numbers_of_vector(const Vector& vector) {
  return numbers_of(vector, {vector.size(), 1}, batchnorm::ChannelAxis::first);
}

/// How far from exact results may be, in units of the terms they are made from. Float: oneDNN's
/// bound for y and dx, and what batchnorm promises. Double: the files hold 14 digits, and a hundred
/// roundings of 1.1e-16 are 1e-14; wrong formulas, or float inside, are off by 6e-8 and more.
template <typename Param>
constexpr double bound = std::is_same_v<Param, float> ? 6e-7 : 1e-12;

/// Half and bfloat16 results are that, rounded once: to 11 and 8 bits.
template <typename Scalar>
constexpr double unit = std::is_same_v<Scalar, Eigen::half>       ? 0x1p-11
                        : std::is_same_v<Scalar, Eigen::bfloat16> ? 0x1p-8
                                                                  : 0;

/// Batch is what the layer is given: a tensor of its rank or, for 1d, a matrix.
template <typename Layer, typename Batch>
void replay(const Case& golden, batchnorm::ChannelAxis axis) {
  using Param = typename Layer::Param;
  using Scalar = typename Batch::Scalar;
  INFO("case " << golden.name << ", channel axis "
               << (axis == batchnorm::ChannelAxis::first ? "first" : "last"));
  batchnorm::Options options = golden.options;
  options.channel_axis = axis;
  const Eigen::Index channels = golden.steps[0].shape[1];
  Layer layer(channels, options);
  set_vector(layer.gamma(), golden.start, "gamma");
  set_vector(layer.beta(), golden.start, "beta");
  set_vector(layer.running_mean(), golden.start, "running_mean");
  set_vector(layer.running_var(), golden.start, "running_var");
  const auto C = static_cast<std::size_t>(channels);
  const std::vector<double> gamma = get(golden.start, "gamma", C, 1);
  const std::vector<double> beta = get(golden.start, "beta", C, 0);

  for (const Step& step : golden.steps) {
    const auto& shape = step.shape;
    const auto& x = step.numbers.at("x");
    const auto& dy = step.numbers.at("dy");
    const auto& want_y = step.numbers.at("y");
    const auto& mean = step.numbers.at("mean");
    const auto& inv_std = step.numbers.at("inv_std");

    layer.train(step.training);
    layer.zero_grad();
    const Batch x_batch = make_batch<Batch>(x, shape, axis);
    const auto y_batch = layer.forward(x_batch);
    const auto dx_batch = layer.backward(x_batch, make_batch<Batch>(dy, shape, axis));

    std::size_t inner = 1;  // values of a channel side by side in (N, C, ...)
    for (std::size_t i = 2; i < shape.size(); ++i) inner *= static_cast<std::size_t>(shape[i]);
    double max_dy = 0;
    for (const double value : dy) max_dy = std::max(max_dy, std::abs(value));
    std::vector<double> y_scale(x.size()), dx_scale(x.size()), dgamma_scale(C), dbeta_scale(C);
    for (std::size_t i = 0; i < x.size(); ++i) {
      const std::size_t c = i / inner % C;
      const double x_hat = (x[i] - mean[c]) * inv_std[c];
      y_scale[i] = std::max({1.0, std::abs(gamma[c] * x_hat), std::abs(beta[c])});
      // The terms of dx: |dy|, |dbeta| / n and, as x_hat has unit variance, |dgamma| / n are at
      // most max |dy|, and the last is multiplied by x_hat.
      dx_scale[i] = std::abs(gamma[c]) * inv_std[c] * max_dy * (2 + std::abs(x_hat));
      dgamma_scale[c] += std::abs(dy[i] * x_hat);
      dbeta_scale[c] += std::abs(dy[i]);
    }
    compare("y", numbers_of(y_batch, shape, axis), want_y, y_scale, bound<Param>, unit<Scalar>);
    compare("dx", numbers_of(dx_batch, shape, axis), step.numbers.at("dx"), dx_scale, bound<Param>,
            unit<Scalar>);
    compare("dgamma", numbers_of_vector(layer.grad_gamma()), get(step.numbers, "dgamma", 0, 0),
            dgamma_scale, bound<Param>);
    compare("dbeta", numbers_of_vector(layer.grad_beta()), get(step.numbers, "dbeta", 0, 0),
            dbeta_scale, bound<Param>);

    // A mean may be off by parts of sigma = 1 / inv_std, a variance by 1e-6 of itself.
    const auto running_mean = get(step.numbers, "running_mean", 0, 0);
    const auto running_var = get(step.numbers, "running_var", 0, 0);
    std::vector<double> mean_scale(C), var_scale(C);
    for (std::size_t c = 0; c < running_mean.size(); ++c) {
      mean_scale[c] = std::max(std::abs(running_mean[c]), 1 / inv_std[c]);
      var_scale[c] = 2 * running_var[c];
    }
    compare("running_mean", numbers_of_vector(layer.running_mean()), running_mean, mean_scale,
            bound<Param>);
    compare("running_var", numbers_of_vector(layer.running_var()), running_var, var_scale,
            bound<Param>);
    if (step.counter >= 0) CHECK(layer.num_batches_tracked() == step.counter);
  }
}

/// Both positions of the channel; in (N, C) they are the same, and both must serve.
template <typename Layer, typename Batch>
void replay_everywhere(const Case& golden) {
  replay<Layer, Batch>(golden, batchnorm::ChannelAxis::first);
  replay<Layer, Batch>(golden, batchnorm::ChannelAxis::last);
}

}  // namespace golden
