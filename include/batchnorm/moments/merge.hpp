// SPDX-License-Identifier: MIT
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <string>

#include "batchnorm/detail/arguments.hpp"
#include "batchnorm/error.hpp"
#include "batchnorm/functional.hpp"
#include "batchnorm/options.hpp"

namespace batchnorm {

/// Count, mean and sum of squared deviations of each of C channels, in double:
///
///   n = number of values      mu = sum x / n      m2 = sum (x - mu)^2
///
/// Moments of parts merge into those of the whole, up to rounding in whatever order:
///
///   d = mu_b - mu_a      mu = mu_a + d * n_b / n      m2 = m2_a + m2_b + d^2 * n_a * n_b / n
///
/// (Chan, Golub and LeVeque, 1983). The same order gives the same bits. A default-constructed one,
/// of no channels yet, and any of count 0 are the identity. Where a value is not finite, or
/// deviations of doubles are beyond 1e150, so that squares overflow, m2 is not finite.
struct Moments {
  Eigen::ArrayXd count;  ///< (C) n; whole numbers, but for what you set yourself
  Eigen::ArrayXd mean;   ///< (C) mu, 0 of no values
  Eigen::ArrayXd m2;     ///< (C) sum of squared deviations from mu

  Moments() = default;
  /// Of no values in C channels.
  explicit Moments(Eigen::Index channels)
      : count(Eigen::ArrayXd::Zero(channels)), mean(count), m2(count) {}
  Moments(Eigen::ArrayXd n, Eigen::ArrayXd mu, Eigen::ArrayXd sum_of_squares)
      : count(std::move(n)), mean(std::move(mu)), m2(std::move(sum_of_squares)) {}

  [[nodiscard]] Eigen::Index channels() const { return count.size(); }

  /// m2 / n, or unbiased m2 / (n - 1), which is NaN of a single value; both are NaN of none.
  [[nodiscard]] Eigen::ArrayXd var(VarianceEstimate estimate = VarianceEstimate::population) const {
    return m2 / (estimate == VarianceEstimate::unbiased ? Eigen::ArrayXd(count - 1) : count);
  }

  /// Takes another part in. Throws std::invalid_argument for another number of channels.
  void merge(const Moments& other) {
    if (other.channels() == 0) return;
    if (channels() == 0) {
      *this = other;
      return;
    }
    if (channels() != other.channels()) {
      detail::Where{"Moments", "merge"}.invalid("expected " + std::to_string(channels()) +
                                                " channels, got " +
                                                std::to_string(other.channels()));
    }
    for (Eigen::Index c = 0; c < channels(); ++c) merge(other, c);
  }
  /// Channel c alone.
  void merge(const Moments& other, Eigen::Index c) {
    const double n_a = count[c], n_b = other.count[c], n = n_a + n_b;
    if (n_b == 0) return;
    if (n_a == 0) {
      mean[c] = other.mean[c];
      m2[c] = other.m2[c];
    } else {
      const double d = other.mean[c] - mean[c];
      mean[c] += d * (n_b / n);
      m2[c] += other.m2[c] + d * d * (n_a * (n_b / n));
    }
    count[c] = n;
  }
  [[nodiscard]] friend Moments operator+(Moments a, const Moments& b) {
    a.merge(b);
    return a;
  }
};

namespace detail {

template <class Scalar>
[[nodiscard]] Moments moments_of_view(const View<const Scalar>& x, const Workers& workers,
                                      Scratch<ParamOf<Scalar>>& scratch) {
  Moments m(x.channels);
  if (x.size() == 0) return m;
  Eigen::ArrayXd inv_std(x.channels);
  const Normalizer<double> by{m.mean.data(), inv_std.data(), true};
  Forward<Scalar>({x, {nullptr, nullptr}, by, workers, scratch}, unwritten(x)).measure(0);
  m.count = static_cast<double>(x.count());
  m.m2 = scratch.var.head(x.channels) * m.count;
  return m;
}

}  // namespace detail

/// The moments of x: any tensor or matrix that a layer takes, of whatever rank from 2 on; `axis`
/// says where its channels are. Accumulated in double, the mean to half an ulp and 1e-7 sigma
/// whatever the offset.
template <class X>
[[nodiscard]] Moments moments_of(const X& x, ChannelAxis axis = ChannelAxis::first) {
  using Scalar = typename detail::Argument<X>::Scalar;
  constexpr int order = detail::Argument<X>::order;
  static_assert(detail::is_supported_scalar<Scalar>,
                "batchnorm: Scalar must be float, double, Eigen::half or Eigen::bfloat16");
  static_assert(detail::Argument<X>::rank >= 2 && detail::Argument<X>::rank <= 5,
                "batchnorm: moments_of takes (N, C), (N, C, L), ...: rank 2 to 5");
  const auto& values = detail::evaluated<order>(x);
  detail::Scratch<detail::ParamOf<Scalar>> scratch;
  return detail::moments_of_view<Scalar>(detail::view_of<const Scalar, order>(values, axis),
                                         detail::Workers(), scratch);
}

}  // namespace batchnorm
