// SPDX-License-Identifier: MIT
// What is measured: one operation on one tensor with so many threads.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace bench {

enum class Operation { forward, backward, inference };    // forward in training
enum class Layout { nchw, nhwc, nc };                     // the order of the axes
enum class Order { row_major, column_major };             // which of them is the fastest
enum class Type { float32, float16, bfloat16, float64 };  // double not beside peers

struct Shape {
  std::ptrdiff_t n, c, h = 1, w = 1;

  [[nodiscard]] std::ptrdiff_t size() const { return n * c * h * w; }
  [[nodiscard]] std::ptrdiff_t count() const { return n * h * w; }  // values per channel
};

struct Cell {
  Operation operation;
  Layout layout;
  Shape shape;
  Order order = Order::row_major;
  Type type = Type::float32;
  int threads = 1;

  [[nodiscard]] std::size_t value_bytes() const {
    return type == Type::float64 ? 8 : type == Type::float32 ? 4 : 2;
  }
  [[nodiscard]] std::size_t tensor_bytes() const {
    return static_cast<std::size_t>(shape.size()) * value_bytes();
  }
  /// What has to be read and written: x and y, or x, dy and dx.
  [[nodiscard]] std::size_t footprint() const {
    return (operation == Operation::backward ? 3 : 2) * tensor_bytes();
  }
};

/// The same memory as a row-major tensor, for libraries that know no other: column-major
/// (N, C, H, W) is (W, H, C, N), so NCHW with H*W samples of N values per channel.
inline Cell as_row_major(Cell cell) {
  if (cell.order == Order::row_major) return cell;
  const Shape s = cell.shape;
  cell.shape = cell.layout == Layout::nchw ? Shape{s.h * s.w, s.c, s.n, 1}
                                           : Shape{1, s.c, s.h * s.w * s.n, 1};
  cell.layout = Layout::nchw;
  cell.order = Order::row_major;
  return cell;
}

/// Every layout is [outer][channel][inner].
struct Extents {
  std::ptrdiff_t outer, channels, inner;
};
inline Extents extents(const Cell& cell) {
  const Cell row_major = as_row_major(cell);
  const Shape& s = row_major.shape;
  if (row_major.layout == Layout::nchw) return {s.n, s.c, s.h * s.w};
  return {s.count(), s.c, 1};
}

// What reports call them. -------------------------------------------------------------------------

[[nodiscard]] std::string name_of(Operation operation);
/// Layout, storage order and type: "NCHW", "NHWC, column-major", "(N, C), half".
[[nodiscard]] std::string layout_name(const Cell& cell);
[[nodiscard]] std::string shape_name(const Cell& cell);
[[nodiscard]] std::string name_of(const Cell& cell);

/// All that is measured, for each of these numbers of threads; `quick` takes a few of them.
[[nodiscard]] std::vector<Cell> all_cells(const std::vector<int>& threads, bool quick);

}  // namespace bench
