// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>

#include "layer.hpp"

namespace nn {

/// The defaults are those of Krizhevsky, Sutskever and Hinton, 2012.
struct LocalResponseNormOptions {
  Index window = 5;  // channels, the one in its middle among them
  double k = 2.0;
  double alpha = 1e-4;
  double beta = 0.75;
};

/// Divides each channel by what its neighbours do, at each pixel:
///   d_c = k + alpha * sum of x_j^2 over |j - c| <= window / 2        y_c = x_c * d_c^-beta
///   dx_c = dy_c * d_c^-beta - 2 * alpha * beta * x_c * sum of dy_j * y_j / d_j over the same j
template <class Scalar>
class LocalResponseNorm final : public Layer<Scalar> {
 public:
  explicit LocalResponseNorm(const LocalResponseNormOptions& options = {}) : options_(options) {}

  [[nodiscard]] Shape output_shape(const Shape& x) const override { return x; }

  void forward(const Tensor<Scalar>& x, Tensor<Scalar>& y) override {
    const auto beta = static_cast<Scalar>(options_.beta);
    for_each_slice(this->device(), x.dimension(0), [&](Index, Index begin, Index end) {
      for (Index n = begin; n < end; ++n) {
        sample(y, n) = sample(x, n).array() * divisor(sample(x, n)).pow(-beta);
      }
    });
  }

  void backward(const Tensor<Scalar>& x, const Tensor<Scalar>& y, const Tensor<Scalar>& dy,
                Tensor<Scalar>* dx) override {
    if (dx == nullptr) return;
    const auto beta = static_cast<Scalar>(options_.beta);
    const auto factor = static_cast<Scalar>(2.0 * options_.alpha * options_.beta);
    for_each_slice(this->device(), x.dimension(0), [&](Index, Index begin, Index end) {
      for (Index n = begin; n < end; ++n) {
        const auto x_n = sample(x, n).array();
        const auto dy_n = sample(dy, n).array();
        const Array d = divisor(sample(x, n));
        const Array through_d = window_sum(dy_n * sample(y, n).array() / d);
        sample(*dx, n) = dy_n * d.pow(-beta) - factor * x_n * through_d;
      }
    });
  }

 private:
  using Array = Eigen::Array<Scalar, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

  /// Row c of the result sums the rows of values from c - window / 2 to c + window / 2.
  [[nodiscard]] Array window_sum(const Array& values) const {
    const Index half = options_.window / 2;
    Array sums(values.rows(), values.cols());
    for (Index c = 0; c < values.rows(); ++c) {
      const Index first = std::max<Index>(0, c - half);
      const Index last = std::min(values.rows() - 1, c + half);
      sums.row(c) = values.middleRows(first, last - first + 1).colwise().sum();
    }
    return sums;
  }

  /// d of one sample (channels, pixels).
  [[nodiscard]] Array divisor(const ConstMatrixMap<Scalar>& x) const {
    return static_cast<Scalar>(options_.k) +
           static_cast<Scalar>(options_.alpha) * window_sum(x.array().square());
  }

  LocalResponseNormOptions options_;
};

}  // namespace nn
