// SPDX-License-Identifier: MIT
#pragma once

#include <stdexcept>
#include <string>
#include <vector>

#include "init.hpp"
#include "layer.hpp"

namespace nn {

/// y = x * W^T + b over the samples as rows; (N, C, H, W) is taken as (N, C * H * W).
template <class Scalar>
class Linear final : public Layer<Scalar> {
 public:
  Linear(Index in_features, Index out_features, bool bias, Random& random)
      : weight_(out_features, in_features),
        grad_weight_(Matrix<Scalar>::Zero(out_features, in_features)),
        bias_(Vector<Scalar>::Zero(bias ? out_features : 0)),
        grad_bias_(bias_) {
    xavier_uniform(weight_, in_features, out_features, random);
  }

  [[nodiscard]] Shape output_shape(const Shape& x) const override {
    if (x[1] * x[2] * x[3] != weight_.cols()) {
      throw std::invalid_argument("[Linear] expected " + std::to_string(weight_.cols()) +
                                  " features, got " + std::to_string(x[1] * x[2] * x[3]));
    }
    return Shape(x[0], weight_.rows(), 1, 1);
  }

  void forward(const Tensor<Scalar>& x, Tensor<Scalar>& y) override {
    for_each_slice(this->device(), x.dimension(0), [&](Index, Index begin, Index end) {
      auto y_rows = rows(y, begin, end);
      y_rows.noalias() = rows(x, begin, end) * weight_.transpose();
      if (bias_.size() != 0) y_rows.rowwise() += bias_.transpose();
    });
  }

  void backward(const Tensor<Scalar>& x, const Tensor<Scalar>& /*y*/, const Tensor<Scalar>& dy,
                Tensor<Scalar>* dx) override {
    slice_weight_.resize(kSlices);
    for_each_slice(this->device(), x.dimension(0), [&](Index slice, Index begin, Index end) {
      const auto dy_rows = rows(dy, begin, end);
      auto& dw = slice_weight_[static_cast<std::size_t>(slice)];
      dw.resize(weight_.rows(), weight_.cols());
      dw.noalias() = dy_rows.transpose() * rows(x, begin, end);
      if (dx != nullptr) rows(*dx, begin, end).noalias() = dy_rows * weight_;
    });
    for (const auto& dw : slice_weight_) grad_weight_ += dw;
    if (bias_.size() != 0) grad_bias_ += rows(dy, 0, dy.dimension(0)).colwise().sum();
  }

  [[nodiscard]] std::vector<Parameter<Scalar>> parameters() override {
    std::vector<Parameter<Scalar>> all{{weight_, grad_weight_}};
    if (bias_.size() != 0) all.push_back({bias_, grad_bias_});
    return all;
  }

 private:
  Matrix<Scalar> weight_;                     // W, (out, in)
  Matrix<Scalar> grad_weight_;                // dW
  Vector<Scalar> bias_;                       // b, (out), or empty
  Vector<Scalar> grad_bias_;                  // db
  std::vector<Matrix<Scalar>> slice_weight_;  // dW of each slice of the batch
};

}  // namespace nn
