// SPDX-License-Identifier: MIT
// Values that are not finite, and options that are not valid.

#include <batchnorm/batchnorm.hpp>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <stdexcept>

#include "support/catch.hpp"
#include "support/extremes.hpp"
#include "support/random.hpp"
#include "support/refused.hpp"

using batchnorm::BatchNorm1d;
using batchnorm::Momentum;
using batchnorm::NonFinite;
using batchnorm::Options;
using batchnorm::SingleValue;
using batchnorm::VarianceEstimate;
using Eigen::Index;
using testing::check_refused;
using testing::check_throws;
using testing::Class;
using testing::class_of;
using testing::Column;
using testing::in_both_orders;
using testing::is_finite_value;
using testing::same_bits;
using testing::special;

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

TEMPLATE_TEST_CASE("dbeta is the sum of dy, an infinite one too, where x is not finite",
                   "[extremes]", float, double, Eigen::half, Eigen::bfloat16) {
  const Column<TestType> ones = Column<TestType>::Constant(40, static_cast<TestType>(1));
  for (const Index row : {0, 17, 30, 39}) {  // row 30 may be in two vectors of the loop
    INFO("infinite dy in row " << row);
    in_both_orders<TestType>(ones, [&](auto x) {
      auto dy = x;
      x(5, 4) = special<TestType>(2);
      dy(row, 4) = special<TestType>(0);
      BatchNorm1d<TestType> layer(9);
      static_cast<void>(layer.forward(x));
      static_cast<void>(layer.backward(x, dy));
      CHECK(class_of(layer.grad_beta()[4]) == Class::infinite);
      CHECK(layer.grad_beta()[5] == 40);
      CHECK(class_of(layer.grad_gamma()[4]) == Class::nan);
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
    for (const double eps : {-1e-5, std::nextafter(smallest, 0.0), special<double>(0),
                             special<double>(1), special<double>(2)}) {
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
