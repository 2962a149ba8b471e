// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <type_traits>

#include "batchnorm/detail/arguments.hpp"

namespace batchnorm::detail {

/// Calls f(index, element) for every element of a matrix or tensor, whatever its storage order. The
/// last axis varies fastest. It is slow, and meant for weights.
template <class X, class F>
void for_each_element(X& x, const F& f) {
  using Plain = std::remove_const_t<X>;
  const Shape shape = shape_of(x);
  std::array<Index, static_cast<std::size_t>(Argument<Plain>::rank)> i{};
  for (Index left = x.size(); left > 0; --left) {
    if constexpr (is_matrix<Plain>) {
      f(i, x(i[0], i[1]));
    } else {
      std::array<typename Argument<Plain>::Traits::Index, i.size()> at{};
      std::copy(i.begin(), i.end(), at.begin());
      f(i, x(at));
    }
    for (std::size_t d = i.size(); d > 0 && ++i[d - 1] == shape.extents[d - 1]; --d) i[d - 1] = 0;
  }
}

}  // namespace batchnorm::detail
