// SPDX-License-Identifier: MIT
// Values at the ends of their type's range, constants, values that are not finite, and options that
// are not valid. All of it is compiled a second time with -ffast-math, under which comparisons with
// NaN and infinity mean nothing: these tests look at bits, too.

#include <array>
#include <batchnorm/batchnorm.hpp>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <stdexcept>

#include "support/catch.hpp"
#include "support/random.hpp"
#include "support/refused.hpp"

using batchnorm::BatchNorm1d;
using batchnorm::ChannelAxis;
using batchnorm::Momentum;
using batchnorm::NonFinite;
using batchnorm::Options;
using batchnorm::SingleValue;
using batchnorm::VarianceEstimate;
using Eigen::Index;
using testing::check_refused;
using testing::check_throws;
using testing::same_bits;

namespace {

enum class Class { finite, infinite, nan };

Class class_of(double v) {
  std::uint64_t bits;
  std::memcpy(&bits, &v, sizeof bits);
  bits &= 0x7fffffffffffffffu;
  return bits < 0x7ff0000000000000u    ? Class::finite
         : bits == 0x7ff0000000000000u ? Class::infinite
                                       : Class::nan;
}
Class class_of(float v) {
  std::uint32_t bits;
  std::memcpy(&bits, &v, sizeof bits);
  bits &= 0x7fffffffu;
  return bits < 0x7f800000u ? Class::finite : bits == 0x7f800000u ? Class::infinite : Class::nan;
}
Class class_of(Eigen::half v) { return class_of(static_cast<float>(v)); }
Class class_of(Eigen::bfloat16 v) { return class_of(static_cast<float>(v)); }
template <class Scalar>
bool is_finite_value(Scalar v) {
  return class_of(v) == Class::finite;
}

/// The number whose bits are one of three patterns. Which one is not known until the program runs.
template <class Scalar, class Bits>
Scalar from_bits(const std::array<Bits, 3>& patterns, int which) {
  const volatile Bits unknown = patterns[static_cast<std::size_t>(which)];
  const Bits bits = unknown;
  return Eigen::numext::bit_cast<Scalar>(bits);
}

/// Infinity, minus infinity, NaN: from bits that are not known until the program runs, and with no
/// arithmetic. Compilers under -ffast-math do not believe in these: g++ 14 makes of a negated infinity
/// minus the largest number, clang 19 any number of one that it sees.
template <class Scalar>
Scalar special(int which) {
  using U64 = std::uint64_t;
  using U32 = std::uint32_t;
  using U16 = std::uint16_t;
  if constexpr (std::is_same_v<Scalar, double>) {
    return from_bits<double, U64>({0x7ff0000000000000u, 0xfff0000000000000u, 0x7ff8000000000000u},
                                  which);
  } else if constexpr (std::is_same_v<Scalar, float>) {
    return from_bits<float, U32>({0x7f800000u, 0xff800000u, 0x7fc00000u}, which);
  } else if constexpr (std::is_same_v<Scalar, Eigen::half>) {
    return from_bits<Eigen::half, U16>({0x7c00, 0xfc00, 0x7e00}, which);
  } else {
    return from_bits<Eigen::bfloat16, U16>({0x7f80, 0xff80, 0x7fc0}, which);
  }
}

/// (N, C) by either loop: column-major has each channel in a run, row-major all side by side.
template <class Scalar>
using Runs = Eigen::Matrix<Scalar, Eigen::Dynamic, Eigen::Dynamic>;
template <class Scalar>
using Rows = Eigen::Matrix<Scalar, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
template <class Scalar>
using Column = Eigen::Matrix<Scalar, Eigen::Dynamic, 1>;

/// Calls f(matrix) with the columns in either order, 9 columns: more than a vector, and no multiple.
template <class Scalar, class F>
void in_both_orders(const Column<Scalar>& column, const F& f) {
  {
    INFO("channels in runs");
    f(Runs<Scalar>(column.replicate(1, 9)));
  }
  {
    INFO("channels side by side");
    f(Rows<Scalar>(column.replicate(1, 9)));
  }
}

/// The largest |y - exact| over both orders, in units of max(1, |exact|); infinite if y is not
/// finite where it ought to be. The exact y is computed from the values over `unit`.
template <class Scalar>
double worst_error(const Column<Scalar>& x, double unit, Options options, double gamma = 1,
                   double beta = 0) {
  const Index n = x.size();
  long double mean = 0, var = 0;
  for (Index i = 0; i < n; ++i) {
    mean += static_cast<long double>(x[i]) / unit / static_cast<long double>(n);
  }
  for (Index i = 0; i < n; ++i) {
    const long double d = static_cast<long double>(x[i]) / unit - mean;
    var += d * d / static_cast<long double>(n);
  }
  const long double eps = options.eps / unit / static_cast<long double>(unit);
  double worst = 0;
  in_both_orders<Scalar>(x, [&](const auto& columns) {
    BatchNorm1d<Scalar> layer(9, options);
    layer.gamma().setConstant(static_cast<typename BatchNorm1d<Scalar>::Param>(gamma));
    layer.beta().setConstant(static_cast<typename BatchNorm1d<Scalar>::Param>(beta));
    const auto y = layer.forward(columns);
    for (Index c = 0; c < 9; ++c) {
      for (Index i = 0; i < n; ++i) {
        const long double d = static_cast<long double>(x[i]) / unit - mean;
        const long double e = gamma * (d / std::sqrt(var + eps)) + beta;
        const double error =
            is_finite_value(y(i, c))
                ? static_cast<double>(std::abs(static_cast<long double>(y(i, c)) - e))
                : std::numeric_limits<double>::max();
        worst = std::max(worst, error / std::max(1.0, std::abs(static_cast<double>(e))));
      }
    }
  });
  return worst;
}

// Float is promised 6e-7 of max(1, |y|) for beta 0. The bounds need not hold under -ffast-math,
// nor is one promised for double: there it is enough to see the right values.
#if defined(__FAST_MATH__)
constexpr double float_bound = 1e-5, bound_near_zero = 1e-2;  // squares below 1e-38 become 0
#else
constexpr double float_bound = 6e-7, bound_near_zero = 6e-7;
#endif
constexpr double double_bound = 1e-12;

}  // namespace

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
        for (const double eps : {1e-5, 0.25, 2e-38}) {
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

TEMPLATE_TEST_CASE("a parameter that is NaN makes its channel NaN, whatever its bits", "[extremes]",
                   float, double, Eigen::half, Eigen::bfloat16) {
  using Layer = BatchNorm1d<TestType>;
  using Param = typename Layer::Param;
  testing::Random random(4);
  Column<TestType> column(40);
  random.fill(column, 1, 2);
  for (const unsigned char with_sign : {std::uint8_t{0x7f}, std::uint8_t{0xff}}) {
    unsigned char
        bytes[sizeof(Param)];  // all ones, which overflow where a lower half is rounded up
    std::memset(bytes, 0xff, sizeof bytes);
    bytes[sizeof bytes - 1] = with_sign;
    Param nan;
    std::memcpy(&nan, bytes, sizeof nan);
    for (const bool in_gamma : {false, true}) {
      in_both_orders<TestType>(column, [&](const auto& x) {
        Layer layer(9);
        (in_gamma ? layer.gamma() : layer.beta())[4] = nan;
        const auto y = layer.forward(x);
        for (Index i = 0; i < x.rows(); ++i) CHECK(class_of(y(i, 4)) == Class::nan);
        for (Index i = 0; i < x.rows(); ++i) CHECK(class_of(y(i, 3)) == Class::finite);
      });
    }
  }
}

TEMPLATE_TEST_CASE("a running variance that is no number shows in y and dx of its channel alone",
                   "[extremes]", float, double, Eigen::half, Eigen::bfloat16) {
  testing::Random random(5);
  Column<TestType> column(40);
  random.fill(column, 1, 2);
  in_both_orders<TestType>(column, [&](const auto& x) {
    BatchNorm1d<TestType> clean(9);
    clean.eval();
    auto layer = clean;
    layer.running_var()[4] = -1;  // whose root is none
    const auto y = layer.forward(x), clean_y = clean.forward(x);
    const auto dx = layer.backward(x, x), clean_dx = clean.backward(x, x);
    for (Index i = 0; i < x.rows(); ++i) {
      CHECK(class_of(y(i, 4)) == Class::nan);
      CHECK(class_of(dx(i, 4)) == Class::nan);
      for (const Index c : {0, 3, 5, 8}) {
        CHECK(y(i, c) == clean_y(i, c));
        CHECK(dx(i, c) == clean_dx(i, c));
      }
    }
    CHECK(class_of(layer.grad_gamma()[4]) == Class::nan);
    CHECK(layer.grad_gamma()[3] == clean.grad_gamma()[3]);
  });
}

TEMPLATE_TEST_CASE("a gradient that is not finite shows in its own channel alone", "[extremes]",
                   float, double, Eigen::half, Eigen::bfloat16) {
  testing::Random random(6);
  Column<TestType> column(40);
  random.fill(column, 1, 2);
  for (const int which : {0, 1, 2}) {
    in_both_orders<TestType>(column, [&](const auto& x) {
      BatchNorm1d<TestType> layer(9), clean(9);
      static_cast<void>(layer.forward(x));
      static_cast<void>(clean.forward(x));
      auto dy = x;
      dy(17, 4) = special<TestType>(which);
      const auto dx = layer.backward(x, dy), clean_dx = clean.backward(x, x);
      for (Index i = 0; i < x.rows(); ++i) {
        CHECK_FALSE(is_finite_value(dx(i, 4)));
        for (const Index c : {0, 3, 5, 8}) CHECK(dx(i, c) == clean_dx(i, c));
      }
      CHECK_FALSE(is_finite_value(layer.grad_beta()[4]));
      CHECK_FALSE(is_finite_value(layer.grad_gamma()[4]));
      CHECK(layer.grad_beta()[5] == clean.grad_beta()[5]);
    });
  }
}

TEST_CASE("a dgamma beyond double's range is infinite, and dbeta is right", "[extremes]") {
  // x_hat = -1, 1, -1, 1 but for eps, and dy 1e308 times that.
  Column<double> x(4), dy(4);
  x << -1e3, 1e3, -1e3, 1e3;
  dy << -1e308, 1e308, -1e308, 1e308;
  BatchNorm1d<double> layer(1);
  static_cast<void>(layer.forward(x));
  static_cast<void>(layer.backward(x, dy));
  CHECK(class_of(layer.grad_gamma()[0]) == Class::infinite);
  CHECK(layer.grad_beta()[0] == 0);
}

TEMPLATE_TEST_CASE("a channel that is not finite keeps its running statistics, by default",
                   "[extremes]", float, double, Eigen::half, Eigen::bfloat16) {
  testing::Random random(3);
  Column<TestType> column(40);
  random.fill(column, 1, 2);
  for (const int which : {0, 1, 2}) {
    for (const Index row : {0, 17, 39}) {
      INFO("infinity, minus infinity or NaN: " << which << ", row " << row);
      in_both_orders<TestType>(column, [&](auto x) {
        using X = decltype(x);
        BatchNorm1d<TestType> layer(9), clean(9);
        static_cast<void>(layer.forward(x));
        static_cast<void>(clean.forward(x));
        const auto before = layer;
        const X good = x;
        x(row, 4) = special<TestType>(which);
        const X y = layer.forward(x), clean_y = clean.forward(good);
        bool others_same = true, none_finite = true;  // of channel 4
        for (Index i = 0; i < x.rows(); ++i) {
          for (Index c = 0; c < 9; ++c) {
            if (c == 4) {
              none_finite = none_finite && !is_finite_value(y(i, c));
            } else {
              others_same = others_same && y(i, c) == clean_y(i, c);
            }
          }
        }
        CHECK(others_same);
        CHECK(none_finite);
        CHECK(layer.num_batches_tracked() == 2);
        for (Index c = 0; c < 9; ++c) {
          const auto& expected = c == 4 ? before : clean;
          CHECK(layer.running_mean()[c] == expected.running_mean()[c]);
          CHECK(layer.running_var()[c] == expected.running_var()[c]);
        }
      });
    }
  }
}

TEMPLATE_TEST_CASE("a channel that is not finite poisons its own running statistics, if asked to",
                   "[extremes]", float, double, Eigen::half, Eigen::bfloat16) {
  Options options;
  options.non_finite = NonFinite::propagate;
  testing::Random random(4);
  Column<TestType> column(40);
  random.fill(column, 1, 2);
  for (const int which : {0, 1, 2}) {
    in_both_orders<TestType>(column, [&](auto x) {
      BatchNorm1d<TestType> layer(9, options);
      x(17, 4) = special<TestType>(which);
      static_cast<void>(layer.forward(x));
      for (Index c = 0; c < 9; ++c) {
        CHECK(is_finite_value(layer.running_mean()[c]) == (c != 4));
        CHECK(is_finite_value(layer.running_var()[c]) == (c != 4));
      }
      // As PyTorch's: the mean of values with an infinity is that infinity, the variance NaN.
      CHECK(class_of(layer.running_mean()[4]) == (which == 2 ? Class::nan : Class::infinite));
      CHECK(class_of(layer.running_var()[4]) == Class::nan);
      CHECK(layer.num_batches_tracked() == 1);
      // And neither is finite ever after; -ffast-math may make NaN of the infinity.
      x(17, 4) = x(16, 4);
      static_cast<void>(layer.forward(x));
      CHECK_FALSE(is_finite_value(layer.running_mean()[4]));
      CHECK(class_of(layer.running_var()[4]) == Class::nan);
    });
  }
}

TEMPLATE_TEST_CASE("a batch that is not finite is refused, if asked to, and nothing is written",
                   "[extremes]", float, double, Eigen::half, Eigen::bfloat16) {
  testing::Random random(5);
  Column<TestType> column(40);
  random.fill(column, 1, 2);
  for (const bool tracked : {true, false}) {
    Options options;
    options.non_finite = NonFinite::reject;
    options.track_running_stats = tracked;
    for (const int which : {0, 1, 2}) {
      in_both_orders<TestType>(column, [&](auto x) {
        using X = decltype(x);
        BatchNorm1d<TestType> layer(9, options);
        const X good = x;
        static_cast<void>(layer.forward(good));
        auto copy = layer;
        const X expected_dx = copy.backward(good, good);
        x(39, 8) = special<TestType>(which);
        X y = good;
        check_refused<std::domain_error>(layer, {"[BatchNorm1d::forward]", "finite", "channel 8"},
                                         [&] { static_cast<void>(layer.forward(x)); });
        check_refused<std::domain_error>(layer, {"[BatchNorm1d::forward]", "finite", "channel 8"},
                                         [&] { layer.forward(x, y); });
        CHECK(same_bits(y, good));
        CHECK(same_bits(X(layer.backward(good, good)), expected_dx));
        layer.eval();
        if (tracked) {  // no statistics of this batch are used
          CHECK_NOTHROW(layer.forward(x));
        } else {
          check_refused<std::domain_error>(layer, {"[BatchNorm1d::forward]"},
                                           [&] { layer.forward(x, y); });
        }
      });
    }
  }
}

TEST_CASE("large finite values are no reason to skip or to refuse", "[extremes]") {
  const auto check = [](auto largest) {
    using Scalar = decltype(largest);
    Column<Scalar> x(6);
    for (Index i = 0; i < 6; ++i) x[i] = i % 3 ? largest : -largest;
    for (const auto choice : {NonFinite::skip_update, NonFinite::propagate, NonFinite::reject}) {
      Options options;
      options.non_finite = choice;
      in_both_orders<Scalar>(x, [&](const auto& columns) {
        BatchNorm1d<Scalar> layer(9, options);
        CHECK_NOTHROW(layer.forward(columns));
        CHECK(layer.running_var()[4] == std::numeric_limits<Scalar>::max());
        CHECK(static_cast<double>(layer.running_mean()[4]) ==
              Approx(0.1 * static_cast<double>(largest) / 3));
      });
    }
  };
  check(std::numeric_limits<float>::max());
  check(std::numeric_limits<double>::max());
}

TEST_CASE("a cumulative average counts a channel's own updates, not skipped ones", "[extremes]") {
  Options options;
  options.momentum = Momentum::cumulative();
  options.running_variance = VarianceEstimate::population;
  BatchNorm1d<double> layer(2, options);
  Eigen::MatrixXd x(2, 2);
  x << 1, 10, 3, 30;  // means 2, 20, variances 1, 100
  static_cast<void>(layer.forward(x));
  x << 5, special<double>(0), 7, 1;  // mean 6 in channel 0; channel 1 is skipped
  static_cast<void>(layer.forward(x));
  x << 6, 30, 14, 70;  // means 10, 50, variances 16, 400
  static_cast<void>(layer.forward(x));
  CHECK(layer.num_batches_tracked() == 3);
  CHECK(layer.running_mean()[0] == Approx((2. + 6 + 10) / 3));
  CHECK(layer.running_mean()[1] == Approx((20. + 50) / 2));
  CHECK(layer.running_var()[0] == Approx((1. + 1 + 16) / 3));
  CHECK(layer.running_var()[1] == Approx((100. + 400) / 2));
  layer.reset_running_stats();
  x << 1, 10, 3, 30;
  static_cast<void>(layer.forward(x));
  CHECK(layer.running_mean()[1] == Approx(20));
  x << 5, special<double>(0), 7, 1;  // skipped in channel 1
  static_cast<void>(layer.forward(x));
  layer.num_batches_tracked() = 0;  // a user starts to count anew: never less than no update
  x << 1, 40, 3, 60;
  static_cast<void>(layer.forward(x));
  CHECK(layer.running_mean()[1] == Approx(50));
}

TEST_CASE("a momentum outside [0, 1] is refused", "[extremes]") {
  BatchNorm1d<float> layer(3);
  for (const double w : {-0.1, 1.1, -1e-300, 1 + 1e-15, special<double>(0), special<double>(1),
                         special<double>(2)}) {
    INFO("weight " << w);
    Options options;
    for (const Momentum momentum : {Momentum::weight_of_new(w), Momentum::weight_of_old(w)}) {
      if (momentum.weight_of_new() >= 0 && momentum.weight_of_new() <= 1 && is_finite_value(w))
        continue;
      options.momentum = momentum;
      check_throws<std::invalid_argument>({"BatchNorm1d", "momentum"},
                                          [&] { BatchNorm1d<float>(3, options); });
      check_refused<std::invalid_argument>(layer, {"[BatchNorm1d::set_momentum]", "momentum"},
                                           [&] { layer.set_momentum(momentum); });
    }
  }
  for (const double w : {0.0, 1.0, 0.5}) {
    CHECK_NOTHROW(layer.set_momentum(Momentum::weight_of_new(w)));
    CHECK(layer.options().momentum == Momentum::weight_of_new(w));
  }
  layer.set_momentum(Momentum::cumulative());
  CHECK(layer.options().momentum.is_cumulative());
}

TEST_CASE("an eps that is not finite, or not 0 and below the smallest normal number, is refused",
          "[extremes]") {
  const auto check = [](auto scalar, double smallest) {
    using Scalar = decltype(scalar);
    Options options;
    for (const double eps : {-1e-5, smallest * (1 - 1e-7), special<double>(0), special<double>(1),
                             special<double>(2)}) {
      INFO("eps " << eps);
      options.eps = eps;
      check_throws<std::invalid_argument>({"BatchNorm1d", "eps"},
                                          [&] { BatchNorm1d<Scalar>(3, options); });
    }
    for (const double eps : {0.0, smallest, 1e-5, 1e10}) {
      options.eps = eps;
      CHECK_NOTHROW(BatchNorm1d<Scalar>(3, options));
    }
  };
  check(0.f, static_cast<double>(std::numeric_limits<float>::min()));
  check(0.0, std::numeric_limits<double>::min());
  check(Eigen::half(), static_cast<double>(std::numeric_limits<float>::min()));
  check(Eigen::bfloat16(), static_cast<double>(std::numeric_limits<float>::min()));
}

TEST_CASE("use_running without running statistics is refused", "[extremes]") {
  Options options;
  options.single_value = SingleValue::use_running;
  options.track_running_stats = false;
  check_throws<std::invalid_argument>({"BatchNorm1d", "track_running_stats"},
                                      [&] { BatchNorm1d<float>(3, options); });
}
