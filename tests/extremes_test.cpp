// SPDX-License-Identifier: MIT
// Values at the ends of their type's range, and constants, in training.

#include "support/extremes.hpp"

#include <batchnorm/batchnorm.hpp>
#include <cmath>
#include <cstdint>
#include <limits>

#include "support/catch.hpp"
#include "support/random.hpp"
#include "support/refused.hpp"

using batchnorm::BatchNorm1d;
using batchnorm::Options;
using Eigen::Index;
using testing::Column;
using testing::double_bound;
using testing::float_bound;
using testing::in_both_orders;
using testing::is_finite_value;
using testing::same_bits;
using testing::worst_error;

TEST_CASE("float values up to the largest give finite and right results", "[extremes]") {
  const float largest = std::numeric_limits<float>::max();
  for (const float size : {1e15f, 1e19f, 1e20f, 1e30f, 3e38f, largest}) {
    for (const Index n : {2, 3, 100, 5000}) {
      INFO("size " << size << ", n " << n);
      Eigen::VectorXf ends(n), ramp(n), outlier(n);
      for (Index i = 0; i < n; ++i) {
        ends[i] = i % 2 ? size : -size;
        ramp[i] = size * (static_cast<float>(2 * i + 1) / static_cast<float>(n) - 1);
        outlier[i] = i == 0 ? size : static_cast<float>(i % 5);
      }
      CHECK(worst_error<float>(ends, size, {}) <= float_bound);
      CHECK(worst_error<float>(ramp, size, {}) <= float_bound);
      CHECK(worst_error<float>(outlier, size, {}) <= float_bound);
      CHECK(worst_error<float>(outlier.reverse(), size, {}) <= float_bound);
    }
  }
}

TEST_CASE("double values up to the largest give finite and right results", "[extremes]") {
  const double largest = std::numeric_limits<double>::max();
  for (const double size : {1e150, 1e155, 1e300, 1e308, largest}) {
    for (const Index n : {2, 3, 100, 5000}) {
      INFO("size " << size << ", n " << n);
      Eigen::VectorXd ends(n), ramp(n), outlier(n), close(n);
      for (Index i = 0; i < n; ++i) {
        ends[i] = i % 2 ? size : -size;
        ramp[i] = size * (static_cast<double>(2 * i + 1) / static_cast<double>(n) - 1);
        outlier[i] = i == 0 ? -size : static_cast<double>(i % 5);
        close[i] = i % 3 ? size : size * (1 - 1e-8);
      }
      CHECK(worst_error<double>(ends, size, {}) <= double_bound);
      CHECK(worst_error<double>(ramp, size, {}) <= double_bound);
      CHECK(worst_error<double>(outlier, size, {}) <= double_bound);
      // sigma is 1e-8 of the values, whose rounding of 1e-16 is 1e-8 of it
      CHECK(worst_error<double>(close, size, {}) <= 1e-7);
    }
  }
}

TEMPLATE_TEST_CASE("gradients of large values are those of small ones, times a power of two",
                   "[extremes]", float, double) {
  // dx falls as x grows; on the way there factors fall as its square, and must not vanish.
  constexpr int most = std::is_same_v<TestType, double> ? 1000 : 120;
  Column<TestType> x(4), dy(4);
  x << 1, -1, 2, -2;
  dy << 1, -1, 2, -2.5f;
  // mean 0, variance 2.5, dbeta -0.5, dgamma * sqrt(2.5) = 11:
  // dx * sqrt(2.5) = dy + 0.125 - x * 11 / 10
  const TestType expected[] = {0.025f, 0.225f, -0.075f, -0.175f};
  for (int power = 20; power <= most; power += 20) {
    BatchNorm1d<TestType> layer(1);
    const Column<TestType> large = x * std::ldexp(TestType(1), power);
    static_cast<void>(layer.forward(large));
    const Column<TestType> dx = layer.backward(large, dy);
    INFO("x times two to the " << power);
    for (Index i = 0; i < 4; ++i) {
      const double scaled = std::ldexp(static_cast<double>(dx[i]), power) * std::sqrt(2.5);
      CHECK(scaled == Approx(static_cast<double>(expected[i])).margin(5e-6));  // roundings of 2
    }
  }
}

