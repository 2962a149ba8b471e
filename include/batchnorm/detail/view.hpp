// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <cstddef>
#include <functional>
#include <string>

#include "batchnorm/detail/scalar.hpp"

namespace batchnorm::detail {

/// The extents of an argument as its user wrote them, for comparison and messages: (8, 32, 7, 7).
struct Shape {
  std::array<Index, 5> extents{};
  int rank = 0;

  [[nodiscard]] friend bool operator==(const Shape& a, const Shape& b) {
    return a.rank == b.rank && a.extents == b.extents;
  }
  [[nodiscard]] friend bool operator!=(const Shape& a, const Shape& b) { return !(a == b); }

  [[nodiscard]] std::string text() const {
    std::string s = "(";
    for (int d = 0; d < rank; ++d) {
      s += (d ? ", " : "") + std::to_string(extents[static_cast<std::size_t>(d)]);
    }
    return s + ")";
  }
};

/// Any tensor of any storage order, seen by channel: multiply the extents that are slower than the
/// channel (outer) and those that are faster (inner), and element (o, c, i) lies at
///   data[o * outer_stride + c * channel_stride + i * inner_stride].
/// Row-major (N, C, H, W) is [N][C][H*W]; (N, H, W, C) and a row-major matrix (N, C) are
/// [N*H*W][C][1]; a column-major matrix (N, C) is [1][C][N]; a column-major (N, C, H, W) is
/// [H*W][C][N]. Transposed matrices, blocks and rows differ in their strides alone.
template <class T>
struct View {
  T* data;
  Index outer, channels, inner;
  Index outer_stride, channel_stride, inner_stride;

  /// Values per channel: the n of all formulas.
  [[nodiscard]] Index count() const { return outer * inner; }
  [[nodiscard]] Index size() const { return count() * channels; }
  [[nodiscard]] T* at(Index o, Index c, Index i) const {
    return data + o * outer_stride + c * channel_stride + i * inner_stride;
  }
  [[nodiscard]] bool is_dense() const {
    return at(outer - 1, channels - 1, inner - 1) - data == size() - 1;
  }
  operator View<const T>() const {
    return {data, outer, channels, inner, outer_stride, channel_stride, inner_stride};
  }
};

/// An input in an output's place, for a pass that only sums.
template <class T>
[[nodiscard]] View<T> unwritten(const View<const T>& v) {
  return {const_cast<T*>(v.data), v.outer,          v.channels,    v.inner,
          v.outer_stride,         v.channel_stride, v.inner_stride};
}

/// A dense tensor with the given extents slower and faster than the channel. A single channel is
/// one long run, whatever its place.
template <class T>
[[nodiscard]] View<T> dense_view(T* data, Index outer, Index channels, Index inner) {
  if (channels == 1) return {data, 1, 1, outer * inner, outer * inner, outer * inner, 1};
  return {data, outer, channels, inner, channels * inner, inner, 1};
}

/// N rows of C channels, at any strides. `row_major` says which loop is the inner one.
template <class T>
[[nodiscard]] View<T> matrix_view(T* data, Index rows, Index cols, Index row_stride,
                                  Index col_stride, bool row_major) {
  if (cols == 1) return {data, 1, 1, rows, 0, 0, row_stride};
  if (rows == 1) return {data, 1, cols, 1, 0, col_stride, 1};
  if (row_major) return {data, rows, cols, 1, row_stride, col_stride, 1};
  return {data, 1, cols, rows, 0, col_stride, row_stride};
}

/// Do two views start at the same place and step alike, so that element by element they are one?
template <class T, class U>
[[nodiscard]] bool is_same_place(const View<T>& a, const View<U>& b) {
  return a.data == b.data && a.outer_stride == b.outer_stride &&
         a.channel_stride == b.channel_stride &&
         a.inner_stride == b.inner_stride;  // GCOV_EXCL_BR_LINE: never differs alone
}

/// Do two dense views of one shape share memory? Strided ones may interleave, which is their owner's
/// care.
template <class T, class U>
[[nodiscard]] bool overlaps(const View<T>& a, const View<U>& b) {
  if (a.size() == 0 || !a.is_dense() || !b.is_dense()) return false;
  const std::less<const void*> before;
  return before(a.data, b.data + b.size()) && before(b.data, a.data + a.size());
}

}  // namespace batchnorm::detail
