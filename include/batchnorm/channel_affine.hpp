// SPDX-License-Identifier: MIT
#pragma once

#include <Eigen/Core>
#include <cmath>
#include <limits>
#include <string>
#include <type_traits>

#include "batchnorm/detail/arguments.hpp"
#include "batchnorm/detail/channel_map.hpp"
#include "batchnorm/error.hpp"
#include "batchnorm/options.hpp"

namespace batchnorm {

/// y = scale * x + shift: the two-term form that other code wants. What it loses against three terms
/// is ChannelAffine::error_bound().
template <class Param>
struct ScaleShift {
  Eigen::Matrix<Param, Eigen::Dynamic, 1> scale;  ///< (C)
  Eigen::Matrix<Param, Eigen::Dynamic, 1> shift;  ///< (C)
};

/// A batch-norm layer in eval mode, per channel:  y = scale * (x - center) + shift
/// with scale = gamma / sqrt(running_var + eps), center = running_mean, shift = beta. A value of
/// its own, to share between threads: nothing here changes it, and calls share no memory. The center
/// stays apart from the shift because scale * x alone loses digits where a mean is large against its
/// deviation.
template <class Param>
struct ChannelAffine {
  Eigen::Matrix<Param, Eigen::Dynamic, 1> scale;   ///< (C)
  Eigen::Matrix<Param, Eigen::Dynamic, 1> center;  ///< (C)
  Eigen::Matrix<Param, Eigen::Dynamic, 1> shift;   ///< (C)

  /// y, of x's shape and storage order. x is what a layer takes: a tensor of rank 2 to 5 or a matrix
  /// of N rows, of a scalar that holds Param's values. Throws std::invalid_argument for other than C
  /// channels, std::logic_error where scale, center and shift differ in length.
  template <class X>
  [[nodiscard]] typename detail::Argument<X>::Plain apply(
      const X& x, ChannelAxis axis = ChannelAxis::first) const {
    return detail::written(x, [&](const auto& values, auto& y) { apply(values, y, axis); });
  }

  /// The same into y, already of x's shape: x itself, or apart from it. It allocates nothing.
  template <class X, class Y, std::enable_if_t<!std::is_same_v<Y, ChannelAxis>, int> = 0>
  void apply(const X& x, Y&& y, ChannelAxis axis = ChannelAxis::first) const;

  /// The same in another type. What rounding takes from the center is made good in the shift.
  /// Throws std::invalid_argument for a number that is too large for it.
  template <class Other>
  [[nodiscard]] ChannelAffine<Other> cast() const;

  /// shift - scale * center as one number.
  [[nodiscard]] ScaleShift<Param> scale_shift() const;

  /// What scale_shift() may lose, per channel: its y, computed in Param, is within
  ///   error_bound * max(1, |scale * (x - center)|, |shift|)
  /// of the exact one, unless scale * x is beyond Param's range. The layer itself has 6e-7 here.
  [[nodiscard]] Eigen::VectorXd error_bound() const;