TEMPLATE_TEST_CASE("gradients are right where means are beyond what the kernels do", "[extremes]",
                   float, double) {
  const TestType size = std::ldexp(TestType(1), std::is_same_v<TestType, double> ? 970 : 104);
  Column<TestType> x(4), dy(4);
  x << 1, 3, 1, 3;  // x_hat -1, 1, -1, 1
  dy << 1, 2, 3, -1;
  x *= size;
  // dbeta 5, dgamma -3, dx * size = dy - 5/4 + x_hat * 3/4
  const double expected[] = {-1, 1.5, 1, -1.5};
  in_both_orders<TestType>(x, [&](const auto& columns) {
    using X = std::decay_t<decltype(columns)>;
    BatchNorm1d<TestType> layer(9);
    static_cast<void>(layer.forward(columns));
    const X dx = layer.backward(columns, X(dy.replicate(1, 9)));
    for (Index c = 0; c < 9; ++c) {
      CHECK(layer.grad_beta()[c] == Approx(5));
      CHECK(layer.grad_gamma()[c] == Approx(-3));
      for (Index i = 0; i < 4; ++i) {
        CHECK(static_cast<double>(dx(i, c) * size) == Approx(expected[i]));
      }
    }
  });
}

/// dx of x = (1, -1, 3, -3) * x_unit and dy = (1, -1, 2, -2) * dy_unit by eps 0. With x_hat =
/// x / (x_unit * sqrt(5)), mean_dy is 0 and the mean of dy * x_hat is 3.5 / sqrt(5) * dy_unit:
///   dx = gamma / (x_unit * sqrt(5)) * (dy - 0.7 * x * dy_unit / x_unit)
template <class Scalar>
void check_dx_in_units(Scalar x_unit, Scalar dy_unit, Scalar gamma, double error) {
  Options exact;
  exact.eps = 0;
  const Column<Scalar> x = Eigen::Matrix<Scalar, 4, 1>(1, -1, 3, -3) * x_unit;
  const Column<Scalar> dy = Eigen::Matrix<Scalar, 4, 1>(1, -1, 2, -2) * dy_unit;
  const long double unit = static_cast<long double>(gamma) / static_cast<long double>(x_unit) /
                           std::sqrt(5.0L) * static_cast<long double>(dy_unit);
  const long double expected[] = {0.3L, -0.3L, -0.1L, 0.1L};
  in_both_orders<Scalar>(x, [&](const auto& columns) {
    using X = std::decay_t<decltype(columns)>;
    BatchNorm1d<Scalar> layer(9, exact);
    layer.gamma().setConstant(gamma);
    static_cast<void>(layer.forward(columns));
    const X dx = layer.backward(columns, X(dy.replicate(1, 9)));
    for (Index c = 0; c < 9; ++c) {
      for (Index i = 0; i < 4; ++i)
        CHECK(std::abs(static_cast<long double>(dx(i, c)) / unit - expected[i]) <= error);
    }
  });
}

TEST_CASE("dx is right where its two terms overflow, and their sum does not", "[extremes]") {
  check_dx_in_units<float>(1e10f, 1e38f, 2e11f, 6e-7);
  check_dx_in_units<float>(1e10f, 1e20f, 2e29f, 6e-7);
  check_dx_in_units<double>(1e10, 2e307, 2e11, 2e-15);
}

TEST_CASE("dx keeps its digits where only a part of a product is subnormal", "[extremes]") {
  check_dx_in_units<double>(1e150, 1e-160, 1e200, 2e-15);
}

TEST_CASE("half and bfloat16 values up to the largest give finite results", "[extremes]") {
  const auto check = [](auto largest) {
    using Scalar = decltype(largest);
    for (const Index n : {2, 100, 3000}) {
      Column<Scalar> ends(n);
      for (Index i = 0; i < n; ++i) ends[i] = i % 2 ? largest : -largest;
      in_both_orders<Scalar>(ends, [&](const auto& columns) {
        BatchNorm1d<Scalar> layer(9);
        const auto y = layer.forward(columns);
        const auto dx = layer.backward(columns, columns);
        for (Index i = 0; i < y.size(); ++i) {
          CHECK(std::abs(static_cast<float>(y.data()[i])) == 1);
          CHECK(is_finite_value(dx.data()[i]));
        }
      });
    }
  };
  check(Eigen::numext::bit_cast<Eigen::half>(std::uint16_t{0x7bff}));      // 65504
  check(Eigen::numext::bit_cast<Eigen::bfloat16>(std::uint16_t{0x7f7f}));  // 3.39e38
}

