// SPDX-License-Identifier: MIT
// Every way in which a batch may lie in memory, over memory of the test's own: so a test chooses
// where it starts, and sees what is written between the values.
#pragma once

#include <Eigen/Core>
#include <array>
#include <batchnorm/batchnorm.hpp>
#include <cstddef>
#include <string>
#include <type_traits>
#include <unsupported/Eigen/CXX11/Tensor>
#include <vector>

namespace testing {

using Eigen::Index;

/// N, C and D, H, W, of which lower ranks have the last.
struct Extents {
  Index samples, channels;
  std::array<Index, 3> spatial{1, 1, 1};

  [[nodiscard]] Index positions() const { return spatial[0] * spatial[1] * spatial[2]; }
  [[nodiscard]] Index count() const { return samples * positions(); }
  [[nodiscard]] Index size() const { return count() * channels; }
  [[nodiscard]] friend bool operator==(const Extents& a, const Extents& b) {
    return a.samples == b.samples && a.channels == b.channels && a.spatial == b.spatial;
  }

  /// As many values per channel in a tensor of lower rank: D, H and W merged, or all with N.
  [[nodiscard]] Extents of_rank(int rank) const {
    if (rank == 5) return *this;
    if (rank == 4) return {samples, channels, {1, spatial[0] * spatial[1], spatial[2]}};
    if (rank == 3) return {samples, channels, {1, 1, positions()}};
    return {count(), channels, {1, 1, 1}};
  }
};

struct Strides {
  Index sample, channel;
  std::array<Index, 3> spatial{0, 0, 0};

  /// Calls f(place, n, c) for all values, in the order of n, c, d, h, w.
  template <class F>
  void each(const Extents& e, const F& f) const {
    for (Index n = 0; n < e.samples; ++n) {
      for (Index c = 0; c < e.channels; ++c) each_position(e, n, c, f);
    }
  }
  template <class F>
  void each_position(const Extents& e, Index n, Index c, const F& f) const {
    const Index start = n * sample + c * channel;
    for (Index d = 0; d < e.spatial[0]; ++d) {
      for (Index h = 0; h < e.spatial[1]; ++h) {
        const Index row = start + d * spatial[0] + h * spatial[1];
        for (Index w = 0; w < e.spatial[2]; ++w) f(row + w * spatial[2], n, c);
      }
    }
  }
  /// Places from the first value to the last.
  [[nodiscard]] Index room(const Extents& e) const {
    if (e.size() == 0) return 0;
    Index last = (e.samples - 1) * sample + (e.channels - 1) * channel;
    for (std::size_t d = 0; d < 3; ++d) last += (e.spatial[d] - 1) * spatial[d];
    return last + 1;
  }
};

template <class Scalar_, int rank_, int order, batchnorm::ChannelAxis axis_>
struct DenseTensor {
  using Scalar = Scalar_;
  static constexpr int rank = rank_;
  static constexpr batchnorm::ChannelAxis axis = axis_;
  static constexpr bool is_dense = true;

  static std::string name() {
    return std::string("tensor of rank ") + std::to_string(rank) +
           (order == Eigen::RowMajor ? ", row-major" : ", column-major") +
           (axis == batchnorm::ChannelAxis::first ? ", channel first" : ", channel last");
  }
  template <class T>
  static auto make(T* data, const Extents& e) {
    using Tensor = Eigen::Tensor<Scalar, rank, order>;
    using Pointee = std::conditional_t<std::is_const_v<T>, const Tensor, Tensor>;
    return Eigen::TensorMap<Pointee>(data, dimensions(e));
  }
  static Strides strides(const Extents& e) {
    const auto extents = dimensions(e);
    std::array<Index, rank> steps{};
    Index step = 1;
    for (std::size_t k = 0; k < rank; ++k) {
      const std::size_t d = order == Eigen::RowMajor ? rank - 1 - k : k;
      steps[d] = step;
      step *= extents[d];
    }
    Strides s{steps[0], steps[channel]};
    for (std::size_t d = 1, to = 5 - rank; d < rank; ++d) {
      if (d != channel) s.spatial[to++] = steps[d];
    }
    return s;
  }

