// SPDX-License-Identifier: MIT
#pragma once

#include <Eigen/Core>
#include <string>
#include <type_traits>
#include <unsupported/Eigen/CXX11/Tensor>
#include <utility>

#include "batchnorm/detail/view.hpp"
#include "batchnorm/error.hpp"
#include "batchnorm/options.hpp"

// From what users pass (tensors, maps, matrices, blocks, expressions) to views.
namespace batchnorm::detail {

template <class X>
using Bare = std::remove_cv_t<std::remove_reference_t<X>>;

template <class X>
inline constexpr bool is_tensor =
    std::is_base_of_v<Eigen::TensorBase<X, Eigen::ReadOnlyAccessors>, X>;
template <class Derived>
std::true_type derives_from_dense(const Eigen::DenseBase<Derived>*);
std::false_type derives_from_dense(const void*);
template <class X>  // not of DenseBase<X> alone: segment() of a vector is a class of Block's
inline constexpr bool is_matrix = decltype(derives_from_dense(std::declval<X*>()))::value;

/// A type's plain, owning counterpart, and whether its elements lie in memory to be read there.
template <class X, class = void>
struct TensorTraits {
  using Traits = Eigen::internal::traits<X>;
  using Plain = Eigen::Tensor<std::remove_const_t<typename Traits::Scalar>, Traits::NumDimensions,
                              Traits::Layout, typename Traits::Index>;
  static constexpr bool is_direct = false;
};
template <class X>
struct OwningTensor {
  using Plain = X;
  static constexpr bool is_direct = true;
};
template <class S, int R, int O, class I>
struct TensorTraits<Eigen::Tensor<S, R, O, I>> : OwningTensor<Eigen::Tensor<S, R, O, I>> {};
template <class S, class D, int O, class I>
struct TensorTraits<Eigen::TensorFixedSize<S, D, O, I>>
    : OwningTensor<Eigen::TensorFixedSize<S, D, O, I>> {};
template <class S, int R, int O, class I>
struct TensorTraits<Eigen::Tensor<const S, R, O, I>> : TensorTraits<Eigen::Tensor<S, R, O, I>> {};
template <class P, int O, template <class> class M>
struct TensorTraits<Eigen::TensorMap<P, O, M>> : TensorTraits<std::remove_const_t<P>> {};

template <class X>
inline constexpr bool is_tensor_ref = false;
template <class P>
inline constexpr bool is_tensor_ref<Eigen::TensorRef<P>> = true;

/// Does a plain object hold its elements itself, rather than on the heap?
template <class Plain, class = void>
inline constexpr bool is_fixed_size = false;
template <class S, class D, int O, class I>
inline constexpr bool is_fixed_size<Eigen::TensorFixedSize<S, D, O, I>> = true;
template <class Plain>
inline constexpr bool is_fixed_size<Plain, std::enable_if_t<is_matrix<Plain>>> =
    Plain::MaxSizeAtCompileTime != Eigen::Dynamic;

/// What the library needs to know of an argument's type: scalar, rank, storage order, plain type.
template <class X, class = void>
struct Argument {
  static_assert(is_tensor<X> || is_matrix<X>,
                "batchnorm: x, y, dy and dx must be Eigen tensors or, for BatchNorm1d, matrices");
};
template <class X>
struct Argument<X, std::enable_if_t<is_tensor<X>>> {
  using Plain = typename TensorTraits<X>::Plain;
  using Scalar = typename Plain::Scalar;
  static constexpr int rank = Eigen::internal::traits<X>::NumDimensions;
  static constexpr bool is_direct = TensorTraits<X>::is_direct;
  static constexpr bool is_vector = false;
  static constexpr int order = static_cast<int>(Eigen::internal::traits<X>::Layout);
};
template <class X>
struct Argument<X, std::enable_if_t<is_matrix<X>>> {
  using Plain = typename X::PlainObject;
  using Scalar = typename X::Scalar;
  static constexpr int rank = 2;
  static constexpr bool is_direct =
      (Eigen::internal::traits<X>::Flags & Eigen::DirectAccessBit) != 0;
  static constexpr bool is_vector = X::IsVectorAtCompileTime;  // fits either storage order
  static constexpr int order = X::IsRowMajor ? Eigen::RowMajor : Eigen::ColMajor;
};

/// Whether an argument settles the storage order of its call.
template <class X>
inline constexpr bool has_order = Argument<X>::is_direct && !Argument<X>::is_vector;

inline constexpr int mixed_orders = -2;

/// The storage order of a call: that of its directly accessed arguments, which must agree.
template <class X, class... Rest>
[[nodiscard]] constexpr int common_order() {
  constexpr int orders[] = {Argument<X>::order, Argument<Rest>::order...};
  constexpr bool settles[] = {has_order<X>, has_order<Rest>...};
  int order = -1;
  for (std::size_t k = 0; k <= sizeof...(Rest); ++k) {
    // GCOV_EXCL_BR_START: mostly evaluated while compiling
    if (!settles[k]) continue;
    if (order != -1 && order != orders[k]) return mixed_orders;
    order = orders[k];
  }
  return order == -1 ? orders[0] : order;
  // GCOV_EXCL_BR_STOP
}

/// The argument itself where its elements can be read in place, otherwise its values in `Order`.
template <int Order, class X>
[[nodiscard]] decltype(auto) evaluated(const X& x) {
  using A = Argument<X>;
  if constexpr (A::is_direct) {
    return static_cast<const X&>(x);
  } else if constexpr (A::order == Order) {
    return typename A::Plain(x);
  } else if constexpr (is_matrix<X>) {
    return Eigen::Matrix<typename A::Scalar, Eigen::Dynamic, Eigen::Dynamic, Order>(x);
  } else {
    std::array<Index, A::rank> reversed{};
    for (int d = 0; d < A::rank; ++d) reversed[static_cast<std::size_t>(d)] = A::rank - 1 - d;
    return Eigen::Tensor<typename A::Scalar, A::rank, Order>(x.swap_layout().shuffle(reversed));
  }
}

/// A plain object of x's shape, for a result.
template <class X>
[[nodiscard]] typename Argument<X>::Plain like(const X& x) {
  using Plain = typename Argument<X>::Plain;
  if constexpr (is_fixed_size<Plain>) {
    return Plain(x);  // a copy of uninitialized elements, compilers warn of
  } else {
    Plain y;
    if constexpr (is_matrix<X>) {
      y.resize(x.rows(), x.cols());
    } else {
      y.resize(x.dimensions());
    }
    return y;
  }
}

/// A plain object of x's shape, as write(x's values, object) leaves it.
template <class X, class Write>
[[nodiscard]] typename Argument<X>::Plain written(const X& x, const Write& write) {
  const auto& values = evaluated<Argument<X>::order>(x);
  auto result = like(values);
  write(values, result);
  return result;
}

template <class X>
[[nodiscard]] Shape shape_of(const X& x) {
  Shape shape;
  shape.rank = Argument<X>::rank;
  if constexpr (is_matrix<X>) {
    shape.extents[0] = x.rows();
    shape.extents[1] = x.cols();
  } else {
    const Eigen::DSizes<Index, Argument<X>::rank> sizes(x.dimensions());
    for (std::size_t d = 0; d < Argument<X>::rank; ++d) shape.extents[d] = sizes[d];
  }
  return shape;
}

/// The view of a directly accessed argument. T is its scalar, const for what is only read.
template <class T, int Order, class X>
[[nodiscard]] View<T> view_of(X& x, ChannelAxis axis) {
  if constexpr (is_matrix<Bare<X>>) {
    return matrix_view<T>(x.data(), x.rows(), x.cols(), x.rowStride(), x.colStride(),
                          Order == Eigen::RowMajor);
  } else {
    const Shape shape = shape_of(x);
    const auto channel = static_cast<std::size_t>(axis == ChannelAxis::first ? 1 : shape.rank - 1);
    Index before = 1, after = 1;
    for (std::size_t d = 0; d < channel; ++d) before *= shape.extents[d];
    for (std::size_t d = channel + 1; d < static_cast<std::size_t>(shape.rank); ++d) {
      after *= shape.extents[d];
    }
    const Index channels = shape.extents[channel];
    return Order == Eigen::RowMajor ? dense_view<T>(x.data(), before, channels, after)
                                    : dense_view<T>(x.data(), after, channels, before);
  }
}

// What calls check of their arguments. ----------------------------------------------------------

/// At compile time: y or dx can be written in place.
template <class Scalar, class Y>
constexpr void check_result() {
  constexpr bool lies_in_memory = Argument<Bare<Y>>::is_direct;
  static_assert(lies_in_memory, "batchnorm: y and dx must be written in place: no expressions");
  if constexpr (lies_in_memory) {
    static_assert(std::is_convertible_v<decltype(std::declval<Y&>().data()), Scalar*>,
                  "batchnorm: y and dx must be writable");
  }
}
template <class... X>
[[nodiscard]] constexpr int checked_order() {
  constexpr int order = common_order<X...>();
  static_assert(order != mixed_orders, "batchnorm: x, y, dy and dx must share a storage order");
  return order;
}

inline void check_channels(const Shape& shape, ChannelAxis axis, Index expected,
                           const Where& where) {
  const Index channels =
      shape.extents[static_cast<std::size_t>(axis == ChannelAxis::last ? shape.rank - 1 : 1)];
  if (channels != expected) {
    where.invalid("expected " + std::to_string(expected) + " channels, got " +
                  std::to_string(channels) + " in " + shape.text());
  }
}
inline void check_same_shape(const char* what, const Shape& shape, const Shape& expected,
                             const Where& where) {
  if (shape != expected) {
    where.invalid(std::string("expected ") + what + " of x's shape " + expected.text() + ", got " +
                  shape.text());
  }
}

/// Writes a TensorRef, whose elements may lie anywhere, from a plain tensor.
template <class Ref, class Write>
void by_way_of_plain(Ref& ref, const Write& write) {
  auto plain = like(ref);
  write(plain);
  for (Index i = 0; i < plain.size(); ++i) ref.coeffRef(i) = plain.data()[i];
}

}  // namespace batchnorm::detail
