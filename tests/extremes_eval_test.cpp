// SPDX-License-Identifier: MIT
// Statistics, factors and values at the ends of their type's range, where running statistics normalize,
// and what becomes of the running statistics.

#include <batchnorm/batchnorm.hpp>
#include <cmath>
#include <limits>

#include "support/catch.hpp"
#include "support/extremes.hpp"
#include "support/random.hpp"

using batchnorm::BatchNorm1d;
using batchnorm::Momentum;
using batchnorm::Options;
using batchnorm::VarianceEstimate;
using Eigen::Index;
using testing::bound_near_zero;
using testing::Column;
using testing::in_both_orders;
using testing::is_finite_value;
using testing::special;
using testing::worst_error;

TEST_CASE("a y beyond the range is an infinity of its sign", "[extremes]") {
  in_both_orders<float>(Eigen::Vector2f(1e10f, -1e10f), [](const auto& columns) {
    BatchNorm1d<float> layer(9);
    layer.gamma().setConstant(3e38f);
    layer.eval();
    const auto y = layer.forward(columns);
    for (Index c = 0; c < 9; ++c) {
      CHECK_FALSE(is_finite_value(y(0, c)));
      CHECK_FALSE(is_finite_value(y(1, c)));
      CHECK_FALSE(std::signbit(y(0, c)));
      CHECK(std::signbit(y(1, c)));
    }
  });
}

#if !defined(__FAST_MATH__)  // which orders factors as it likes, and makes 0 times infinity 0
/// Layers in eval mode: y = gamma * (x - mean) / sqrt(var), within a relative error.
void check_y_in_eval(float x, float gamma, float mean, float var, double expected, double error) {
  in_both_orders<float>(Eigen::VectorXf::Constant(5, x), [&](const auto& columns) {
    BatchNorm1d<float> layer(9);
    layer.gamma().setConstant(gamma);
    layer.running_mean().setConstant(mean);
    layer.running_var().setConstant(var);
    layer.eval();
    const auto y = layer.forward(columns);
    for (Index i = 0; i < y.size(); ++i) CHECK(std::abs(y.data()[i] / expected - 1) <= error);
  });
}

/// Layers in eval mode: dx = dy * gamma / sqrt(var), within a relative error.
template <class Scalar>
void check_dx_in_eval(Scalar dy, Scalar gamma, Scalar var, double expected, double error) {
  in_both_orders<Scalar>(Column<Scalar>::Constant(5, dy), [&](const auto& columns) {
    BatchNorm1d<Scalar> layer(9);
    layer.gamma().setConstant(gamma);
    layer.running_var().setConstant(var);
    layer.eval();
    static_cast<void>(layer.forward(columns));
    const auto dx = layer.backward(columns, columns);
    for (Index i = 0; i < dx.size(); ++i) CHECK(std::abs(dx.data()[i] / expected - 1) <= error);
  });
}

TEST_CASE("in eval mode dx keeps its digits where gamma * inv_std alone vanishes", "[extremes]") {
  check_dx_in_eval(1e250, 1e-300, 1e300, 1e-200, 1e-12);
}

TEST_CASE("in eval mode dx keeps its digits where gamma * inv_std has too few", "[extremes]") {
  check_dx_in_eval(1e38f, 1e-21f, 1e38f, 1e-2, 6e-7);
}

TEST_CASE("in eval mode y is right where x - mean overflows, though neither does", "[extremes]") {
  check_y_in_eval(3e38f, 1, -1.5e38f, 1e38f, 4.5e19, 6e-7);
}

TEST_CASE("in eval mode y is right where x - mean overflows, though the scale fits", "[extremes]") {
  const double expected = (double{3e38f} + double{1.5e38f}) * 0x1p-110;  // 3.5e5
  check_y_in_eval(3e38f, 0x1p-110f, -1.5e38f, 1, expected, 6e-6);
}

TEST_CASE("doubles whose squares are subnormal are normalized with all digits, by eps 0",
          "[extremes]") {
  Eigen::VectorXd values(4);
  values << 1e-160, 3e-160, 1e-160, 3e-160;  // mean 2e-160, deviation 1e-160
  Options exact;
  exact.eps = 0;
  in_both_orders<double>(values, [&](const auto& x) {
    BatchNorm1d<double> layer(9, exact);
    const auto y = layer.forward(x);
    for (Index c = 0; c < 9; ++c) {
      for (Index n = 0; n < 4; ++n) CHECK(std::abs(y(n, c) - (n % 2 == 0 ? -1 : 1)) <= 1e-12);
    }
  });
}

