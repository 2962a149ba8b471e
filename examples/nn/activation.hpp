// SPDX-License-Identifier: MIT
// Functions of one number. Their derivatives need y alone.
#pragma once

#include "layer.hpp"

namespace nn {

struct SigmoidFunction {
  template <class Array>
  static auto value(const Array& x) {
    return x.logistic();
  }
  template <class Array>
  static auto gradient(const Array& y, const Array& dy) {
    return dy * y * (1 - y);
  }
};

struct ReluFunction {
  template <class Array>
  static auto value(const Array& x) {
    return x.max(typename Array::Scalar(0));
  }
  template <class Array>
  static auto gradient(const Array& y, const Array& dy) {
    return (y > typename Array::Scalar(0)).select(dy, typename Array::Scalar(0));
  }
};

template <class Scalar, class Function>
class Activation final : public Layer<Scalar> {
 public:
  [[nodiscard]] Shape output_shape(const Shape& x) const override { return x; }

  void forward(const Tensor<Scalar>& x, Tensor<Scalar>& y) override {
    for_each_slice(this->device(), x.size(), [&](Index, Index begin, Index end) {
      out(y, begin, end) = Function::value(in(x, begin, end));
    });
  }

  void backward(const Tensor<Scalar>& /*x*/, const Tensor<Scalar>& y, const Tensor<Scalar>& dy,
                Tensor<Scalar>* dx) override {
    if (dx == nullptr) return;
    for_each_slice(this->device(), y.size(), [&](Index, Index begin, Index end) {
      out(*dx, begin, end) = Function::gradient(in(y, begin, end), in(dy, begin, end));
    });
  }

 private:
  using Array = Eigen::Array<Scalar, Eigen::Dynamic, 1>;

  static Eigen::Map<Array> out(Tensor<Scalar>& t, Index begin, Index end) {
    return {t.data() + begin, end - begin};
  }
  static Eigen::Map<const Array> in(const Tensor<Scalar>& t, Index begin, Index end) {
    return {t.data() + begin, end - begin};
  }
};

template <class Scalar>
using Sigmoid = Activation<Scalar, SigmoidFunction>;
template <class Scalar>
using Relu = Activation<Scalar, ReluFunction>;

}  // namespace nn
