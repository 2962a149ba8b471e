// SPDX-License-Identifier: MIT
// The values between two layers: one row-major (N, C, H, W) tensor, whatever the layer.
// Fully connected layers see it as the matrix (N, C * H * W) that it is in memory.
#pragma once

#include <Eigen/Core>
#include <array>
#include <unsupported/Eigen/CXX11/Tensor>

namespace nn {

using Eigen::Index;

template <class Scalar>
using Tensor = Eigen::Tensor<Scalar, 4, Eigen::RowMajor>;

using Shape = Eigen::DSizes<Index, 4>;  // N, C, H, W

template <class Scalar>
using Matrix = Eigen::Matrix<Scalar, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
template <class Scalar>
using Vector = Eigen::Matrix<Scalar, Eigen::Dynamic, 1>;

template <class Scalar>
using MatrixMap = Eigen::Map<Matrix<Scalar>>;
template <class Scalar>
using ConstMatrixMap = Eigen::Map<const Matrix<Scalar>>;

/// Numbers in one sample.
template <class Scalar>
[[nodiscard]] Index sample_size(const Tensor<Scalar>& t) {
  return t.dimension(1) * t.dimension(2) * t.dimension(3);
}

/// Samples [begin, end) of t, one a row.
template <class Scalar>
[[nodiscard]] MatrixMap<Scalar> rows(Tensor<Scalar>& t, Index begin, Index end) {
  return {t.data() + begin * sample_size(t), end - begin, sample_size(t)};
}
template <class Scalar>
[[nodiscard]] ConstMatrixMap<Scalar> rows(const Tensor<Scalar>& t, Index begin, Index end) {
  return {t.data() + begin * sample_size(t), end - begin, sample_size(t)};
}

/// Sample n of t as (channels, height * width).
template <class Scalar>
[[nodiscard]] MatrixMap<Scalar> sample(Tensor<Scalar>& t, Index n) {
  return {t.data() + n * sample_size(t), t.dimension(1), t.dimension(2) * t.dimension(3)};
}
template <class Scalar>
[[nodiscard]] ConstMatrixMap<Scalar> sample(const Tensor<Scalar>& t, Index n) {
  return {t.data() + n * sample_size(t), t.dimension(1), t.dimension(2) * t.dimension(3)};
}

}  // namespace nn