 private:
  static constexpr std::size_t channel = axis == batchnorm::ChannelAxis::first ? 1 : rank - 1;

  static std::array<Index, rank> dimensions(const Extents& e) {
    std::array<Index, rank> extents{};
    extents[0] = e.samples;
    extents[channel] = e.channels;
    for (std::size_t d = 1, from = 5 - rank; d < rank; ++d) {
      if (d != channel) extents[d] = e.spatial[from++];
    }
    return extents;
  }
};

/// N rows of C columns, with `inner` - 1 unused places after each value and `gap` after each row, or
/// column if these are the ones side by side. 1 and 0: a plain matrix.
template <class Scalar_, int order, int inner, int gap>
struct Matrix {
  using Scalar = Scalar_;
  static constexpr int rank = 2;
  static constexpr batchnorm::ChannelAxis axis = batchnorm::ChannelAxis::first;
  static constexpr bool is_dense = inner == 1 && gap == 0;
  static constexpr bool is_row_major = order == Eigen::RowMajor;

  static std::string name() {
    std::string name = is_row_major ? "row-major matrix" : "column-major matrix";
    if (inner > 1) name += " of every " + std::to_string(inner) + "th value";
    return gap > 0 ? name + " in a larger one" : name;
  }
  template <class T>
  static auto make(T* data, const Extents& e) {
    using Plain = Eigen::Matrix<Scalar, Eigen::Dynamic, Eigen::Dynamic, order>;
    using Pointee = std::conditional_t<std::is_const_v<T>, const Plain, Plain>;
    if constexpr (is_dense) {
      return Eigen::Map<Pointee>(data, e.samples, e.channels);
    } else {
      using Stride = Eigen::Stride<Eigen::Dynamic, Eigen::Dynamic>;
      return Eigen::Map<Pointee, 0, Stride>(data, e.samples, e.channels, Stride(outer(e), inner));
    }
  }
  static Strides strides(const Extents& e) {
    return is_row_major ? Strides{outer(e), inner} : Strides{inner, outer(e)};
  }

 private:
  static Index outer(const Extents& e) {
    return (is_row_major ? e.channels : e.samples) * inner + gap;
  }
};

/// Samples in columns, seen through transpose().
template <class Scalar_, int order>
struct Transposed {
  using Scalar = Scalar_;
  static constexpr int rank = 2;
  static constexpr batchnorm::ChannelAxis axis = batchnorm::ChannelAxis::first;
  static constexpr bool is_dense = true;

