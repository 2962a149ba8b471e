// SPDX-License-Identifier: MIT
// Convolution as a matrix product.
#pragma once

#include <algorithm>
#include <stdexcept>
#include <string>
#include <vector>

#include "init.hpp"
#include "layer.hpp"

namespace nn {

struct Conv2dOptions {
  Index in_channels = 1;
  Index out_channels = 1;
  Index kernel = 3;  // height and width
  Index padding = 0;
  bool bias = true;
};

/// y(n) = W * columns(x(n)) + b with stride 1. columns() (im2col) lays the kernel * kernel * in
/// values under each output pixel in one column, so W is (out, in * kernel * kernel), y(n) comes
/// out as (out, pixels), and both lie in memory as the tensor needs them. The columns of one
/// sample stay in the cache: they are made again in backward rather than kept.
template <class Scalar>
class Conv2d final : public Layer<Scalar> {
 public:
  Conv2d(const Conv2dOptions& options, Random& random)
      : options_(options),
        weight_(options.out_channels, fan_in()),
        grad_weight_(Matrix<Scalar>::Zero(options.out_channels, fan_in())),
        bias_(Vector<Scalar>::Zero(options.bias ? options.out_channels : 0)),
        grad_bias_(bias_) {
    xavier_uniform(weight_, fan_in(), options.out_channels * options.kernel * options.kernel,
                   random);
  }

  [[nodiscard]] Shape output_shape(const Shape& x) const override {
    const Index shrink = options_.kernel - 1 - 2 * options_.padding;
    if (x[1] != options_.in_channels || x[2] <= shrink || x[3] <= shrink) {
      throw std::invalid_argument("[Conv2d] expected " + std::to_string(options_.in_channels) +
                                  " channels of more than " + std::to_string(shrink) +
                                  " rows and columns, got " + std::to_string(x[1]) + " of " +
                                  std::to_string(x[2]) + " x " + std::to_string(x[3]));
    }
    return Shape(x[0], options_.out_channels, x[2] - shrink, x[3] - shrink);
  }

  void forward(const Tensor<Scalar>& x, Tensor<Scalar>& y) override {
    for_each_slice(this->device(), x.dimension(0), [&](Index, Index begin, Index end) {
      auto columns = workspace(y);
      for (Index n = begin; n < end; ++n) {
        to_columns(x, y, n, columns);
        auto y_n = sample(y, n);
        y_n.noalias() = weight_ * columns;
        if (options_.bias) y_n.colwise() += bias_;
      }
    });
  }

  void backward(const Tensor<Scalar>& x, const Tensor<Scalar>& y, const Tensor<Scalar>& dy,
                Tensor<Scalar>* dx) override {
    slice_weight_.resize(kSlices);
    slice_bias_.resize(kSlices);
    for_each_slice(this->device(), x.dimension(0), [&](Index slice, Index begin, Index end) {
      auto& dw = slice_weight_[static_cast<std::size_t>(slice)];
      auto& db = slice_bias_[static_cast<std::size_t>(slice)];
      dw.setZero(weight_.rows(), weight_.cols());
      db.setZero(bias_.size());
      auto columns = workspace(y);
      for (Index n = begin; n < end; ++n) {
        const auto dy_n = sample(dy, n);
        to_columns(x, y, n, columns);
        dw.noalias() += dy_n * columns.transpose();
        if (options_.bias) db += dy_n.rowwise().sum();
        if (dx == nullptr) continue;
        columns.noalias() = weight_.transpose() * dy_n;
        from_columns(columns, y, n, *dx);
      }
    });
    for (const auto& dw : slice_weight_) grad_weight_ += dw;
    for (const auto& db : slice_bias_) grad_bias_ += db;
  }

  [[nodiscard]] std::vector<Parameter<Scalar>> parameters() override {
    std::vector<Parameter<Scalar>> all{{weight_, grad_weight_}};
    if (options_.bias) all.push_back({bias_, grad_bias_});
    return all;
  }

 private:
  [[nodiscard]] Index fan_in() const {
    return options_.in_channels * options_.kernel * options_.kernel;
  }

  /// Room for the columns of one sample, one for each thread.
  [[nodiscard]] MatrixMap<Scalar> workspace(const Tensor<Scalar>& y) const {
    thread_local std::vector<Scalar> memory;
    const Index pixels = y.dimension(2) * y.dimension(3);
    const auto size = static_cast<std::size_t>(fan_in() * pixels);
    if (memory.size() < size) memory.resize(size);
    return {memory.data(), fan_in(), pixels};
  }

  /// Calls run(image_row, column_row, j0, j1) for the pixels j0 <= j < j1 of each output row that
  /// a kernel element finds inside the image: there column_row[j] belongs to image_row[j].
  /// Rows that lie in the padding come as an empty run, with image_row nullptr.
  template <class Pixel, class Run>
  void for_each_run(Pixel* image, Index height, Index width, Scalar* columns, Index out_height,
                    Index out_width, const Run& run) const {
    const Index kernel = options_.kernel;
    const Index padding = options_.padding;
    for (Index c = 0; c < options_.in_channels; ++c, image += height * width) {
      for (Index ki = 0; ki < kernel; ++ki) {
        for (Index kj = 0; kj < kernel; ++kj) {
          const Index shift = kj - padding;
          const Index j0 = std::clamp<Index>(-shift, 0, out_width);
          const Index j1 = std::clamp<Index>(width - shift, j0, out_width);
          for (Index i = ki - padding; i < ki - padding + out_height; ++i, columns += out_width) {
            const bool inside = i >= 0 && i < height;
            run(inside ? image + i * width + shift : nullptr, columns, j0, inside ? j1 : j0);
          }
        }
      }
    }
  }

  /// columns((c, ki, kj), (i, j)) = x(n, c, i + ki - padding, j + kj - padding), 0 outside.
  void to_columns(const Tensor<Scalar>& x, const Tensor<Scalar>& y, Index n,
                  MatrixMap<Scalar>& columns) const {
    const Index out_width = y.dimension(3);
    for_each_run(sample(x, n).data(), x.dimension(2), x.dimension(3), columns.data(),
                 y.dimension(2), out_width,
                 [out_width](const Scalar* image, Scalar* column, Index j0, Index j1) {
                   for (Index j = 0; j < j0; ++j) column[j] = Scalar(0);
                   for (Index j = j0; j < j1; ++j) column[j] = image[j];
                   for (Index j = j1; j < out_width; ++j) column[j] = Scalar(0);
                 });
  }

  /// The transpose of to_columns: each pixel of dx(n) sums what its copies received.
  void from_columns(MatrixMap<Scalar>& columns, const Tensor<Scalar>& y, Index n,
                    Tensor<Scalar>& dx) const {
    auto dx_n = sample(dx, n);
    dx_n.setZero();
    for_each_run(dx_n.data(), dx.dimension(2), dx.dimension(3), columns.data(), y.dimension(2),
                 y.dimension(3), [](Scalar* image, const Scalar* column, Index j0, Index j1) {
                   for (Index j = j0; j < j1; ++j) image[j] += column[j];
                 });
  }

  Conv2dOptions options_;
  Matrix<Scalar> weight_;                     // W, (out, in * kernel * kernel)
  Matrix<Scalar> grad_weight_;                // dW
  Vector<Scalar> bias_;                       // b, (out), or empty
  Vector<Scalar> grad_bias_;                  // db
  std::vector<Matrix<Scalar>> slice_weight_;  // dW of each slice of the batch
  std::vector<Vector<Scalar>> slice_bias_;    // db of each slice
};

}  // namespace nn
