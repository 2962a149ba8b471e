// SPDX-License-Identifier: MIT
#pragma once

#include <Eigen/Core>

#include "batchnorm/detail/view.hpp"

namespace batchnorm::detail {

/// The values of channel c as doubles: value (o, i) becomes element o * inner + i of the array.
[[nodiscard]] inline Eigen::ArrayXd read_channel(const View& v, Index c) {
  Eigen::ArrayXd values(v.count());
  const bool is_column = v.inner == 1;
  const Index runs = is_column ? 1 : v.outer, length = is_column ? v.outer : v.inner;
  const Index step = is_column ? v.outer_stride : v.inner_stride;
  for (Index o = 0; o < runs; ++o)
    v.elements->read(v.at(o, c, 0), length, step, values.data() + o * length);
  return values;
}
/// Writes them, rounded to A and then to the type of the elements.
template <class A>
void write_channel(const View& v, Index c, const Eigen::ArrayXd& values) {
  for (Index o = 0; o < v.outer; ++o) {
    for (Index i = 0; i < v.inner; ++i)
      v.elements->write(v.at(o, c, i), static_cast<double>(narrow<A>(values[o * v.inner + i])));
  }
}

}  // namespace batchnorm::detail
