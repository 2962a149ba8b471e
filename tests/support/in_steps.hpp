// SPDX-License-Identifier: MIT
// Batches in parts, and kinds of layers that take them.
#pragma once

#include <algorithm>
#include <vector>

#include "support/any_layer.hpp"
#include "support/catch.hpp"
#include "support/check_layer.hpp"

namespace testing {

/// Samples in parts of these sizes.
inline std::vector<Values> cut(const Values& v, const std::vector<Index>& sizes) {
  std::vector<Values> parts;
  auto from = v.data.begin();
  for (const Index size : sizes) {
    Values part(size, v.channels, v.spatial);
    std::copy_n(from, part.size(), part.data.begin());
    from += part.size();
    parts.push_back(part);
  }
  REQUIRE(from == v.data.end());
  return parts;
}
inline Values join(const std::vector<Values>& parts) {
  Values v(0, parts.front().channels, parts.front().spatial);
  for (const Values& part : parts) {
    v.samples += part.samples;
    v.data.insert(v.data.end(), part.data.begin(), part.data.end());
  }
  return v;
}

inline Eigen::MatrixXd random_matrix(Index rows, Index cols, std::uint64_t seed) {
  Eigen::MatrixXd x(rows, cols);
  Random(seed).fill(x, 1, 2);
  return x;
}

/// `Made` is a LayerOfForm whose forward and backward are made in another way.
template <template <class> class Made, class Form>
void add_kind(std::vector<Kind>& kinds, const char* scalar, double unit, double small) {
  kinds.push_back(kind_of<Form, Made<Form>>(scalar, unit, small));
}
/// Kinds of some scalars, ranks and orders.
template <template <class> class Made>
std::vector<Kind> some_kinds() {
  using Eigen::bfloat16, Eigen::half, Eigen::RowMajor, Eigen::ColMajor;
  std::vector<Kind> kinds;
  add_kind<Made, TensorForm<float, 4, RowMajor>>(kinds, "float", 0, 0);
  add_kind<Made, TensorForm<float, 4, ColMajor>>(kinds, "float", 0, 0);
  add_kind<Made, MatrixForm<float, ColMajor>>(kinds, "float", 0, 0);
  add_kind<Made, MatrixForm<double, RowMajor>>(kinds, "double", 0, 0);
  add_kind<Made, TensorForm<double, 3, ColMajor>>(kinds, "double", 0, 0);
  add_kind<Made, TensorForm<double, 5, RowMajor>>(kinds, "double", 0, 0);
  add_kind<Made, TensorForm<half, 4, RowMajor>>(kinds, "half", 0x1p-11, 0x1p-25);
  add_kind<Made, TensorForm<bfloat16, 2, ColMajor>>(kinds, "bfloat16", 0x1p-8, 0x1p-134);
  return kinds;
}

/// Calls f(kind, x, dy, options, training) for these kinds, with the channels first and last and in
/// both modes. x and dy are 10 samples of 5 channels.
template <template <class> class Made, class F>
void for_some_kinds(const F& f) {
  for (const Kind& kind : some_kinds<Made>()) {
    const Values x = random_values(10, 5, small_spatial(kind.rank), 1);
    const Values dy = random_values(10, 5, small_spatial(kind.rank), 2);
    for_axes_and_modes([&](const batchnorm::Options& options, bool training) {
      INFO(kind.name);
      f(kind, x, dy, options, training);
    });
  }
}

}  // namespace testing
