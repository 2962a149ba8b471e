// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <utility>

#include "batchnorm/detail/elements.hpp"
#include "batchnorm/detail/scalar.hpp"
#include "batchnorm/error.hpp"

namespace batchnorm::detail {

/// The extents of an argument as its user wrote them, for comparisons and messages: (8, 32, 7, 7).
struct Shape {
  std::array<Index, 5> extents{};
  int rank = 0;

  [[nodiscard]] friend bool operator==(const Shape& a, const Shape& b) {
    return a.rank == b.rank && a.extents == b.extents;
  }
  [[nodiscard]] friend bool operator!=(const Shape& a, const Shape& b) { return !(a == b); }

  [[nodiscard]] std::string text() const {
    std::string s;
    for (int d = 0; d < rank; ++d) {
      s += joined({d == 0 ? "(" : ", ", extents[static_cast<std::size_t>(d)]});
    }
    return s + ")";
  }
};

/// A tensor of any rank, storage order and element type, seen by channel. All axes that are slower
/// than the channel are multiplied (outer), and all that are faster (inner). Element (o, c, i) lies
///   o * outer_stride + c * channel_stride + i * inner_stride
/// elements after data.
/// Row-major (N, C, H, W) is [N][C][H*W]; (N, H, W, C) and a row-major matrix (N, C) are
/// [N*H*W][C][1]; a column-major matrix (N, C) is [1][C][N]; a column-major (N, C, H, W) is
/// [H*W][C][N]. Transposed matrices, blocks and rows of matrices differ in their strides alone.
struct View {
  void* data = nullptr;
  Index outer = 0, channels = 0, inner = 0;
  Index outer_stride = 0, channel_stride = 0, inner_stride = 0;
  const Elements* elements = nullptr;

  /// Values per channel: the n of all formulas.
  [[nodiscard]] Index count() const { return outer * inner; }
  [[nodiscard]] Index size() const { return count() * channels; }
  [[nodiscard]] char* at(Index o, Index c, Index i) const {
    return static_cast<char*>(data) + offset(o, c, i) * elements->bytes;
  }
  [[nodiscard]] double value(Index o, Index c, Index i) const {
    double v;
    elements->read(at(o, c, i), 1, 1, &v);
    return v;
  }
  /// Channels [c0, c1) alone.
  [[nodiscard]] View some(Index c0, Index c1) const {
    View v = *this;
    v.data = at(0, c0, 0);
    v.channels = c1 - c0;
    return v;
  }
  [[nodiscard]] bool is_dense() const {
    return offset(outer - 1, channels - 1, inner - 1) == size() - 1 &&
           (std::min)({outer_stride, channel_stride, inner_stride}) >= 0;
  }

 private:
  [[nodiscard]] Index offset(Index o, Index c, Index i) const {
    return o * outer_stride + c * channel_stride + i * inner_stride;
  }
};

/// A dense tensor. A single channel is one long run, wherever its axis is.
[[nodiscard]] inline View dense_view(void* data, const Elements* elements, Index outer,
                                     Index channels, Index inner) {
  if (channels == 1) return {data, 1, 1, outer * inner, outer * inner, outer * inner, 1, elements};
  return {data, outer, channels, inner, channels * inner, inner, 1, elements};
}

/// N rows of C channels, at any strides. `row_major` says which of the two loops is the inner one.
[[nodiscard]] inline View matrix_view(void* data, const Elements* elements, Index rows, Index cols,
                                      Index row_stride, Index col_stride, bool row_major) {
  if (cols == 1) return {data, 1, 1, rows, 0, 0, row_stride, elements};
  if (rows == 1) return {data, 1, cols, 1, 0, col_stride, 1, elements};
  if (row_major) return {data, rows, cols, 1, row_stride, col_stride, 1, elements};
  return {data, 1, cols, rows, 0, col_stride, row_stride, elements};
}

/// Are two views of one shape the same elements in the same places?
[[nodiscard]] inline bool is_same_place(const View& a, const View& b) {
  const auto same = [](Index extent, Index stride, Index other) {
    return extent == 1 || stride == other;
  };
  return a.data == b.data && same(a.outer, a.outer_stride, b.outer_stride) &&
         same(a.channels, a.channel_stride, b.channel_stride) &&
         same(a.inner, a.inner_stride, b.inner_stride);
}

/// Do two views of one shape share elements? Views that are not both dense are compared only if
/// they have the same strides, as blocks of one matrix do; otherwise the result is false.
[[nodiscard]] inline bool overlaps(const View& a, const View& b) {
  const auto place = [](const View& v) { return reinterpret_cast<std::intptr_t>(v.data); };
  const std::intptr_t bytes = a.elements->bytes, apart = place(b) - place(a);
  if (a.is_dense() && b.is_dense()) return std::abs(apart) < a.size() * bytes;
  if (a.outer_stride != b.outer_stride || a.channel_stride != b.channel_stride ||
      a.inner_stride != b.inner_stride)
    return false;
  // Both are matrices. Element (s, f) of b lies where element (s + ds, f + df) of a would lie, with
  //   apart / bytes = ds * slow.stride + df * fast.stride
  // for the axes of the larger and the smaller stride. df may be negative, so ds is the quotient or
  // a number next to it.
  struct Axis {
    Index extent, stride;
  };
  Axis slow{a.channels, std::abs(a.channel_stride)}, fast{a.outer, std::abs(a.outer_stride)};
  if (a.outer == 1) fast = {a.inner, std::abs(a.inner_stride)};
  if (slow.stride < fast.stride) std::swap(slow, fast);
  slow.stride = (std::max)(slow.stride, Index{1});
  fast.stride = (std::max)(fast.stride, Index{1});
  const std::intptr_t quotient = apart / bytes / slow.stride;
  for (std::intptr_t ds = quotient - 1; ds <= quotient + 1; ++ds) {
    const std::intptr_t rest = apart / bytes - ds * slow.stride, df = rest / fast.stride;
    const bool is_element = df * fast.stride == rest;
    if (is_element && std::abs(ds) < slow.extent && std::abs(df) < fast.extent) return true;
  }
  return false;
}

}  // namespace batchnorm::detail
