// SPDX-License-Identifier: MIT
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "batchnorm/detail/arguments.hpp"
#include "batchnorm/safetensors/format.hpp"

// Elements in memory, of any storage order and strides, as the bytes of a file.
namespace batchnorm::detail {

/// Where the elements of a tensor lie. Element (i, j, ...) is strides[0] * i + strides[1] * j + ...
/// elements after `data`. Axes that lie densely one after the other may be merged into one.
struct ElementsInMemory {
  const char* data = nullptr;
  std::size_t bytes = 1;  ///< of an element: 1, 2, 4 or 8
  std::vector<Eigen::Index> extents, strides;

  [[nodiscard]] std::uint64_t size_in_bytes() const {
    std::uint64_t count = bytes;
    for (const Eigen::Index extent : extents) count *= static_cast<std::uint64_t>(extent);
    return count;
  }
};

/// The shape of a tensor in a file. A vector has one axis.
template <class X>
[[nodiscard]] std::vector<Eigen::Index> file_shape(const X& x) {
  if constexpr (is_matrix<X>) {
    if constexpr (X::IsVectorAtCompileTime) return {x.size()};
    return {x.rows(), x.cols()};
  } else if constexpr (Argument<X>::rank == 0) {
    return {};
  } else {
    const Eigen::DSizes<Eigen::Index, Argument<X>::rank> sizes(x.dimensions());
    return {sizes.begin(), sizes.end()};
  }
}

/// Where the elements of a matrix or tensor lie that is no expression.
template <class X>
[[nodiscard]] ElementsInMemory in_memory(const X& x) {
  ElementsInMemory e;
  e.data = reinterpret_cast<const char*>(x.data());
  e.bytes = sizeof(typename Argument<X>::Scalar);
  if constexpr (is_matrix<X>) {
    e.extents = {x.rows(), x.cols()};
    e.strides = {x.rowStride(), x.colStride()};
  } else if constexpr (Argument<X>::order == Eigen::RowMajor) {
    e.extents = {x.size()};
    e.strides = {1};
  } else {
    e.extents = file_shape(x);
    Eigen::Index stride = 1;
    for (const Eigen::Index extent : e.extents) {
      e.strides.push_back(stride);
      stride *= extent;
    }
  }
  return e;
}

/// Calls f(first element, its number of elements, bytes from one to the next) for every run along
/// the last axis, in row-major order.
template <class F>
void for_each_run(const ElementsInMemory& e, const F& f) {
  if (e.size_in_bytes() == 0) return;
  const std::size_t axes = e.extents.size();
  const auto bytes = static_cast<std::ptrdiff_t>(e.bytes);
  const std::ptrdiff_t length = axes == 0 ? 1 : e.extents[axes - 1];
  const std::ptrdiff_t step = axes == 0 ? bytes : e.strides[axes - 1] * bytes;
  std::vector<Eigen::Index> i(axes, 0);
  std::ptrdiff_t runs = static_cast<std::ptrdiff_t>(e.size_in_bytes()) / bytes / length;
  for (const char* from = e.data; runs > 0; --runs) {
    f(from, length, step);
    std::size_t d = (std::max)(axes, std::size_t{1}) - 1;
    while (runs > 1) {  // one of the axes has a next element
      from += e.strides[--d] * bytes;
      if (++i[d] < e.extents[d]) break;
      from -= e.strides[d] * bytes * e.extents[d];
      i[d] = 0;
    }
  }
}

/// Calls put(bytes, count) for pieces of the file's bytes: little-endian, the last axis fastest.
template <class Bits, class Put>
void put_elements(const ElementsInMemory& e, const Put& put) {
  std::vector<char> piece(piece_bytes);
  std::size_t used = 0;
  for_each_run(e, [&](const char* from, std::ptrdiff_t length, std::ptrdiff_t step) {
    for (std::ptrdiff_t k = 0; k < length; ++k) {
      if (used == piece.size()) {
        put(piece.data(), used);
        used = 0;
      }
      Bits bits;
      std::memcpy(&bits, from + k * step, sizeof bits);
      put_bytes(bits, &piece[used]);
      used += sizeof bits;
    }
  });
  put(piece.data(), used);
}
template <class Put>
void put_elements(const ElementsInMemory& e, const Put& put) {
  if (e.bytes == 8) return put_elements<std::uint64_t>(e, put);
  if (e.bytes == 4) return put_elements<std::uint32_t>(e, put);
  if (e.bytes == 2) return put_elements<std::uint16_t>(e, put);
  put_elements<std::uint8_t>(e, put);
}

}  // namespace batchnorm::detail