TEST_CASE("half sums beyond its range survive", "[extremes]") {
  // 70000 values of 100: their sum is 107 times the largest half.
  Column<Eigen::half> x(70000);
  for (Index i = 0; i < x.size(); ++i) x[i] = Eigen::half(i % 2 ? 101.f : 99.f);
  BatchNorm1d<Eigen::half> layer(1);
  const auto y = layer.forward(x);
  CHECK(layer.saved().mean[0] == 100);
  CHECK(layer.running_mean()[0] == Approx(10));
  // x_hat = 1 / sqrt(1 + 1e-5) = 0.999995, the half next to which is 1.
  CHECK(static_cast<float>(y[0]) == -1);
  CHECK(static_cast<float>(y[1]) == 1);
  Column<Eigen::half> dy = Column<Eigen::half>::Constant(70000, Eigen::half(100));
  static_cast<void>(layer.backward(x, dy));
  CHECK(layer.grad_beta()[0] == 7e6f);
}

TEMPLATE_TEST_CASE("one value far out costs no digits, wherever it lies", "[extremes]", Eigen::half,
                   Eigen::bfloat16) {
  // One 2^15 among 255 zeros: the mean is 128, the variance 2^30 / 256 - 2^14.
  for (const Index place : {0, 1, 128, 255}) {
    INFO("at " << place);
    Column<TestType> x = Column<TestType>::Zero(256);
    x[place] = TestType(32768.f);
    BatchNorm1d<TestType> layer(1);
    const auto y = layer.forward(x);
    CHECK(layer.saved().mean[0] == 128);
    CHECK(layer.saved().inv_std[0] == Approx(1 / std::sqrt(4177920.)).epsilon(1e-9));  // and eps
    // x_hat = -1 / sqrt(255) and sqrt(255), to within a rounding.
    constexpr double rounding = std::is_same_v<TestType, Eigen::half> ? 0x1p-11 : 0x1p-8;
    CHECK(static_cast<double>(y[place]) == Approx(std::sqrt(255.)).epsilon(rounding));
    CHECK(static_cast<double>(y[(place + 1) % 256]) ==
          Approx(-1 / std::sqrt(255.)).epsilon(rounding));
  }
}

TEST_CASE("a constant channel gives exactly beta, whatever the constant", "[extremes]") {
  const auto check = [](auto scalar, const std::vector<double>& constants) {
    using Scalar = decltype(scalar);
    using Param = typename BatchNorm1d<Scalar>::Param;
    for (const double constant : constants) {
      for (const Index n : {2, 3, 33, 1000, 4099, 70001}) {
        for (const double eps : {1e-5, 0.25, 2e-38, 0.0}) {
          INFO("constant " << constant << ", n " << n << ", eps " << eps);
          Options options;
          options.eps = eps;
          BatchNorm1d<Scalar> layer(9, options);
          layer.gamma().setConstant(Param(1.7));
          for (Index c = 0; c < 9; ++c) layer.beta()[c] = Param(0.1) * Param(c);
          Column<Scalar> x = Column<Scalar>::Constant(n, static_cast<Scalar>(constant));
          in_both_orders<Scalar>(x, [&](const auto& columns) {
            auto expected = columns;
            for (Index c = 0; c < 9; ++c) {
              expected.col(c).setConstant(static_cast<Scalar>(layer.beta()[c]));
            }
            CHECK(same_bits(layer.forward(columns), expected));
          });
          if (n > 5000) break;
        }
      }
    }
  };
  check(0.f, {0, 0.1, -1e6, 16777217, 3e38, -3.4e38, 1e-30, 1e-40, 1.0 / 3});
  check(0.0, {0, 0.1, -1e6, 1e308, -1.7e308, 1e-300, 4e-320, 1.0 / 3});
  check(Eigen::half(), {0, 0.1, -1000, 65504, 1e-7, 1.0 / 3});
  check(Eigen::bfloat16(), {0, 0.1, -1e6, 3e38, 1e-40, 1.0 / 3});
}

TEST_CASE("gamma and beta of any size give finite and right results", "[extremes]") {
  testing::Random random(1);
  Eigen::VectorXf x(1000);
  random.fill(x, 3, 2);
  for (const float gamma : {1e-45f, 1e-38f, 1e-30f, 1e-3f, -1.f, 7.f}) {
    for (const float beta : {0.f, 1e-40f, -1.f, 1e20f, 3e38f}) {
      INFO("gamma " << gamma << ", beta " << beta);
      CHECK(worst_error<float>(x, 1, {}, gamma, beta) <= float_bound);
    }
  }
  for (const float gamma : {1e30f, -5e37f}) {  // |x_hat| < 5
    INFO("gamma " << gamma);
    Options options;
    BatchNorm1d<float> layer(9, options);
    layer.gamma().setConstant(gamma);
    in_both_orders<float>(x, [&](const auto& columns) {
      const auto y = layer.forward(columns);
      for (Index i = 0; i < y.size(); ++i) {
        const double x_hat = (static_cast<double>(columns.data()[i]) - layer.saved().mean[0]) *
                             layer.saved().inv_std[0];
        CHECK(std::abs(static_cast<double>(y.data()[i]) - gamma * x_hat) <=
              float_bound * std::abs(gamma) * 5);
      }
    });
  }
}

