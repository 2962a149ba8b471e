// SPDX-License-Identifier: MIT
// The library's layers as layers of this network.
#pragma once

#include <algorithm>
#include <batchnorm/batchnorm.hpp>
#include <type_traits>
#include <vector>

#include "layer.hpp"

namespace nn {

/// A batchnorm layer Norm of rank Rank over (N, C, H, W): axes that Norm has too few of have length
/// 1 here, axes that it has too many of have length 1 there.
template <class Scalar, class Norm, int Rank>
class BatchNorm final : public Layer<Scalar> {
 public:
  explicit BatchNorm(Index num_features, batchnorm::Options options = {})
      : norm_(num_features, options) {}

  [[nodiscard]] Norm& norm() { return norm_; }

  /// t as Norm takes it.
  template <class Value>
  static auto view(Value* data, const Tensor<Scalar>& t) {
    using Plain = Eigen::Tensor<Scalar, Rank, Eigen::RowMajor>;
    using Mapped = std::conditional_t<std::is_const_v<Value>, const Plain, Plain>;
    Eigen::DSizes<Index, Rank> sizes;
    sizes.fill(1);
    std::copy_n(t.dimensions().begin(), std::min(Rank, 4), sizes.begin());
    return Eigen::TensorMap<Mapped>(data, sizes);
  }

  [[nodiscard]] Shape output_shape(const Shape& x) const override { return x; }

  void forward(const Tensor<Scalar>& x, Tensor<Scalar>& y) override {
    auto y_view = view(y.data(), y);
    norm_.forward(view(x.data(), x), y_view);
  }

  void backward(const Tensor<Scalar>& x, const Tensor<Scalar>& /*y*/, const Tensor<Scalar>& dy,
                Tensor<Scalar>* dx) override {
    Tensor<Scalar> unused;
    if (dx == nullptr) unused.resize(x.dimensions());
    Tensor<Scalar>& out = dx == nullptr ? unused : *dx;
    auto dx_view = view(out.data(), out);
    norm_.backward(view(x.data(), x), view(dy.data(), dy), dx_view);
  }

  [[nodiscard]] std::vector<Parameter<Scalar>> parameters() override {
    return {{norm_.gamma(), norm_.grad_gamma()}, {norm_.beta(), norm_.grad_beta()}};
  }

  void train(bool on) override { norm_.train(on); }

  void set_device(Device device) override {
    Layer<Scalar>::set_device(device);
    if (device == nullptr) {
      norm_.set_device(nullptr);
    } else {
      norm_.set_device(device);
    }
  }

 private:
  Norm norm_;
};

/// For fully connected layers: (N, C, 1, 1).
template <class Scalar>
using BatchNorm1d = BatchNorm<Scalar, batchnorm::BatchNorm1d<Scalar>, 2>;
/// For convolutions: (N, C, H, W).
template <class Scalar>
using BatchNorm2d = BatchNorm<Scalar, batchnorm::BatchNorm2d<Scalar>, 4>;
/// For volumes: (N, C, D, H * W).
template <class Scalar>
using BatchNorm3d = BatchNorm<Scalar, batchnorm::BatchNorm3d<Scalar>, 5>;

}  // namespace nn
