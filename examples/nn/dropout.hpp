// SPDX-License-Identifier: MIT
#pragma once

#include <stdexcept>
#include <string>

#include "layer.hpp"
#include "random.hpp"

namespace nn {

/// In training y = x * mask with a mask that is 0 with probability p, else 1 / (1 - p), so that
/// the mean stays; in eval mode y = x. Srivastava et al., 2014.
template <class Scalar>
class Dropout final : public Layer<Scalar> {
 public:
  Dropout(double p, Random& random) : p_(p), random_(random.next()) {
    if (!(p >= 0.0 && p < 1.0)) {
      throw std::invalid_argument("[Dropout] expected a probability in [0, 1), got " +
                                  std::to_string(p));
    }
  }

  [[nodiscard]] Shape output_shape(const Shape& x) const override { return x; }

  void forward(const Tensor<Scalar>& x, Tensor<Scalar>& y) override {
    mask_.resize(x.size());
    if (training_) {
      const auto kept = static_cast<Scalar>(1.0 / (1.0 - p_));
      for (Scalar& m : mask_) m = random_.uniform(0.0, 1.0) < p_ ? Scalar(0) : kept;
    } else {
      mask_.setOnes();
    }
    flat(y) = flat(x).cwiseProduct(mask_);
  }

  void backward(const Tensor<Scalar>& /*x*/, const Tensor<Scalar>& /*y*/, const Tensor<Scalar>& dy,
                Tensor<Scalar>* dx) override {
    if (dx != nullptr) flat(*dx) = flat(dy).cwiseProduct(mask_);
  }

  void train(bool on) override { training_ = on; }

 private:
  static Eigen::Map<Vector<Scalar>> flat(Tensor<Scalar>& t) { return {t.data(), t.size()}; }
  static Eigen::Map<const Vector<Scalar>> flat(const Tensor<Scalar>& t) {
    return {t.data(), t.size()};
  }

  double p_;
  Random random_;
  bool training_ = true;
  Vector<Scalar> mask_;  // of the last forward
};

}  // namespace nn