  static std::string name() {
    return std::string("transposed ") + (order == Eigen::RowMajor ? "row" : "column") +
           "-major matrix";
  }
  template <class T>
  static auto make(T* data, const Extents& e) {
    return Matrix<Scalar, order, 1, 0>::make(data, {e.channels, e.samples}).transpose();
  }
  static Strides strides(const Extents& e) {
    const Strides s = Matrix<Scalar, order, 1, 0>::strides({e.channels, e.samples});
    return {s.channel, s.sample};
  }
};

/// An argument in memory.
template <class T>
struct Placed {
  T* data;
  Extents extents;
};

/// The calls of a layer with arguments in one layout.
template <class Layer, class Scalar>
struct Layout {
  std::string name;
  int rank;
  batchnorm::ChannelAxis axis;  // of the layers that it is for
  bool is_dense;
  Strides (*strides)(const Extents&);
  void (*forward)(Layer&, Placed<const Scalar> x, Placed<Scalar> y);
  void (*backward)(Layer&, Placed<const Scalar> x, Placed<const Scalar> dy, Placed<Scalar> dx);
  void (*backward_of)(Layer&, const batchnorm::Saved&, Placed<const Scalar> x,
                      Placed<const Scalar> dy, Placed<Scalar> dx);
  /// By the forms that return their result, copied to y or dx, which must be of x's shape.
  void (*forward_by_value)(Layer&, Placed<const Scalar> x, Placed<Scalar> y);
  void (*backward_by_value)(Layer&, Placed<const Scalar> x, Placed<const Scalar> dy,
                            Placed<Scalar> dx);
};

/// Copies a result to where it is expected. Of an empty one Eigen would copy from a null pointer, which
/// is undefined even for no bytes.
template <class Form, class Result>
void place(const Result& result, Placed<typename Form::Scalar> y) {
  if (y.extents.size() == 0) return;
  auto to = Form::make(y.data, y.extents);
  to = result;
}

template <class Layer, class Form>
Layout<Layer, typename Form::Scalar> layout_of() {
  using Scalar = typename Form::Scalar;
  using In = Placed<const Scalar>;
  using Out = Placed<Scalar>;
  return {Form::name(),
          Form::rank,
          Form::axis,
          Form::is_dense,
          Form::strides,
          [](Layer& layer, In x, Out y) {
            layer.forward(Form::make(x.data, x.extents), Form::make(y.data, y.extents));
          },
          [](Layer& layer, In x, In dy, Out dx) {
            layer.backward(Form::make(x.data, x.extents), Form::make(dy.data, dy.extents),
                           Form::make(dx.data, dx.extents));
          },
          [](Layer& layer, const batchnorm::Saved& saved, In x, In dy, Out dx) {
            layer.backward(saved, Form::make(x.data, x.extents), Form::make(dy.data, dy.extents),
                           Form::make(dx.data, dx.extents));
          },
          [](Layer& layer, In x, Out y) {
            place<Form>(layer.forward(Form::make(x.data, x.extents)), y);
          },
          [](Layer& layer, In x, In dy, Out dx) {
            place<Form>(
                layer.backward(Form::make(x.data, x.extents), Form::make(dy.data, dy.extents)), dx);
          }};
}

template <class Scalar, int spatial>
using LayoutOf = Layout<batchnorm::BatchNorm<Scalar, spatial>, Scalar>;

/// All layouts that a layer takes.
template <class Scalar, int spatial>
const std::vector<LayoutOf<Scalar, spatial>>& layouts() {
  using Layer = batchnorm::BatchNorm<Scalar, spatial>;
  using batchnorm::ChannelAxis;
  constexpr int row = Eigen::RowMajor, column = Eigen::ColMajor, rank = spatial + 2;
  static const auto all = [] {
    std::vector<LayoutOf<Scalar, spatial>> list{
        layout_of<Layer, DenseTensor<Scalar, rank, row, ChannelAxis::first>>(),
        layout_of<Layer, DenseTensor<Scalar, rank, row, ChannelAxis::last>>(),
        layout_of<Layer, DenseTensor<Scalar, rank, column, ChannelAxis::first>>(),
        layout_of<Layer, DenseTensor<Scalar, rank, column, ChannelAxis::last>>()};
    if constexpr (spatial == 1) {
      list.push_back(layout_of<Layer, DenseTensor<Scalar, 2, row, ChannelAxis::first>>());
      list.push_back(layout_of<Layer, DenseTensor<Scalar, 2, column, ChannelAxis::last>>());
      list.push_back(layout_of<Layer, Matrix<Scalar, row, 1, 0>>());
      list.push_back(layout_of<Layer, Matrix<Scalar, column, 1, 0>>());
      list.push_back(layout_of<Layer, Matrix<Scalar, row, 1, 3>>());
      list.push_back(layout_of<Layer, Matrix<Scalar, column, 1, 3>>());
      list.push_back(layout_of<Layer, Matrix<Scalar, row, 2, 1>>());
      list.push_back(layout_of<Layer, Matrix<Scalar, column, 2, 1>>());
      list.push_back(layout_of<Layer, Transposed<Scalar, row>>());
      list.push_back(layout_of<Layer, Transposed<Scalar, column>>());
    }
    return list;
  }();
  return all;
}

}  // namespace testing
