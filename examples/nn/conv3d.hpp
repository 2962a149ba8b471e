// SPDX-License-Identifier: MIT
// Convolution over volumes as a matrix product.
#pragma once

#include <stdexcept>
#include <string>
#include <vector>

#include "init.hpp"
#include "layer.hpp"

namespace nn {

/// Of a volume. A tensor holds volumes as (N, C, depth, height * width).
struct Extent {
  Index depth = 1;
  Index height = 1;
  Index width = 1;
};

struct Conv3dOptions {
  Index in_channels = 1;
  Index out_channels = 1;
  Index kernel = 3;  // depth, height and width
  Index padding = 1;
  Index stride = 1;
  Extent extent;  // of x
};

/// y(n) = W * columns(x(n)) + b, where columns() lays the in * kernel^3 values under each output
/// voxel in one column, as Conv2d does in the plane.
template <class Scalar>
class Conv3d final : public Layer<Scalar> {
 public:
  Conv3d(const Conv3dOptions& options, Random& random)
      : options_(options),
        out_{out_length(options.extent.depth), out_length(options.extent.height),
             out_length(options.extent.width)},
        weight_(options.out_channels, options.in_channels * kernel_volume()),
        grad_weight_(Matrix<Scalar>::Zero(weight_.rows(), weight_.cols())),
        bias_(Vector<Scalar>::Zero(options.out_channels)),
        grad_bias_(bias_) {
    if (out_.depth < 1 || out_.height < 1 || out_.width < 1) {
      throw std::invalid_argument("[Conv3d] expected volumes no smaller than the kernel");
    }
    xavier_uniform(weight_, weight_.cols(), options.out_channels * kernel_volume(), random);
  }

  /// Of y.
  [[nodiscard]] const Extent& out_extent() const { return out_; }

  [[nodiscard]] Shape output_shape(const Shape& x) const override {
    const Extent& in = options_.extent;
    if (x[1] != options_.in_channels || x[2] != in.depth || x[3] != in.height * in.width) {
      throw std::invalid_argument("[Conv3d] expected " + std::to_string(options_.in_channels) +
                                  " channels of " + std::to_string(in.depth) + " x " +
                                  std::to_string(in.height * in.width) + " voxels, got " +
                                  std::to_string(x[1]) + " of " + std::to_string(x[2]) + " x " +
                                  std::to_string(x[3]));
    }
    return Shape(x[0], options_.out_channels, out_.depth, out_.height * out_.width);
  }

  void forward(const Tensor<Scalar>& x, Tensor<Scalar>& y) override {
    for_each_slice(this->device(), x.dimension(0), [&](Index, Index begin, Index end) {
      Matrix<Scalar> columns(weight_.cols(), voxels());
      for (Index n = begin; n < end; ++n) {
        to_columns(x, n, columns);
        auto y_n = sample(y, n);
        y_n.noalias() = weight_ * columns;
        y_n.colwise() += bias_;
      }
    });
  }

  void backward(const Tensor<Scalar>& x, const Tensor<Scalar>& /*y*/, const Tensor<Scalar>& dy,
                Tensor<Scalar>* dx) override {
    slice_weight_.resize(kSlices);
    for_each_slice(this->device(), x.dimension(0), [&](Index slice, Index begin, Index end) {
      auto& dw = slice_weight_[static_cast<std::size_t>(slice)];
      dw.setZero(weight_.rows(), weight_.cols());
      Matrix<Scalar> columns(weight_.cols(), voxels());
      for (Index n = begin; n < end; ++n) {
        const auto dy_n = sample(dy, n);
        to_columns(x, n, columns);
        dw.noalias() += dy_n * columns.transpose();
        if (dx == nullptr) continue;
        columns.noalias() = weight_.transpose() * dy_n;
        from_columns(columns, n, *dx);
      }
    });
    for (const auto& dw : slice_weight_) grad_weight_ += dw;
    for (Index n = 0; n < dy.dimension(0); ++n) grad_bias_ += sample(dy, n).rowwise().sum();
  }

  [[nodiscard]] std::vector<Parameter<Scalar>> parameters() override {
    return {{weight_, grad_weight_}, {bias_, grad_bias_}};
  }

 private:
  [[nodiscard]] Index kernel_volume() const {
    return options_.kernel * options_.kernel * options_.kernel;
  }
  [[nodiscard]] Index out_length(Index in) const {
    const Index room = in + 2 * options_.padding - options_.kernel;
    return room < 0 ? 0 : room / options_.stride + 1;
  }
  [[nodiscard]] Index voxels() const { return out_.depth * out_.height * out_.width; }

  /// Calls visit(volume_index, column_index) for each element of columns; volume_index is -1 in
  /// the padding.
  template <class Visit>
  void for_each_element(const Visit& visit) const {
    const Extent& in = options_.extent;
    const Index k = options_.kernel, p = options_.padding, s = options_.stride;
    Index column = 0;
    for (Index c = 0; c < options_.in_channels; ++c) {
      for (Index kernel = 0; kernel < kernel_volume(); ++kernel) {
        const Index kd = kernel / (k * k) - p, ki = kernel / k % k - p, kj = kernel % k - p;
        for (Index d = kd; d < kd + s * out_.depth; d += s) {
          for (Index i = ki; i < ki + s * out_.height; i += s) {
            const bool inside = d >= 0 && d < in.depth && i >= 0 && i < in.height;
            const Index row = ((c * in.depth + d) * in.height + i) * in.width;
            for (Index j = kj; j < kj + s * out_.width; j += s, ++column) {
              visit(inside && j >= 0 && j < in.width ? row + j : -1, column);
            }
          }
        }
      }
    }
  }

  void to_columns(const Tensor<Scalar>& x, Index n, Matrix<Scalar>& columns) const {
    const Scalar* from = sample(x, n).data();
    for_each_element([from, to = columns.data()](Index volume, Index column) {
      to[column] = volume < 0 ? Scalar(0) : from[volume];
    });
  }

  /// The transpose of to_columns.
  void from_columns(const Matrix<Scalar>& columns, Index n, Tensor<Scalar>& dx) const {
    auto dx_n = sample(dx, n);
    dx_n.setZero();
    for_each_element([to = dx_n.data(), from = columns.data()](Index volume, Index column) {
      if (volume >= 0) to[volume] += from[column];
    });
  }

  Conv3dOptions options_;
  Extent out_;                                // of y
  Matrix<Scalar> weight_;                     // W, (out, in * kernel^3)
  Matrix<Scalar> grad_weight_;                // dW
  Vector<Scalar> bias_;                       // b, (out)
  Vector<Scalar> grad_bias_;                  // db
  std::vector<Matrix<Scalar>> slice_weight_;  // dW of each slice of the batch
};

}  // namespace nn
