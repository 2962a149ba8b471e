// SPDX-License-Identifier: MIT
// Batches in parts, and layers of any kind compared with the reference layer.
#pragma once

#include <algorithm>
#include <vector>

#include "support/any_layer.hpp"
#include "support/catch.hpp"
#include "support/compare.hpp"

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

/// A kind of layer for each of a choice of scalars, ranks and orders.
/// `Made` is a LayerOfForm whose forward and backward are made in another way.
template <template <class> class Made, class Form>
void add_kind(std::vector<Kind>& kinds, const char* scalar, double unit, double small) {
  Kind kind = kind_of<Form>(scalar, unit, small);
  kind.layer = [](Index channels, const batchnorm::Options& options) -> std::unique_ptr<AnyLayer> {
    return std::make_unique<Made<Form>>(channels, options);
  };
  kinds.push_back(std::move(kind));
}
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

/// A forward and a backward, from random parameters and gradients on, against the reference layer.
inline void check_by_reference(const Kind& kind, const batchnorm::Options& options, bool training,
                               const Values& any_x, const Values& any_dy) {
  const Values x = kind.rounded(any_x), dy = kind.rounded(any_dy);
  const auto layer = kind.layer(x.channels, options);
  Random random(99);
  randomize(*layer, random);
  layer->train(training);
  ReferenceLayer reference(x.channels, options);
  copy_state(layer->state(), reference);
  reference.training = training;

  const Values y = layer->forward(x);
  const Values expected_y = reference.forward(x);
  CHECK(error_of_y(kind, reference, x, y, expected_y) <= 1);
  CHECK(error_of_statistics(kind, reference, layer->state()) <= 1);
  CHECK(layer->state().counter == reference.counter);
  const Values dx = layer->backward(x, dy);
  const Values expected_dx = reference.backward(x, dy);
  const auto errors = errors_of_gradients(kind, reference, x, dy, dx, expected_dx, layer->state());
  CHECK(errors.dx <= 1);
  CHECK(errors.dgamma <= 1);
  CHECK(errors.dbeta <= 1);
}

}  // namespace testing
