// SPDX-License-Identifier: MIT
#pragma once

#include <Eigen/Core>

#include "batchnorm/layer.hpp"

namespace batchnorm {

/// The gradients of backward_of_backward.
template <class X>
struct SecondGradients {
  X x;                    ///< with respect to x
  X dy;                   ///< with respect to dy
  Eigen::VectorXd gamma;  ///< (C) with respect to gamma
};

/// The gradients of a loss with respect to the other results of a backward. An empty vector stands
/// for zeros.
struct WithRespectTo {
  Eigen::VectorXd dgamma;  ///< (C) a
  Eigen::VectorXd dbeta;   ///< (C) b
};

namespace detail {

/// The values of channel c as doubles: value (o, i) becomes element o * inner + i of the array.
[[nodiscard]] inline Eigen::ArrayXd read_channel(const View& v, Index c) {
  Eigen::ArrayXd values(v.count());
  const bool is_column = v.inner == 1;
  const Index runs = is_column ? 1 : v.outer, length = is_column ? v.outer : v.inner;
  const Index step = is_column ? v.outer_stride : v.inner_stride;
  for (Index o = 0; o < runs; ++o)
    v.elements->read(v.at(o, c, 0), length, step, values.data() + o * length);
  return values;
}
/// Writes them, rounded to A and then to the type of the elements.
template <class A>
void write_channel(const View& v, Index c, const Eigen::ArrayXd& values) {
  exact::for_each(
      v, [&](Index o, Index i) { exact::put<A>(v, o, c, i, wide<A>(values[o * v.inner + i])); });
}
/// Channel c of the formulas below. `at` are x, dy, v, dF/dx and dF/ddy. Writes the last two
/// and returns dF/dgamma.
template <class Param>
[[nodiscard]] double second_gradients(const Core<Param>& layer, const Saved& by, Index c,
                                      const WithRespectTo& other, const View (&at)[5]) {
  const double s = by.inv_std[c], gamma = layer.affine().gamma_of(c);
  const double a = other.dgamma.size() > 0 ? other.dgamma[c] : 0;
  const double b = other.dbeta.size() > 0 ? other.dbeta[c] : 0;
  const Eigen::ArrayXd x_hat = (read_channel(at[0], c) - by.mean[c]) * s,
                       v = read_channel(at[2], c);
  Eigen::ArrayXd d = read_channel(at[1], c);
  Eigen::ArrayXd of_s = Eigen::ArrayXd::Zero(v.size()), big_v = v;
  if (by.batch_statistics) {
    const double q = (d * x_hat).mean(), w = (v * x_hat).mean();
    d -= d.mean();
    big_v -= v.mean();
    const double k = (big_v * d).mean();
    d -= x_hat * q;
    big_v -= x_hat * w;
    of_s = x_hat * (k - q * w) + w * d + q * big_v;
  }
  write_channel<Param>(at[3], c, a * s * d - gamma * s * s * of_s);
  write_channel<Param>(at[4], c, gamma * s * big_v + a * x_hat + b);
  return s * (v * d).sum();
}

}  // namespace detail

/// The backward of a layer's backward, for losses that contain gradients, such as gradient
/// penalties. Let v be the gradient of a loss with respect to dx, and a and b those with respect to
/// dgamma and dbeta. This differentiates F = sum v * dx + a * dgamma + b * dbeta:
///
///   dF/ddy = gamma * s * V + a * x_hat + b            dF/dgamma = s * sum v * D
///   dF/dx  = a * s * D - gamma * s^2 * (x_hat * (k - q * w) + w * D + q * V)
///
/// with s = inv_std, m(.) the mean over a channel, k = m(v * dy) - m(v) * m(dy), q = m(dy * x_hat),
/// w = m(v * x_hat), D_i = dy_i - m(dy) - x_hat_i * q and V_i = v_i - m(v) - x_hat_i * w, so that
/// dx = gamma * s * D. dF/dx follows from d x_hat_i / d x_j = s * ((i == j) - 1/n - x_hat_i *
/// x_hat_j / n) and ds / dx_j = -s^2 * x_hat_j / n. With running statistics: D = dy, V = v, dF/dx =
/// a * s * dy.
///
/// It differentiates the backward of the forward that left `saved`. The layer does not change. x,
/// dy and v are arguments as the layer takes them, of one shape and storage order. It computes in
/// double on the calling thread. Throws std::logic_error if there was no forward or it wrote y over
/// x, and std::invalid_argument for other shapes and lengths.
template <class Scalar, int spatial, class X, class Dy, class V>
[[nodiscard]] SecondGradients<detail::PlainOf<X>> backward_of_backward(
    const BatchNorm<Scalar, spatial>& layer, const Saved& saved, const X& x, const Dy& dy,
    const V& v, const WithRespectTo& other = {}) {
  const detail::Where where{"batchnorm", "backward_of_backward"};
  constexpr int order = detail::common_order<X, Dy, V>();
  const Eigen::Index channels = layer.num_features();
  const auto fits = [&](Eigen::Index length) { return length == 0 || length == channels; };
  if (!fits(other.dgamma.size()) || !fits(other.dbeta.size()))
    where.invalid({"expected a gradient for dgamma and dbeta of length 0 or ", channels});
  const auto& x_values = detail::evaluated<order>(x);
  const auto& dy_values = detail::evaluated<order>(dy);
  const auto& v_values = detail::evaluated<order>(v);
  const detail::Shape in_x = detail::shape_of(x_values), in_dy = detail::shape_of(dy_values),
                      in_v = detail::shape_of(v_values);
  layer.core().check_saved(where, saved, in_x);
  if (in_dy != in_x || in_v != in_x)
    where.invalid({"expected x, dy and v of the forward's shape ", saved.shape.text(), ", got ",
                   in_x.text(), ", ", in_dy.text(), " and ", in_v.text()});
  SecondGradients<detail::PlainOf<X>> result{detail::like(x_values), detail::like(x_values),
                                             Eigen::VectorXd::Zero(channels)};
  const auto f = [&layer, &saved, channels, &other, &result](const detail::Shape&, const auto& at_x,
                                                             const auto&... views) {
    for (Eigen::Index c = 0; c < channels && at_x.size() > 0; ++c)
      result.gamma[c] = detail::second_gradients(layer.core(), saved, c, other, {at_x, views...});
  };
  detail::on_views_of<Scalar, spatial>(layer.core(), where, f, detail::Reads{"x", x_values},
                                       detail::Reads{"dy", dy_values}, detail::Reads{"v", v_values},
                                       detail::Writes{"the gradient of x", result.x},
                                       detail::Writes{"the gradient of dy", result.dy});
  return result;
}

/// The same for the layer's last forward.
template <class Scalar, int spatial, class X, class Dy, class V>
[[nodiscard]] SecondGradients<detail::PlainOf<X>> backward_of_backward(
    const BatchNorm<Scalar, spatial>& layer, const X& x, const Dy& dy, const V& v,
    const WithRespectTo& other = {}) {
  return backward_of_backward(layer, layer.saved(), x, dy, v, other);
}

}  // namespace batchnorm