TEST_CASE("a double y is finite where gamma * x_hat alone is not", "[extremes]") {
  // Mean 1 and variance 3, so that x_hat of the first value is 3 / sqrt(3) = 1.732:
  //   1.5e308 * 1.732 - 1.2e308 = 1.398e308, where the product is 2.6e308.
  Eigen::VectorXd x(4);
  x << 4, 0, 0, 0;
  in_both_orders<double>(x, [&](const auto& columns) {
    BatchNorm1d<double> layer(9);
    layer.gamma().setConstant(1.5e308);
    layer.beta().setConstant(-1.2e308);
    const auto y = layer.forward(columns);
    const double x_hat = 3 / std::sqrt(3 + 1e-5);
    const double expected = (1.5 * x_hat - 1.2) * 1e308;
    for (Index c = 0; c < 9; ++c) {
      CHECK(is_finite_value(y(0, c)));
      CHECK(std::abs(y(0, c) - expected) <= 1e-12 * expected);
    }
  });
}

TEST_CASE("eval mode is finite for statistics and values of any size", "[extremes]") {
  const double largest = std::numeric_limits<double>::max();
  struct Setting {
    double mean, var, x, gamma, expected;
  };
  const double inv_root_eps = 1 / std::sqrt(1e-5);
  for (const Setting& s :
       {Setting{-0x1p990, 1e300, largest, 1, largest / 1e150 + 0x1p990 / 1e150},
        Setting{-largest, 1e300, largest, 1, 2 * (largest / 1e150)},
        Setting{largest, 1e300, -largest, 1, -2 * (largest / 1e150)},
        Setting{1e308, 1e308, -1e308, 1, -2e154},
        Setting{0, largest, largest, 1, std::sqrt(largest)},
        Setting{largest, 0, -largest, 1e-47, -2 * (largest * 1e-47 * inv_root_eps)},
        Setting{-1e308, 1e-30, 1e307, -1e-260, -1.1e48 * inv_root_eps},
        Setting{0, largest, 1e10, 1e300, 1e300 / (std::sqrt(largest) / 1e10)}}) {
    INFO("mean " << s.mean << ", var " << s.var << ", x " << s.x << ", gamma " << s.gamma);
    in_both_orders<double>(Eigen::VectorXd::Constant(5, s.x), [&](const auto& columns) {
      BatchNorm1d<double> layer(9);
      layer.gamma().setConstant(s.gamma);
      layer.running_mean().setConstant(s.mean);
      layer.running_var().setConstant(s.var);
      layer.eval();
      const auto y = layer.forward(columns);
      for (Index i = 0; i < y.size(); ++i) {
        CHECK(is_finite_value(y.data()[i]));
        CHECK(std::abs(y.data()[i] - s.expected) <= 1e-12 * std::abs(s.expected));
      }
    });
  }
  const float largest_float = std::numeric_limits<float>::max();
  for (const float mean : {-largest_float, -1e31f, 1e38f}) {
    in_both_orders<float>(Eigen::VectorXf::Constant(5, largest_float), [&](const auto& columns) {
      BatchNorm1d<float> layer(9);
      layer.running_mean().setConstant(mean);
      layer.running_var().setConstant(1e30f);
      layer.eval();
      const double expected = (double{largest_float} - double{mean}) / std::sqrt(double{1e30f});
      const auto y = layer.forward(columns);
      for (Index i = 0; i < y.size(); ++i) {
        CHECK(std::abs(double{y.data()[i]} / expected - 1) <= float_bound);
      }
    });
  }
}

TEST_CASE("a layer without gamma and beta is right at the ends of the range too", "[extremes]") {
  Options bare;
  bare.scale = bare.shift = false;
  in_both_orders<float>(Eigen::Vector2f(3e38f, -3e38f), [&](const auto& x) {
    BatchNorm1d<float> layer(9, bare);
    const auto y = layer.forward(x);
    for (Index c = 0; c < 9; ++c) {
      CHECK(y(0, c) == Approx(1));
      CHECK(y(1, c) == Approx(-1));
    }
  });
}
