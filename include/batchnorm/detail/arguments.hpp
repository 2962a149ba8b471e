// SPDX-License-Identifier: MIT
#pragma once

#include <Eigen/Core>
#include <array>
#include <cstddef>
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
/// Declared only: D for a type that derives from DenseBase<D>, void for other types.
template <class D>
D dense_of(const Eigen::DenseBase<D>*);
void dense_of(const void*);
template <class X>  // segment() of a vector derives from DenseBase<Block>, not from DenseBase<X>
inline constexpr bool is_matrix = !std::is_void_v<decltype(dense_of(std::declval<X*>()))>;
template <class X>
inline constexpr bool is_tensor_ref = false;
template <class P>
inline constexpr bool is_tensor_ref<Eigen::TensorRef<P>> = true;

/// Declared only: the plain tensor type of a tensor or map, void for other expressions.
template <class S, int R, int O, class IndexType>
Eigen::Tensor<std::remove_const_t<S>, R, O, IndexType> plain_of(
    const Eigen::Tensor<S, R, O, IndexType>*);
template <class S, class D, int O, class IndexType>
Eigen::TensorFixedSize<S, D, O, IndexType> plain_of(
    const Eigen::TensorFixedSize<S, D, O, IndexType>*);
template <class P, int O, template <class> class M>
decltype(plain_of(std::declval<P*>())) plain_of(const Eigen::TensorMap<P, O, M>*);
void plain_of(const void*);

/// What the library needs to know of the type of an argument.
template <class X, class = void>
struct Argument {
  static_assert(is_tensor<X> || is_matrix<X>,
                "batchnorm: x, y, dy and dx must be Eigen tensors or, for BatchNorm1d, matrices; "
                "Eigen::TensorMap and Eigen::Map make them of memory");
};
template <class X>
struct Argument<X, std::enable_if_t<is_tensor<X>>> {
  using Traits = Eigen::internal::traits<X>;
  using Scalar = std::remove_const_t<typename Traits::Scalar>;
  static constexpr int rank = Traits::NumDimensions, order = static_cast<int>(Traits::Layout);
  using Evaluated = Eigen::Tensor<Scalar, rank, order, typename Traits::Index>;
  using InMemory = decltype(plain_of(std::declval<X*>()));
  static constexpr bool is_direct = !std::is_void_v<InMemory>;  // can it be read where it lies?
  using Plain = std::conditional_t<is_direct, InMemory, Evaluated>;
  static constexpr bool fixes_order = is_direct;  // does it fix the storage order of a call?
  static constexpr bool is_fixed_size =           // does Plain hold its elements itself?
      !std::is_same_v<typename Plain::Dimensions, typename Evaluated::Dimensions>;
};
template <class X>
struct Argument<X, std::enable_if_t<is_matrix<X>>> {
  using Plain = typename X::PlainObject;
  using Scalar = typename X::Scalar;
  static constexpr int rank = 2, order = X::IsRowMajor ? Eigen::RowMajor : Eigen::ColMajor;
  using Evaluator = Eigen::internal::evaluator<decltype(dense_of(std::declval<X*>()))>;
  // x(seqN(0, n, 2), all) of Eigen 3.4 has the first flag alone.
  static constexpr bool is_direct = (unsigned{Eigen::internal::traits<X>::Flags} &
                                     Evaluator::Flags & Eigen::DirectAccessBit) != 0;
  static constexpr bool fixes_order = is_direct && !X::IsVectorAtCompileTime;  // vectors fit either
  static constexpr bool is_fixed_size = Plain::MaxSizeAtCompileTime != Eigen::Dynamic;
};

/// The type of a result of an X's shape and storage order.
template <class X>
using PlainOf = typename Argument<X>::Plain;

inline constexpr int mixed_orders = -1;
/// The storage order of a call: that of its directly accessed arguments, or mixed_orders if these
/// differ, or x's if there are none. X... are the types of the arguments, the first is x's.
template <class... X>
[[nodiscard]] constexpr int common_order() {
  constexpr bool row = ((Argument<X>::fixes_order && Argument<X>::order == Eigen::RowMajor) || ...);
  constexpr bool col = ((Argument<X>::fixes_order && Argument<X>::order == Eigen::ColMajor) || ...);
  constexpr int orders[] = {Argument<X>::order...};
  return row && col ? mixed_orders : row ? Eigen::RowMajor : col ? Eigen::ColMajor : orders[0];
}

