// SPDX-License-Identifier: MIT
// The errors of a layer in units of what is promised. With sigma the deviation of a channel and h
// half an ulp where a result is stored:
//   |mean - exact|   <= 1e-7 sigma + h              |var - exact|    <= 1e-6 var + h
//   |dbeta - exact|  <= 5e-7 sum |dy| + h           |dgamma - exact| <= 5e-7 sum |dy * x_hat| + h
//   |y - exact|      <= 6e-7 max(1, |gamma * x_hat|, |beta|) + 1e-16 |gamma| max |x_hat|
//   |dx - exact|     <= 1.2e-6 |gamma * inv_std| (|dy| + sum |dy| / n + |x_hat| sum |dy * x_hat| / n)
// Where y and dx are half or bfloat16, they are float's with one more rounding, h. In double some
// thousand sums, each with a rounding of 1.1e-16, make it 1e-12 for all of these; the mean, which is
// double too, keeps its error m = 1e-12 sigma + h, and x_hat has m * inv_std of it; and below 2e-308,
// where a double has fewer digits, each of the three terms of var and dx is rounded by h.
#pragma once

#include <algorithm>
#include <batchnorm/batchnorm.hpp>
#include <cmath>
#include <limits>
#include <type_traits>
#include <unsupported/Eigen/CXX11/Tensor>
#include <vector>

#include "support/catch.hpp"
#include "support/exact.hpp"
#include "support/random.hpp"

namespace testing {

/// How n values of a channel lie in memory.
struct Layout {
  const char* name;
  batchnorm::ChannelAxis axis;
  Eigen::Index run;       // values of a channel side by side; 0: all of them
  Eigen::Index channels;  // side by side, some fill a vector and some are left over
};
inline constexpr Layout layouts[] = {
    {"one run", batchnorm::ChannelAxis::first, 0, 2},
    {"short runs", batchnorm::ChannelAxis::first, 7, 2},
    {"runs of 49", batchnorm::ChannelAxis::first, 49, 2},
    {"channels side by side", batchnorm::ChannelAxis::last, 1, 23},
    {"two channels side by side", batchnorm::ChannelAxis::last, 1, 2}};

/// A channel.
template <class Scalar>
struct Data {
  using Param = typename batchnorm::BatchNorm1d<Scalar>::Param;
  std::vector<Scalar> x, dy;
  Param gamma = Param(1), beta = Param(0);
};

/// The errors of one layer in units of what is promised, at their largest.
struct Errors {
  double mean = 0, var = 0, y = 0, dx = 0, dbeta = 0, dgamma = 0;

  void take(const Errors& e) {
    for (const auto each : all) this->*each = std::max(this->*each, e.*each);
  }
  [[nodiscard]] double worst() const { return std::max({mean, var, y, dx, dbeta, dgamma}); }