 private:
  [[nodiscard]] Eigen::Index checked_length(const detail::Where& where) const {
    if (scale.size() != center.size() || scale.size() != shift.size()) {
      where.misuse("expected scale, center and shift of one length, got " +
                   std::to_string(scale.size()) + ", " + std::to_string(center.size()) + " and " +
                   std::to_string(shift.size()));
    }
    return scale.size();
  }
};

template <class Param>
template <class X, class Y, std::enable_if_t<!std::is_same_v<Y, ChannelAxis>, int>>
void ChannelAffine<Param>::apply(const X& x, Y&& y, ChannelAxis axis) const {
  using Scalar = typename detail::Argument<X>::Scalar;
  static_assert(detail::is_supported_scalar<Scalar>,
                "batchnorm: x must be of float, double, Eigen::half or Eigen::bfloat16");
  static_assert(std::is_same_v<Scalar, typename detail::Argument<detail::Bare<Y>>::Scalar>,
                "batchnorm: x and y must have one scalar");
  static_assert(std::is_same_v<Scalar, double> || !std::is_same_v<Param, double>,
                "batchnorm: x cannot hold a double's digits: apply affine.cast<float>() to it");
  static_assert(detail::Argument<X>::rank >= 2 && detail::Argument<X>::rank <= 5,
                "batchnorm: x must be of rank 2 to 5");
  if constexpr (detail::is_tensor_ref<detail::Bare<Y>>) {
    detail::by_way_of_plain(y, [&](auto& plain) { apply(x, plain, axis); });
  } else {
    detail::check_result<Scalar, Y>();
    constexpr int order = detail::checked_order<X, detail::Bare<Y>>();
    const detail::Where where{"ChannelAffine", "apply"};
    const Eigen::Index channels = checked_length(where);
    const auto& values = detail::evaluated<order>(x);
    const detail::Shape shape = detail::shape_of(values);
    detail::check_channels(shape, axis, channels, where);
    detail::check_same_shape("y", detail::shape_of(y), shape, where);
    const auto from = detail::view_of<const Scalar, order>(values, axis);
    const auto to = detail::view_of<Scalar, order>(y, axis);
    if (detail::overlaps(from, to) && !detail::is_same_place(from, to)) {
      where.invalid("expected y apart from x or x itself, got them overlapping");
    }
    detail::map_channels(from, to, scale.data(), center.data(), shift.data());
  }
}

template <class Param>
template <class Other>
ChannelAffine<Other> ChannelAffine<Param>::cast() const {
  const detail::Where where{"ChannelAffine", "cast"};
  const Eigen::Index channels = checked_length(where);
  using Vector = Eigen::Matrix<Other, Eigen::Dynamic, 1>;
  ChannelAffine<Other> to{Vector(channels), Vector(channels), Vector(channels)};
  for (Eigen::Index c = 0; c < channels; ++c) {
    const auto rounded = [&](const char* what, double v) {
      const Other r = static_cast<Other>(detail::narrow<detail::ParamOf<Other>>(v));
      if (detail::is_finite(v) && !detail::is_finite(static_cast<double>(r))) {
        where.invalid(std::string("expected a ") + what + " in the new type's range, got " +
                      detail::number(v) + " in channel " + std::to_string(c));
      }
      return r;
    };
    const double factor = static_cast<double>(scale[c]), mean = static_cast<double>(center[c]);
    to.scale[c] = rounded("scale", factor);
    to.center[c] = rounded("center", mean);
    const double lost = mean - static_cast<double>(to.center[c]);
    to.shift[c] = rounded("shift", static_cast<double>(shift[c]) - factor * lost);
  }
  return to;
}

template <class Param>
ScaleShift<Param> ChannelAffine<Param>::scale_shift() const {
  const Eigen::Index channels = checked_length({"ChannelAffine", "scale_shift"});
  ScaleShift<Param> two{scale, shift};
  for (Eigen::Index c = 0; c < channels; ++c) {
    const double product = static_cast<double>(scale[c]) * static_cast<double>(center[c]);
    two.shift[c] = static_cast<Param>(static_cast<double>(shift[c]) - product);
  }
  return two;
}

template <class Param>
Eigen::VectorXd ChannelAffine<Param>::error_bound() const {
  const Eigen::Index channels = checked_length({"ChannelAffine", "error_bound"});
  // With a = |scale * center| and m = max(1, |scale * (x - center)|, |shift|), half an ulp u each of
  // the product, at most a + m, of the shift, at most a + m, and of the sum, at most 2 m; a shift
  // in double adds its own.
  constexpr double u = std::is_same_v<Param, Eigen::bfloat16> ? 0x1p-8
                       : std::is_same_v<Param, Eigen::half>   ? 0x1p-11
                       : std::is_same_v<Param, float>         ? 0x1p-24
                                                              : 0x1p-52;
  Eigen::VectorXd bound(channels);
  for (Eigen::Index c = 0; c < channels; ++c) {
    const double a = std::abs(static_cast<double>(scale[c]) * static_cast<double>(center[c]));
    bound[c] = u * (1 + 4 * u) * (4 + 2 * a);
  }
  return bound;
}

}  // namespace batchnorm
