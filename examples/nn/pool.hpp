// SPDX-License-Identifier: MIT
// Pooling over 2 x 2 windows, stride 2; an odd last row or column is left out, as in PyTorch.
#pragma once

#include <algorithm>
#include <stdexcept>
#include <string>

#include "layer.hpp"

namespace nn {

struct Average {
  template <class Scalar>
  static Scalar pool(Scalar a, Scalar b, Scalar c, Scalar d) {
    return ((a + b) + (c + d)) * Scalar(0.25);
  }
  /// dx of the window whose values are x[0..3], whose pooled value is y.
  template <class Scalar>
  static void spread(const Scalar (&)[4], Scalar, Scalar dy, Scalar (&dx)[4]) {
    for (Scalar& d : dx) d = dy * Scalar(0.25);
  }
};

struct Max {
  template <class Scalar>
  static Scalar pool(Scalar a, Scalar b, Scalar c, Scalar d) {
    return std::max(std::max(a, b), std::max(c, d));
  }
  /// The first of the largest takes it all.
  template <class Scalar>
  static void spread(const Scalar (&x)[4], Scalar y, Scalar dy, Scalar (&dx)[4]) {
    const bool is0 = x[0] == y;
    const bool is1 = !is0 && x[1] == y;
    const bool is2 = !is0 && !is1 && x[2] == y;
    const bool is3 = !is0 && !is1 && !is2 && x[3] == y;
    dx[0] = is0 ? dy : Scalar(0);
    dx[1] = is1 ? dy : Scalar(0);
    dx[2] = is2 ? dy : Scalar(0);
    dx[3] = is3 ? dy : Scalar(0);
  }
};

template <class Scalar, class Kind>
class Pool2d final : public Layer<Scalar> {
 public:
  [[nodiscard]] Shape output_shape(const Shape& x) const override {
    if (x[2] < 2 || x[3] < 2) {
      throw std::invalid_argument("[Pool2d] expected at least 2 x 2 pixels, got " +
                                  std::to_string(x[2]) + " x " + std::to_string(x[3]));
    }
    return Shape(x[0], x[1], x[2] / 2, x[3] / 2);
  }

  void forward(const Tensor<Scalar>& x, Tensor<Scalar>& y) override {
    const Index width = x.dimension(3);
    const Index out_width = y.dimension(3);
    for_each_row(x, y, [&](Index top, Index out) {
      const Scalar* upper = x.data() + top;
      const Scalar* lower = upper + width;
      Scalar* y_row = y.data() + out;
      for (Index j = 0; j < out_width; ++j) {
        y_row[j] = Kind::pool(upper[2 * j], upper[2 * j + 1], lower[2 * j], lower[2 * j + 1]);
      }
    });
  }

  void backward(const Tensor<Scalar>& x, const Tensor<Scalar>& y, const Tensor<Scalar>& dy,
                Tensor<Scalar>* dx) override {
    if (dx == nullptr) return;
    const Index width = x.dimension(3);
    const Index out_width = y.dimension(3);
    if (x.dimension(2) % 2 != 0 || width % 2 != 0) dx->setZero();
    for_each_row(x, y, [&](Index top, Index out) {
      const Scalar* upper = x.data() + top;
      const Scalar* lower = upper + width;
      Scalar* dx_upper = dx->data() + top;
      Scalar* dx_lower = dx_upper + width;
      for (Index j = 0; j < out_width; ++j) {
        const Scalar window[4] = {upper[2 * j], upper[2 * j + 1], lower[2 * j], lower[2 * j + 1]};
        Scalar d[4];
        Kind::spread(window, y.data()[out + j], dy.data()[out + j], d);
        dx_upper[2 * j] = d[0];
        dx_upper[2 * j + 1] = d[1];
        dx_lower[2 * j] = d[2];
        dx_lower[2 * j + 1] = d[3];
      }
    });
  }

 private:
  /// Calls row(top, out) for each row of y: offsets of its two rows of x and of itself.
  template <class Row>
  void for_each_row(const Tensor<Scalar>& x, const Tensor<Scalar>& y, const Row& row) const {
    const Index height = x.dimension(2), width = x.dimension(3);
    const Index out_height = y.dimension(2), out_width = y.dimension(3);
    for_each_slice(
        this->device(), x.dimension(0) * x.dimension(1), [&](Index, Index begin, Index end) {
          for (Index plane = begin; plane < end; ++plane) {
            for (Index i = 0; i < out_height; ++i) {
              row((plane * height + 2 * i) * width, (plane * out_height + i) * out_width);
            }
          }
        });
  }
};

template <class Scalar>
using AvgPool2d = Pool2d<Scalar, Average>;
template <class Scalar>
using MaxPool2d = Pool2d<Scalar, Max>;

}  // namespace nn