/// The argument itself if its elements can be used where they lie, otherwise its values in `order`.
template <int order, class X>
[[nodiscard]] decltype(auto) evaluated(const X& x) {
  using A = Argument<X>;
  if constexpr (A::is_direct) {
    return static_cast<const X&>(x);
  } else if constexpr (A::order == order) {
    return typename A::Plain(x);
  } else if constexpr (is_matrix<X>) {
    return Eigen::Matrix<typename A::Scalar, Eigen::Dynamic, Eigen::Dynamic, order>(x);
  } else {
    std::array<Index, A::rank> reversed{};
    for (int d = 0; d < A::rank; ++d) reversed[static_cast<std::size_t>(d)] = A::rank - 1 - d;
    return Eigen::Tensor<typename A::Scalar, A::rank, order>(x.swap_layout().shuffle(reversed));
  }
}

/// A plain object of x's shape, for a result.
template <class X>
[[nodiscard]] PlainOf<X> like(const X& x) {
  if constexpr (Argument<X>::is_fixed_size) {
    return PlainOf<X>(x);  // compilers warn if elements that have no values yet are copied
  } else if constexpr (is_matrix<X>) {
    return PlainOf<X>(x.rows(), x.cols());
  } else {
    return PlainOf<X>(x.dimensions());
  }
}

/// A plain object of x's shape that write(values of x, object) has written.
template <class X, class Write>
[[nodiscard]] PlainOf<X> written(const X& x, const Write& write) {
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
    shape.extents = {x.rows(), x.cols()};
  } else {
    const Eigen::DSizes<Index, Argument<X>::rank> sizes(x.dimensions());
    for (std::size_t d = 0; d < Argument<X>::rank; ++d) shape.extents[d] = sizes[d];
  }
  return shape;
}
[[nodiscard]] inline std::size_t channel_of(const Shape& shape, ChannelAxis axis) {
  return axis == ChannelAxis::first ? 1 : static_cast<std::size_t>(shape.rank) - 1;
}

/// The view of an argument whose elements lie in memory. It casts const away: check_types() has
/// refused what must not be written.
template <int order, class X>
[[nodiscard]] auto view_of(const X& x, const Shape& shape, ChannelAxis axis) {
  using Scalar = typename Argument<X>::Scalar;
  const auto* const elements = elements_of<Scalar>();
  void* const data = const_cast<Scalar*>(x.data());
  constexpr bool row_major = order == Eigen::RowMajor;
  if constexpr (is_matrix<X>) {
    return matrix_view(data, elements, x.rows(), x.cols(), x.rowStride(), x.colStride(), row_major);
  } else {
    const std::size_t channel = channel_of(shape, axis);
    Index before = 1, after = 1;
    for (std::size_t d = 0; d < channel; ++d) before *= shape.extents[d];
    for (std::size_t d = channel + 1; d < Argument<X>::rank; ++d) after *= shape.extents[d];
    if (!row_major) std::swap(before, after);
    return dense_view(data, elements, before, shape.extents[channel], after);
  }
}

// The arguments of a call. ------------------------------------------------------------------------

/// Can scalars be written to an X, or to a plain tensor that is then copied to it?
template <class Scalar, class X, class = void>
inline constexpr bool is_writable = is_tensor_ref<X>;
template <class Scalar, class X>
inline constexpr bool is_writable<Scalar, X, std::enable_if_t<Argument<Bare<X>>::is_direct>> =
    std::is_convertible_v<decltype(std::declval<X&>().data()), Scalar*>;

/// An argument that a call reads, with its name for messages: Reads{"x", x}.
template <class X>
struct Reads {
  const char* name;
  const X& x;
  using Type = X;
  template <class>
  static constexpr bool is_allowed = true;
};
template <class X>
Reads(const char*, const X&) -> Reads<X>;
/// An argument that a call writes: Writes{"y", y}. Type is what fixes the storage order.
template <class X>
struct Writes {
  const char* name;
  X& x;
  using Type = Bare<std::conditional_t<is_tensor_ref<X>, typename Argument<Bare<X>>::Plain, X>>;
  template <class Scalar>
  static constexpr bool is_allowed = is_writable<Scalar, X>;
};
template <class X>
Writes(const char*, X&) -> Writes<X>;

/// The elements of a TensorRef may lie anywhere: its values are written, then copied back to it.
template <class X, class Values>
void copy_back(const X&, const Values&) {}
template <class P, class Values>
void copy_back(Eigen::TensorRef<P>& ref, const Values& values) {
  for (Index i = 0; i < values.size(); ++i) ref.coeffRef(i) = values.data()[i];
}