TEST_CASE("doubles whose squares vanish count as constant, by eps 0", "[extremes]") {
  Options exact;
  exact.eps = 0;
  in_both_orders<double>(Eigen::Vector3d(1e-170, 5e-324, -1e-170), [&](const auto& x) {
    BatchNorm1d<double> layer(9, exact);
    layer.beta().setConstant(7);
    const auto y = layer.forward(x);
    for (Index i = 0; i < y.size(); ++i) CHECK(y.data()[i] == 7);
  });
}

TEST_CASE("in eval mode an infinite x is in no dx, for factors beyond the kernels too",
          "[extremes]") {
  in_both_orders<float>(Eigen::Vector2f(special<float>(0), 1), [](const auto& x) {
    BatchNorm1d<float> layer(9);
    layer.gamma().setConstant(3e38f);
    layer.eval();
    static_cast<void>(layer.forward(x));
    const auto dx = layer.backward(x, std::decay_t<decltype(x)>::Constant(2, 9, 0.5f));
    const double expected = 0.5 * double{3e38f} / std::sqrt(1 + 1e-5);
    for (Index i = 0; i < dx.size(); ++i) CHECK(std::abs(dx.data()[i] / expected - 1) <= 6e-7);
  });
}
#endif

TEST_CASE("a running variance beyond the range is stored as the largest finite value",
          "[extremes]") {
  Options options;
  options.momentum = Momentum::weight_of_new(1);
  const auto check = [&](auto largest, double size) {
    using Param = decltype(largest);
    Column<Param> x(6);
    for (Index i = 0; i < 6; ++i) x[i] = static_cast<Param>(i % 2 ? size : -size);
    for (const auto variance : {VarianceEstimate::unbiased, VarianceEstimate::population}) {
      options.running_variance = variance;
      in_both_orders<Param>(x, [&](const auto& columns) {
        BatchNorm1d<Param> layer(9, options);
        for (int step = 0; step < 2; ++step) {
          static_cast<void>(layer.forward(columns));
          CHECK(layer.running_var() == Column<Param>::Constant(9, largest));
          // 0, but for the double's roundings, which compilers may fuse otherwise
          CHECK((layer.running_mean().template cast<double>() / size).cwiseAbs().maxCoeff() <
                1e-15);
        }
        layer.eval();
        const auto y = layer.forward(columns);
        CHECK(is_finite_value(y(0, 0)));
        // 0.1 of it is in range again
        layer.train();
        layer.set_momentum(Momentum::weight_of_new(0.9));
        static_cast<void>(layer.forward(decltype(layer.forward(columns))(columns * Param(0))));
        CHECK(layer.running_var()[4] == Approx(0.1 * static_cast<double>(largest)));
      });
    }
  };
  check(std::numeric_limits<float>::max(), 3e38);
  check(std::numeric_limits<float>::max(), 1e20);
  check(std::numeric_limits<double>::max(), 1.7e308);
  check(std::numeric_limits<double>::max(), 1e160);
}

TEST_CASE("a running mean stays the end of the range that all values are at", "[extremes]") {
  // 0.9 m + 0.1 m rounds to more than m.
  const auto check = [](auto end) {
    using Scalar = decltype(end);
    Options options;
    options.momentum = Momentum::weight_of_new(0.1);
    BatchNorm1d<Scalar> layer(1, options);
    layer.running_mean()[0] = end;
    for (int step = 0; step < 3; ++step) {
      static_cast<void>(layer.forward(Column<Scalar>(Column<Scalar>::Constant(6, end))));
      CHECK(layer.running_mean()[0] == end);
    }
  };
  check(std::numeric_limits<float>::max());
  check(std::numeric_limits<float>::lowest());
  check(std::numeric_limits<double>::max());
  check(std::numeric_limits<double>::lowest());
}

TEST_CASE("the smallest eps and the smallest values give finite results", "[extremes]") {
  Options options;
  options.eps = std::numeric_limits<float>::min();
  testing::Random random(2);
  for (const double deviation : {1e-12, 1e-18, 1e-25, 1e-35}) {
    Eigen::VectorXf x(300);
    random.fill(x, 0, deviation);
    CHECK(worst_error<float>(x, 1, options) <= bound_near_zero);
  }
  options.eps = std::numeric_limits<double>::min();
  for (const double deviation : {1e-100, 1e-150, 1e-155, 1e-200}) {
    Eigen::VectorXd x(300);
    random.fill(x, 0, deviation);
    in_both_orders<double>(x, [&](const auto& columns) {
      const auto y = BatchNorm1d<double>(9, options).forward(columns);
      for (Index i = 0; i < y.size(); ++i) CHECK(is_finite_value(y.data()[i]));
    });
  }
}