  static constexpr double Errors::*all[] = {&Errors::mean, &Errors::var,   &Errors::y,
                                            &Errors::dx,   &Errors::dbeta, &Errors::dgamma};
};

inline void check(const Errors& e) {
  CHECK(e.mean <= 1);
  CHECK(e.var <= 1);
  CHECK(e.y <= 1);
  CHECK(e.dx <= 1);
  CHECK(e.dbeta <= 1);
  CHECK(e.dgamma <= 1);
}

/// Half the distance from v to the next number of a type.
template <class Scalar, class Real>
Real half_ulp(Real v) {
  using Limits = std::numeric_limits<Scalar>;
  constexpr int least = Limits::min_exponent;  // Eigen 3.4's has no address
  int exponent;
  static_cast<void>(std::frexp(static_cast<long double>(size_of(v)), &exponent));
  return std::ldexp(1.0L, std::max(exponent, least) - Limits::digits - 1);
}

template <class Scalar, class Real>
bool in_range(Real v) {
  return size_of(v) <= static_cast<Real>(static_cast<double>(std::numeric_limits<Scalar>::max()));
}

/// An error in units of what is allowed; infinite for a NaN.
template <class Scalar, class Real>
double ratio(Scalar got, Real exact, Real allowed) {
  const Real error = size_of(static_cast<Real>(static_cast<double>(got)) - exact);
  if (error == 0) return 0;
  const double r = static_cast<double>(error / allowed);
  return r <= std::numeric_limits<double>::max() ? r : std::numeric_limits<double>::infinity();
}

/// Errors of a layer all of whose channels hold the data, against arithmetic in Real. A value whose
/// exact result, or a term of whose gradient, is beyond the type's range is left out.
template <class Real, class Scalar>
Errors errors_of(const Data<Scalar>& data, const Layout& layout, double eps = 1e-5) {
  using Param = typename Data<Scalar>::Param;
  using Tensor = Eigen::Tensor<Scalar, 3, Eigen::RowMajor>;  // (N, C, L) or (N, L, C)
  using Eigen::Index;
  const Index run = layout.run == 0 ? static_cast<Index>(data.x.size()) : layout.run;
  const Index samples = static_cast<Index>(data.x.size()) / run;
  const std::size_t n = static_cast<std::size_t>(samples * run);
  const bool last = layout.axis == batchnorm::ChannelAxis::last;
  const Index channels = layout.channels;

  Tensor x = last ? Tensor(samples, run, channels) : Tensor(samples, channels, run), dy = x;
  const auto element = [&](Tensor& t, std::size_t i, Index c) -> Scalar& {
    const Index s = static_cast<Index>(i) / run, p = static_cast<Index>(i) % run;
    return last ? t(s, p, c) : t(s, c, p);
  };
  for (Index c = 0; c < channels; ++c) {
    for (std::size_t i = 0; i < n; ++i) {
      element(x, i, c) = data.x[i];
      element(dy, i, c) = data.dy[i];
    }
  }
  batchnorm::Options options;
  options.channel_axis = layout.axis;
  options.eps = eps;
  options.momentum = batchnorm::Momentum::weight_of_new(1);
  options.running_variance = batchnorm::VarianceEstimate::population;
  batchnorm::BatchNorm1d<Scalar> layer(channels, options);
  layer.gamma().setConstant(data.gamma);
  layer.beta().setConstant(data.beta);
  Tensor y = layer.forward(x), dx = layer.backward(x, dy);

  const auto first = [n](const std::vector<Scalar>& v) {
    return std::vector<Scalar>(v.begin(), v.begin() + static_cast<std::ptrdiff_t>(n));
  };
  const ExactChannel<Real> exact(first(data.x), first(data.dy), data.gamma, data.beta, eps);
  constexpr bool is_double = std::is_same_v<Scalar, double>;
  constexpr bool is_narrow = !std::is_same_v<Scalar, Param>;
  const auto bound = [](double of_float) -> Real { return is_double ? 1e-12 : of_float; };
  const Real of_mean = bound(1e-7) * root(exact.var) + half_ulp<Param>(exact.mean);
  constexpr int roundings = is_double ? 3 : 1;
  const Real of_x_hat = is_double ? of_mean * exact.inv_std : Real(0);
  const Real gamma = size_of(static_cast<Real>(data.gamma)), count = static_cast<Real>(n);
  Real largest_x_hat = 0;
  for (const Scalar& x_i : first(data.x))
    largest_x_hat = std::max(largest_x_hat, size_of(exact.x_hat(x_i)));
  const Real of_center = is_double ? of_x_hat : Real(1e-16) * largest_x_hat;

  Errors worst;
  for (std::size_t i = 0; i < n; ++i) {
    const Real expected_y = exact.y(data.x[i]);
    const Real allowed_y = bound(6e-7) * exact.size_of_y(data.x[i]) + gamma * of_center +
                           (is_narrow ? half_ulp<Scalar>(expected_y) : Real(0));
    const Real expected_dx = exact.dx(data.x[i], data.dy[i]);
    const Real size_of_dx = exact.size_of_dx(data.x[i], data.dy[i]);
    const Real allowed_dx =
        bound(1.2e-6) * size_of_dx + roundings * half_ulp<Scalar>(expected_dx) +
        gamma * exact.inv_std * of_x_hat *
            (exact.size_dy_x_hat / count + size_of(exact.x_hat(data.x[i])) * exact.size_dy / count);
    for (Index c = 0; c < channels; ++c) {
      if (in_range<Scalar>(size_of(expected_y) + allowed_y)) {
        worst.y = std::max(worst.y, ratio(element(y, i, c), expected_y, allowed_y));
      }
      if (in_range<Scalar>(size_of_dx)) {
        worst.dx = std::max(worst.dx, ratio(element(dx, i, c), expected_dx, allowed_dx));
      }
    }
  }
  for (Index c = 0; c < channels; ++c) {
    Errors e;
    e.mean = ratio(layer.saved().mean[c], exact.mean, of_mean);
    if (in_range<Param>(exact.var)) {
      e.var = ratio(layer.running_var()[c], exact.var,
                    bound(1e-6) * exact.var + roundings * half_ulp<Param>(exact.var));
    }
    e.dbeta = ratio(layer.grad_beta()[c], exact.sum_dy,
                    bound(5e-7) * exact.size_dy + half_ulp<Param>(exact.sum_dy));
    e.dgamma = ratio(layer.grad_gamma()[c], exact.sum_dy_x_hat,
                     bound(5e-7) * exact.size_dy_x_hat + of_x_hat * exact.size_dy +
                         half_ulp<Param>(exact.sum_dy_x_hat));
    worst.take(e);
  }
  return worst;
}

/// Normal numbers, `offset` deviations from 0, and a random gradient.
template <class Scalar>
Data<Scalar> normal_data(Eigen::Index n, double offset, double deviation, std::uint64_t seed) {
  Random random(seed);
  Data<Scalar> data;
  for (Eigen::Index i = 0; i < n; ++i) {
    data.x.push_back(static_cast<Scalar>(deviation * random.normal(offset)));
    data.dy.push_back(static_cast<Scalar>(random.normal()));
  }
  return data;
}

/// Calls f(i) for each value.
template <class Scalar, class F>
void set(std::vector<Scalar>& values, const F& f) {
  Eigen::Index i = 0;
  for (Scalar& v : values) v = static_cast<Scalar>(f(i++));
}

}  // namespace testing
