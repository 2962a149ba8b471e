// SPDX-License-Identifier: MIT
#pragma once

#include <Eigen/Core>
#include <utility>

#include "batchnorm/detail/arguments.hpp"
#include "batchnorm/functional.hpp"

namespace batchnorm {

/// Count, mean and sum of squared deviations of each of C channels, in double:
///
///   n = number of values      mu = sum x / n      m2 = sum (x - mu)^2
///
/// The moments of parts merge into the moments of the whole:
///
///   d = mu_b - mu_a      mu = mu_a + d * n_b / n      m2 = m2_a + m2_b + d^2 * n_a * n_b / n
///
/// Source: Chan, Golub and LeVeque, 1983. The order of the parts changes the rounding and nothing
/// else; the same order gives the same bits. Merging a part without values, or a
/// default-constructed Moments, changes nothing. m2 is not finite if a value is not finite, or if a
/// deviation is beyond 1e150, so that the squares overflow.
struct Moments {
  Eigen::ArrayXd count;  ///< (C) n
  Eigen::ArrayXd mean;   ///< (C) mu, 0 if there are no values
  Eigen::ArrayXd m2;     ///< (C) sum of squared deviations from mu

  Moments() = default;
  /// C channels without values.
  explicit Moments(Eigen::Index channels)
      : count(Eigen::ArrayXd::Zero(channels)), mean(count), m2(count) {}
  Moments(Eigen::ArrayXd n, Eigen::ArrayXd mu, Eigen::ArrayXd sum_of_squares)
      : count(std::move(n)), mean(std::move(mu)), m2(std::move(sum_of_squares)) {}

  [[nodiscard]] Eigen::Index channels() const { return count.size(); }

  /// m2 / n or, unbiased, m2 / (n - 1). It is NaN where the divisor is 0, and without values.
  [[nodiscard]] Eigen::ArrayXd var(VarianceEstimate estimate = VarianceEstimate::population) const {
    const double less = estimate == VarianceEstimate::unbiased ? 1 : 0;
    return m2 / ((count - less).max)(0);
  }

  /// Merges another part. Throws std::invalid_argument if it has another number of channels.
  void merge(const Moments& other) {
    if (other.channels() == 0) return;
    if (channels() == 0) *this = Moments(other.channels());
    if (channels() != other.channels()) {
      const detail::Where where{"Moments", "merge"};
      where.invalid({"expected ", channels(), " channels, got ", other.channels()});
    }
    for (Eigen::Index c = 0; c < channels(); ++c) merge(other, c);
  }
  /// Merges channel c alone.
  void merge(const Moments& other, Eigen::Index c) {
    const double n_a = count[c], n_b = other.count[c], n = n_a + n_b;
    if (n_b == 0) return;
    const double d = other.mean[c] - mean[c];
    const double f_a = n_a / n, f_b = n_b / n;  // by these, infinity stays, as it does in a sum
    mean[c] = detail::is_finite(d) ? mean[c] + d * f_b : mean[c] * f_a + other.mean[c] * f_b;
    m2[c] = n_a == 0 ? other.m2[c] : m2[c] + other.m2[c] + d * d * (n_a * (n_b / n));
    count[c] = n;
  }
};
[[nodiscard]] inline Moments operator+(Moments a, const Moments& b) {
  a.merge(b);
  return a;
}

/// The moments of x, any tensor or matrix of rank 2 to 5 that a layer takes. The mean has an error
/// of at most half an ulp and 1e-7 standard deviations, however far from 0 the values are.
template <class X>
[[nodiscard]] Moments moments_of(const X& x, ChannelAxis axis = ChannelAxis::first) {
  using Scalar = typename detail::Argument<X>::Scalar;
  constexpr int order = detail::Argument<X>::order, rank = detail::Argument<X>::rank;
  static_assert(detail::is_supported_scalar<Scalar>,
                "batchnorm: Scalar must be float, double, Eigen::half or Eigen::bfloat16");
  static_assert(rank >= 2 && rank <= 5,
                "batchnorm: moments_of takes (N, C), (N, C, L), ...: rank 2 to 5");
  const auto& values = detail::evaluated<order>(x);
  const detail::View view = detail::view_of<order>(values, detail::shape_of(values), axis);
  Moments m(view.channels);
  if (view.size() == 0) return m;
  Eigen::ArrayXd inv_std(view.channels);  // not used, nor is the eps of 1
  functional::Workspace workspace;
  functional::measure<detail::ParamOf<Scalar>>(
      view, 1, {m.mean.data(), m.m2.data(), inv_std.data()}, {detail::Workers(), workspace});
  m.count = static_cast<double>(view.count());
  m.m2 *= m.count;
  return m;
}

}  // namespace batchnorm
