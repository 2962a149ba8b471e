// SPDX-License-Identifier: MIT
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "tensor.hpp"

namespace nn {

struct LossResult {
  double loss = 0.0;  // mean over the batch
  Index correct = 0;  // samples whose largest logit is their label's
};

/// Softmax cross entropy of logits (N, classes, 1, 1) against labels in [0, classes).
///   p = exp(z) / sum exp(z)     loss = mean over samples of -log p[label]
///   dz = (p - one_hot(label)) / N
/// Writes dz unless it is nullptr.
template <class Scalar>
LossResult softmax_cross_entropy(const Tensor<Scalar>& logits,
                                 const std::vector<std::uint8_t>& labels, Tensor<Scalar>* dlogits) {
  const Index count = logits.dimension(0);
  if (dlogits != nullptr) dlogits->resize(logits.dimensions());
  const auto z = rows(logits, 0, count);
  Eigen::Array<Scalar, 1, Eigen::Dynamic> p(z.cols());
  LossResult result;
  for (Index n = 0; n < count; ++n) {
    const Index label = labels[static_cast<std::size_t>(n)];
    Index best = 0;
    const Scalar top = z.row(n).maxCoeff(&best);
    p = (z.row(n).array() - top).exp();  // shifted by the largest, so that none overflows
    const Scalar sum = p.sum();
    result.loss += std::log(static_cast<double>(sum)) - static_cast<double>(z(n, label) - top);
    result.correct += best == label ? 1 : 0;
    if (dlogits == nullptr) continue;
    auto dz = rows(*dlogits, n, n + 1);
    dz = p / (sum * static_cast<Scalar>(count));
    dz(0, label) -= Scalar(1) / static_cast<Scalar>(count);
  }
  result.loss /= static_cast<double>(count);
  return result;
}

}  // namespace nn
