// SPDX-License-Identifier: MIT
#pragma once

#include <Eigen/Core>
#include <string>
#include <type_traits>

#include "batchnorm/detail/in_parts.hpp"

namespace batchnorm {

/// The gradients of a layer's backward, by its arguments; see backward_of_backward.
template <class X>
struct SecondGradients {
  X x;                    ///< with respect to x
  X dy;                   ///< and to dy
  Eigen::VectorXd gamma;  ///< (C) and to gamma
};

/// What a loss asks of a backward's other results: its gradients with respect to dgamma and dbeta.
/// Of length 0: none.
struct WithRespectTo {
  Eigen::VectorXd dgamma;  ///< (C) a
  Eigen::VectorXd dbeta;   ///< (C) b
};

/// The backward of a layer's backward, for losses that hold gradients, such as gradient penalties.
/// With v a loss' gradient with respect to dx, and a and b those with respect to dgamma and dbeta,
///
///   F = sum v * dx + a * dgamma + b * dbeta
///
/// is differentiated. With s = inv_std, m(.) the mean over a channel, q = m(dy * x_hat), w = m(v *
/// x_hat), D_i = dy_i - m(dy) - x_hat_i * q and V_i = v_i - m(v) - x_hat_i * w, so that dx = gamma
/// * s * D:
///
///   dF/ddy    = gamma * s * V + a * x_hat + b            dF/dgamma = s * sum v * D
///   dF/dx     = a * s * D - gamma * s^2 * (x_hat * (m(v * dy) - m(v) * m(dy) - q * w) + w * D + q * V)
///
/// and where running statistics normalized
///
///   dF/ddy    = gamma * s * v + a * x_hat + b            dF/dgamma = s * sum v * dy
///   dF/dx     = a * s * dy
///
/// The second line follows from d x_hat_i / d x_j = s * ((i == j) - 1/n - x_hat_i * x_hat_j / n)
/// and ds / dx_j = -s^2 * x_hat_j / n. It differentiates the backward of the layer's last forward,
/// or of the one that left `saved`; the layer is not changed. Simple loops in double, on the
/// calling thread; x, dy and v are the layer's arguments, of one shape and storage order. Errors:
/// std::logic_error before a forward, std::invalid_argument for other shapes and lengths.
template <class Scalar, int spatial, class X, class Dy, class V>
[[nodiscard]] SecondGradients<typename detail::Argument<X>::Plain> backward_of_backward(
    const BatchNorm<Scalar, spatial>& layer, const Saved& saved, const X& x, const Dy& dy,
    const V& v, const WithRespectTo& other = {}) {
  using Eigen::ArrayXd, Eigen::Index;
  const detail::Where where{"batchnorm", "backward_of_backward"};
  const Index channels = layer.num_features();
  const auto lengths_fit = [&](const Eigen::VectorXd& a) {
    return a.size() == 0 || a.size() == channels;
  };
  if (!lengths_fit(other.dgamma) || !lengths_fit(other.dbeta)) {
    where.invalid("expected a gradient for dgamma and dbeta of length 0 or " +
                  std::to_string(channels));
  }
  constexpr int order = detail::common_order<X, Dy, V>();
  static_assert(order != detail::mixed_orders, "batchnorm: x, dy and v must share a storage order");
  static_assert(std::is_same_v<typename detail::Argument<V>::Scalar, Scalar>,
                "batchnorm: x, dy and v must have the layer's Scalar");
  const auto& values = detail::evaluated<order>(x);
  const auto& in_dy = detail::evaluated<order>(dy);
  const auto& in_v = detail::evaluated<order>(v);
  SecondGradients<typename detail::Argument<X>::Plain> result{
      detail::like(values), detail::like(values), Eigen::VectorXd::Zero(channels)};
  const detail::Shape shape = detail::shape_of(values);
  if (saved.shape.rank == 0) where.misuse("expected a forward before, got none: call forward(x)");
  if (shape != saved.shape || detail::shape_of(in_dy) != shape || detail::shape_of(in_v) != shape) {
    where.invalid("expected x, dy and v of the forward's shape " + saved.shape.text() + ", got " +
                  shape.text() + ", " + detail::shape_of(in_dy).text() + " and " +
                  detail::shape_of(in_v).text());
  }
  const ChannelAxis axis = layer.options().channel_axis;
  const auto at_x = detail::view_of<const Scalar, order>(values, axis);
  const auto at_dy = detail::view_of<const Scalar, order>(in_dy, axis);
  const auto at_v = detail::view_of<const Scalar, order>(in_v, axis);
  const auto out_x = detail::view_of<Scalar, order>(result.x, axis);
  const auto out_dy = detail::view_of<Scalar, order>(result.dy, axis);
  if (at_x.size() == 0) return result;

  const auto put = [](double value, Scalar* to) {
    *to = Scalar(detail::narrow<detail::ParamOf<Scalar>>(value));
  };
  const double n = static_cast<double>(at_x.count());
  for (Index c = 0; c < channels; ++c) {
    const double mu = saved.mean[c], s = saved.inv_std[c];
    const double gamma = layer.options().scale ? static_cast<double>(layer.gamma()[c]) : 1.0;
    const double a = other.dgamma.size() > 0 ? other.dgamma[c] : 0.0;
    const double b = other.dbeta.size() > 0 ? other.dbeta[c] : 0.0;
    const auto x_hat = [&](const Scalar* p) { return (static_cast<double>(*p) - mu) * s; };
    double m_dy = 0, m_v = 0, q = 0, w = 0, covariance = 0;  // means, of the batch alone
    double sum_v_dy = 0;
    if (saved.batch_statistics) {
      const auto sums = [&](const Scalar* px, const Scalar* pdy, const Scalar* pv) {
        const double d = static_cast<double>(*pdy), one = static_cast<double>(*pv), h = x_hat(px);
        m_dy += d / n;
        m_v += one / n;
        q += d * h / n;
        w += one * h / n;
      };
      detail::exact::for_each(c, sums, at_x, at_dy, at_v);
    }
    const auto centered = [&](const Scalar* px, const Scalar* pdy, const Scalar* pv) {
      const double big_d = static_cast<double>(*pdy) - m_dy - x_hat(px) * q;
      sum_v_dy += static_cast<double>(*pv) * big_d;
      covariance += (static_cast<double>(*pv) - m_v) * (static_cast<double>(*pdy) - m_dy) / n;
    };
    detail::exact::for_each(c, centered, at_x, at_dy, at_v);
    result.gamma[c] = s * sum_v_dy;
    const auto map = [&](const Scalar* px, const Scalar* pdy, const Scalar* pv, Scalar* to_x,
                         Scalar* to_dy) {
      const double h = x_hat(px);
      const double big_d = static_cast<double>(*pdy) - m_dy - h * q;
      const double big_v = static_cast<double>(*pv) - m_v - h * w;
      double of_s = 0;
      if (saved.batch_statistics) of_s = h * (covariance - q * w) + w * big_d + q * big_v;
      put(a * s * big_d - gamma * s * s * of_s, to_x);
      put(gamma * s * big_v + a * h + b, to_dy);
    };
    detail::exact::for_each(c, map, at_x, at_dy, at_v, out_x, out_dy);
  }
  return result;
}

/// Of the layer's last forward.
template <class Scalar, int spatial, class X, class Dy, class V>
[[nodiscard]] SecondGradients<typename detail::Argument<X>::Plain> backward_of_backward(
    const BatchNorm<Scalar, spatial>& layer, const X& x, const Dy& dy, const V& v,
    const WithRespectTo& other = {}) {
  return backward_of_backward(layer, layer.saved(), x, dy, v, other);
}

}  // namespace batchnorm
