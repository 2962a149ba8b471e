// SPDX-License-Identifier: MIT
#pragma once

#include <Eigen/Core>
#include <cmath>
#include <type_traits>

#include "batchnorm/detail/arguments.hpp"
#include "batchnorm/error.hpp"
#include "batchnorm/functional.hpp"
#include "batchnorm/options.hpp"

namespace batchnorm {

/// y = scale * x + shift, the form with two terms that other code wants. It rounds more than the
/// form with three terms: ChannelAffine::error_bound() says how much.
template <class Param>
struct ScaleShift {
  Eigen::Matrix<Param, Eigen::Dynamic, 1> scale;  ///< (C)
  Eigen::Matrix<Param, Eigen::Dynamic, 1> shift;  ///< (C)
};

/// A batch-norm layer in eval mode, per channel:  y = scale * (x - center) + shift
/// with scale = gamma / sqrt(running_var + eps), center = running_mean, shift = beta. Threads may
/// share it: no call changes it, and calls share no memory. The center is not part of the shift,
/// because scale * x alone loses digits where the mean is large against the deviation. It is as
/// exact as the layer where the scale is neither beyond Param's range nor so small that Param holds
/// fewer digits of it.
template <class Param>
struct ChannelAffine {
  Eigen::Matrix<Param, Eigen::Dynamic, 1> scale;   ///< (C)
  Eigen::Matrix<Param, Eigen::Dynamic, 1> center;  ///< (C)
  Eigen::Matrix<Param, Eigen::Dynamic, 1> shift;   ///< (C)

  /// Returns y, of x's shape and storage order. x is what a layer takes: a tensor of rank 2 to 5 or
  /// a matrix of N rows, of a scalar that holds Param's values. Throws std::invalid_argument unless
  /// x has C channels, std::logic_error if scale, center and shift differ in length.
  template <class X>
  [[nodiscard]] detail::PlainOf<X> apply(const X& x, ChannelAxis axis = ChannelAxis::first) const {
    return detail::written(
        x, [this, axis](const auto& values, auto& y) { this->apply(values, y, axis); });
  }
  /// The same into y, already of x's shape: x itself, or apart from it. It allocates nothing.
  template <class X, class Y, std::enable_if_t<!std::is_same_v<Y, ChannelAxis>, int> = 0>
  void apply(const X& x, Y&& y, ChannelAxis axis = ChannelAxis::first) const {
    using Scalar = typename detail::Argument<X>::Scalar;
    using View = detail::View;
    static_assert(detail::is_supported_scalar<Scalar>,
                  "batchnorm: x must be of float, double, Eigen::half or Eigen::bfloat16");
    static_assert(std::is_same_v<Scalar, double> || !std::is_same_v<Param, double>,
                  "batchnorm: x cannot hold a double's digits: apply affine.cast<float>() to it");
    static_assert(detail::Argument<X>::rank >= 2 && detail::Argument<X>::rank <= 5,
                  "batchnorm: x must be of rank 2 to 5");
    const detail::Where where{"ChannelAffine", "apply"};
    const auto f = [&](const detail::Shape&, const View& in, const View& out) {
      detail::check_same_or_apart(where, "y", out, "x", in);
      functional::apply_maps<detail::ParamOf<Scalar>>(in, out,
                                                      [this](Eigen::Index c) { return map_of(c); });
    };
    detail::on_views<Scalar>(where, axis, checked_length("apply"), f, detail::Reads{"x", x},
                             detail::Writes{"y", y});
  }

  /// The same map in another type, to 16 bits by way of float. The rounding error of the center
  /// times scale goes to the shift. Throws std::invalid_argument for a number, or a new shift,
  /// beyond the range of the other type.
  template <class Other>
  [[nodiscard]] ChannelAffine<Other> cast() const {
    const auto rounded = [](const char* what, double v, Eigen::Index c) {
      const Other r = static_cast<Other>(detail::narrow<detail::ParamOf<Other>>(v));
      if (detail::is_finite(v) && !detail::is_finite(static_cast<double>(r))) {
        detail::Where{"ChannelAffine", "cast"}.invalid(
            {"expected a ", what, " in the new type's range, got ", v, " in channel ", c});
      }
      return r;
    };
    const Eigen::Index channels = checked_length("cast");
    ChannelAffine<Other> to;
    to.scale.resize(channels), to.center.resize(channels), to.shift.resize(channels);
    for (Eigen::Index c = 0; c < channels; ++c) {
      const functional::ChannelMap map = map_of(c);
      to.scale[c] = rounded("scale", map.gamma, c);
      to.center[c] = rounded("center", map.mean, c);
      const double error = map.mean - static_cast<double>(to.center[c]);
      const double correction = error == 0 ? 0 : map.gamma * error;  // not infinity * 0
      to.shift[c] = rounded("shift", map.beta - correction, c);
    }
    return to;
  }

  /// The same map with the two numbers scale and shift - scale * center.
  [[nodiscard]] ScaleShift<Param> scale_shift() const {
    ScaleShift<Param> two{scale, shift};
    for (Eigen::Index c = 0, channels = checked_length("scale_shift"); c < channels; ++c) {
      const functional::ChannelMap map = map_of(c);
      two.shift[c] = static_cast<Param>(map.beta - map.gamma * map.mean);
    }
    return two;
  }

  /// (C) the error of scale_shift(). Its y, computed in Param, is within
  ///   error_bound * max(1, |scale * (x - center)|, |shift|)
  /// of the exact y, unless scale * x is beyond Param's range. The layer itself has 6e-7 here.
  [[nodiscard]] Eigen::VectorXd error_bound() const {
    // Let a = |scale * center|, m = max(1, |scale * (x - center)|, |shift|) and u half an ulp. The
    // product is at most a + m, the shift at most a + m, their sum at most 2 m. Each loses u of it.
    // In double the shift is computed in double too, with an error of its own: u is twice as large.
    constexpr double u = std::is_same_v<Param, Eigen::bfloat16> ? 0x1p-8
                         : std::is_same_v<Param, Eigen::half>   ? 0x1p-11
                         : std::is_same_v<Param, float>         ? 0x1p-24
                                                                : 0x1p-52;
    Eigen::VectorXd bound(checked_length("error_bound"));
    for (Eigen::Index c = 0; c < bound.size(); ++c) {
      bound[c] = u * (1 + 4 * u) * (4 + 2 * std::abs(map_of(c).gamma * map_of(c).mean));
    }
    return bound;
  }

 private:
  [[nodiscard]] Eigen::Index checked_length(const char* call) const {
    if (scale.size() != center.size() || scale.size() != shift.size()) {
      detail::Where{"ChannelAffine", call}.misuse(
          {"expected scale, center and shift of one length, got ", scale.size(), ", ",
           center.size(), " and ", shift.size()});
    }
    return scale.size();
  }
  /// The scale stands for gamma, and var_eps is 1; or NaN, so that y is, if the scale is not
  /// finite.
  [[nodiscard]] functional::ChannelMap map_of(Eigen::Index c) const {
    const auto in_double = [c](const auto& v) { return static_cast<double>(v[c]); };
    const double one = detail::is_finite(in_double(scale)) ? 1 : detail::not_a_number<double>();
    return {in_double(center), one, in_double(scale), in_double(shift)};
  }
};

}  // namespace batchnorm
