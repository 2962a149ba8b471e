// SPDX-License-Identifier: MIT
#include "cell.hpp"

namespace bench {

std::string name_of(Operation operation) {
  switch (operation) {
    case Operation::forward:
      return "forward";
    case Operation::backward:
      return "backward";
    default:
      return "inference";
  }
}

std::string layout_name(const Cell& cell) {
  std::string name = cell.layout == Layout::nchw   ? "NCHW"
                     : cell.layout == Layout::nhwc ? "NHWC"
                                                   : "(N, C)";
  if (cell.order == Order::column_major) name += ", column-major";
  if (cell.type == Type::float16) name += ", half";
  if (cell.type == Type::bfloat16) name += ", bfloat16";
  if (cell.type == Type::float64) name += ", double";
  return name;
}

std::string shape_name(const Cell& cell) {
  const Shape& s = cell.shape;
  std::string name = "(" + std::to_string(s.n) + ", " + std::to_string(s.c);
  if (cell.layout != Layout::nc) name += ", " + std::to_string(s.h) + ", " + std::to_string(s.w);
  return name + ")";
}

std::string name_of(const Cell& cell) {
  return name_of(cell.operation) + " " + layout_name(cell) + " " + shape_name(cell) + ", " +
         std::to_string(cell.threads) + (cell.threads == 1 ? " thread" : " threads");
}

namespace {

// From ResNet-50's first layers at batch 1, 8 and 32 to LeNet's and what hardly holds a sample;
// and one of Inception, whose planes are no whole lines of the cache.
const std::vector<Shape> images = {{1, 64, 112, 112}, {8, 64, 112, 112}, {32, 64, 56, 56},
                                   {32, 256, 56, 56}, {32, 512, 28, 28}, {32, 1024, 14, 14},
                                   {32, 768, 17, 17}, {32, 2048, 7, 7},  {32, 6, 28, 28},
                                   {256, 16, 10, 10}, {4, 16, 8, 8}};
const std::vector<Shape> rows = {{8, 16},     {32, 128},    {256, 84}, {256, 120},
                                 {256, 1024}, {4096, 1024}, {64, 4096}};
// Enough of each size for what differs by the type or the order of storage alone.
const std::vector<Shape> some_images = {{32, 64, 56, 56}, {32, 1024, 14, 14}, {256, 16, 10, 10}};
const std::vector<Shape> some_rows = {{4096, 1024}, {256, 120}};
const std::vector<Shape> quick_images = {{8, 64, 112, 112}, {32, 1024, 14, 14}, {256, 16, 10, 10}};
const std::vector<Shape> quick_rows = {{256, 120}, {4096, 1024}};

}  // namespace

std::vector<Cell> all_cells(const std::vector<int>& threads, bool quick) {
  std::vector<Cell> cells;
  const auto add = [&](Layout layout, const std::vector<Shape>& shapes, Order order, Type type) {
    for (const int count : threads) {
      for (const Shape& shape : shapes) {
        for (const Operation op : {Operation::forward, Operation::backward, Operation::inference}) {
          cells.push_back({op, layout, shape, order, type, count});
        }
      }
    }
  };
  const auto add_layouts = [&](const auto& of_images, const auto& of_rows, Order order, Type type) {
    add(Layout::nchw, of_images, order, type);
    add(Layout::nhwc, of_images, order, type);
    add(Layout::nc, of_rows, order, type);
  };
  if (quick) {
    add_layouts(quick_images, quick_rows, Order::row_major, Type::float32);
    return cells;
  }
  add_layouts(images, rows, Order::row_major, Type::float32);
  add_layouts(some_images, some_rows, Order::column_major, Type::float32);
  add_layouts(some_images, some_rows, Order::row_major, Type::float16);
  add_layouts(some_images, some_rows, Order::row_major, Type::bfloat16);
  return cells;
}

}  // namespace bench