/// At compile time: is the scalar of an argument the layer's? If not, one message says so.
template <class Scalar, class Given>
[[nodiscard]] constexpr bool check_scalar() {
  constexpr bool same = std::is_same_v<Given, Scalar>;
  static_assert(same || !std::is_same_v<Scalar, float>,
                "batchnorm: arguments must have the layer's Scalar, float: x.cast<float>()");
  static_assert(same || !std::is_same_v<Scalar, double>,
                "batchnorm: arguments must have the layer's Scalar, double: x.cast<double>()");
  static_assert(same || !std::is_same_v<Scalar, Eigen::half>,
                "batchnorm: arguments must have the layer's Scalar, half: x.cast<Eigen::half>()");
  static_assert(same || !std::is_same_v<Scalar, Eigen::bfloat16>,
                "batchnorm: arguments must have the layer's Scalar: x.cast<Eigen::bfloat16>()");
  return same;
}
/// At compile time: can a call take arguments of these types? If not, one message says why.
template <class Scalar, class... A>
[[nodiscard]] constexpr bool check_types() {
  constexpr bool same =
      (check_scalar<Scalar, typename Argument<typename A::Type>::Scalar>() && ...);
  constexpr bool writable = (A::template is_allowed<Scalar> && ...);
  static_assert(!same || writable, "batchnorm: y and dx must be writable, and not expressions");
  constexpr bool one_order = common_order<typename A::Type...>() != mixed_orders;
  static_assert(one_order,
                "batchnorm: x, y, dy and dx must share a storage order; x.transpose() of a "
                "column-major x is row-major: pass y.transpose() too");
  return same && writable && one_order;
}

/// A likely reason for a wrong number of channels, for the message.
[[nodiscard]] inline const char* likely_reason(const Shape& x, ChannelAxis axis, Index channels) {
  const auto is_channel = [&](int d) { return x.extents[static_cast<std::size_t>(d)] == channels; };
  if (x.rank == 2) {
    if (!is_channel(0)) return "";
    return x.extents[1] == 1 ? ": one sample? Transpose x" : ": samples in columns? Transpose x";
  }
  if (axis == ChannelAxis::last) return is_channel(1) ? ": channels first? See ChannelAxis" : "";
  if (is_channel(x.rank - 1)) return ": channels last? See ChannelAxis";
  return is_channel(x.rank - 2) ? ": dimensions in reverse? x is (N, C, ...)" : "";
}
/// Throws unless shapes[0], x's, has this number of channels and all the others are equal to it.
inline void check_shapes(const Where& where, ChannelAxis axis, Index channels, const Shape* shapes,
                         const char* const* names, std::size_t count) {
  const Shape& x = shapes[0];
  const Index got = x.extents[channel_of(x, axis)];
  const char* const reason = likely_reason(x, axis, channels);
  if (got != channels)
    where.invalid({"expected ", channels, " channels, got ", got, " in ", x.text(), reason});
  for (std::size_t k = 1; k < count; ++k) {
    if (shapes[k] == x) continue;
    where.invalid({"expected ", names[k], " of x's shape ", x.text(), ", got ", shapes[k].text()});
  }
}

/// Checks the arguments of a call, Reads and Writes, the first of which is x. Then calls
/// f(shape of x, view of each).
template <class Scalar, class F, class... A>
void on_views(const Where& where, ChannelAxis axis, Index channels, const F& f,
              const A&... arguments) {
  if constexpr (check_types<Scalar, A...>()) {
    constexpr int order = common_order<typename A::Type...>();
    const auto call = [&where, axis, channels, &f, &arguments...](const auto&... x) {
      const Shape shapes[] = {shape_of(x)...};
      const char* const names[] = {arguments.name...};
      check_shapes(where, axis, channels, shapes, names, sizeof...(A));
      f(shapes[0], view_of<order>(x, shapes[0], axis)...);
      (copy_back(arguments.x, x), ...);
    };
    call(evaluated<order>(arguments.x)...);
  }
}

/// Throws if the output y shares memory with the input x.
inline void check_apart(const Where& where, const char* out, const View& y, const char* in,
                        const View& x) {
  if (overlaps(x, y))
    where.invalid({"expected ", out, " apart from ", in, ", got them overlapping"});
}
/// Throws if the output y shares memory with the input x, but is not x itself.
inline void check_same_or_apart(const Where& where, const char* out, const View& y, const char* in,
                                const View& x) {
  if (overlaps(x, y) && !is_same_place(x, y)) {
    where.invalid(
        {"expected ", out, " to be ", in, " itself or apart from it, got them overlapping"});
  }
}
/// Throws if dx shares memory with x or dy; it may be dy itself.
inline void check_dx(const Where& where, const View& x, const View& dy, const View& dx) {
  check_apart(where, "dx", dx, "x", x);
  check_same_or_apart(where, "dx", dx, "dy", dy);
}

}  // namespace batchnorm::detail
