// SPDX-License-Identifier: MIT
// Numbers worked out by hand. eps = 1 makes var + eps a square, so that every step is a short fraction:
//
//   channel 0:  x = 2, 6, 6, 6      mu = 20 / 4 = 5     var = (9 + 1 + 1 + 1) / 4 = 3
//               inv_std = 1 / sqrt(3 + 1) = 1/2         x_hat = -3/2, 1/2, 1/2, 1/2
//   channel 1:  x = 6, 10, 10, 14   mu = 40 / 4 = 10    var = (16 + 0 + 0 + 16) / 4 = 8
//               inv_std = 1 / sqrt(8 + 1) = 1/3         x_hat = -4/3, 0, 0, 4/3
//
//   y = gamma * x_hat + beta, gamma = (2, 3), beta = (1, -1):
//               y0 = -2, 2, 2, 2                        y1 = -5, -1, -1, 3
//
//   dy0 = 1, 0, 0, -1   dbeta = 0      dgamma = -3/2 - 1/2 = -2
//     dx0 = 2 * 1/2 * (dy0 - 0/4 - x_hat * -2/4)        = dy0 + x_hat / 2
//         = 1 - 3/4, 1/4, 1/4, -1 + 1/4                 = 1/4, 1/4, 1/4, -3/4
//   dy1 = 3, 0, 0, 1    dbeta = 4      dgamma = 3 * -4/3 + 4/3 = -8/3
//     dx1 = 3 * 1/3 * (dy1 - 4/4 - x_hat * -8/3 / 4)    = dy1 - 1 + x_hat * 2/3
//         = 3 - 1 - 8/9, -1, -1, 1 - 1 + 8/9            = 10/9, -1, -1, 8/9
//
// The tolerance, 4 ulp at the numbers' size, allows for the roundings of the few steps in double.
#include <batchnorm/batchnorm.hpp>
#include <cmath>
#include <vector>

#include "support/catch.hpp"

namespace {

using batchnorm::Momentum;
using batchnorm::Options;
using batchnorm::VarianceEstimate;
using Eigen::RowMajor;

const std::vector<double> x0{2, 6, 6, 6}, x1{6, 10, 10, 14};
const std::vector<double> y0{-2, 2, 2, 2}, y1{-5, -1, -1, 3};
const std::vector<double> dy0{1, 0, 0, -1}, dy1{3, 0, 0, 1};
const std::vector<double> dx0{0.25, 0.25, 0.25, -0.75}, dx1{10. / 9, -1, -1, 8. / 9};

Options eps_of_one() {
  Options options;
  options.eps = 1;
  return options;
}

template <class Layer>
Layer make_layer(const Options& options = eps_of_one()) {
  Layer bn(2, options);
  bn.gamma() << 2, 3;
  bn.beta() << 1, -1;
  return bn;
}

void check(double value, double expected) {
  CHECK(std::abs(value - expected) <= 4 * 2.3e-16 * std::max(1.0, std::abs(expected)));
}

// A tensor of each layer's kind with four values in each of two channels, and its way back.

Eigen::MatrixXd matrix(const std::vector<double>& a, const std::vector<double>& b) {
  Eigen::MatrixXd m(4, 2);
  for (int i = 0; i < 4; ++i) m.row(i) << a[std::size_t(i)], b[std::size_t(i)];
  return m;
}
Eigen::Tensor<double, 4, RowMajor> images(const std::vector<double>& a,
                                          const std::vector<double>& b) {  // (2, 2, 1, 2)
  Eigen::Tensor<double, 4, RowMajor> t(2, 2, 1, 2);
  for (int i = 0; i < 4; ++i) {
    t(i / 2, 0, 0, i % 2) = a[std::size_t(i)];
    t(i / 2, 1, 0, i % 2) = b[std::size_t(i)];
  }
  return t;
}
Eigen::Tensor<double, 5, RowMajor> volumes(const std::vector<double>& a,
                                           const std::vector<double>& b) {  // (1, 2, 2, 2, 1)
  Eigen::Tensor<double, 5, RowMajor> t(1, 2, 2, 2, 1);
  for (int i = 0; i < 4; ++i) {
    t(0, 0, i / 2, i % 2, 0) = a[std::size_t(i)];
    t(0, 1, i / 2, i % 2, 0) = b[std::size_t(i)];
  }
  return t;
}

template <class T>
void check_all(const T& values, const T& expected) {
  REQUIRE(values.size() == expected.size());
  for (Eigen::Index i = 0; i < values.size(); ++i) check(values.data()[i], expected.data()[i]);
}

template <class Layer, class Make>
void check_training(const Make& make) {
  Layer bn = make_layer<Layer>();
  const auto x = make(x0, x1);
  check_all(bn.forward(x), make(y0, y1));
  check_all(bn.backward(x, make(dy0, dy1)), make(dx0, dx1));
  check(bn.grad_gamma()[0], -2);
  check(bn.grad_gamma()[1], -8. / 3);
  check(bn.grad_beta()[0], 0);
  check(bn.grad_beta()[1], 4);
  check(bn.saved().mean[0], 5);
  check(bn.saved().mean[1], 10);
  check(bn.saved().inv_std[0], 1. / 2);
  check(bn.saved().inv_std[1], 1. / 3);
  CHECK(bn.saved().count == 4);
}

// Eval with running means (4, 8) and variances (8, 15): inv_std = 1/3 and 1/4.
//   y0 = 2 * (x - 4) / 3 + 1 = -4/3 + 1, 4/3 + 1, ...    = -1/3, 7/3, 7/3, 7/3
//   y1 = 3 * (x - 8) / 4 - 1 = -6/4 - 1, 6/4 - 1, ., 18/4 - 1 = -5/2, 1/2, 1/2, 7/2
//   dx = gamma * inv_std * dy: dx0 = 2/3 dy0, dx1 = 3/4 dy1
//   dgamma0 = (-2 * 1 + 2 * -1) / 3 = -4/3,  dgamma1 = (-2 * 3 + 6 * 1) / 4 = 0
template <class Layer, class Make>
void check_eval(const Make& make) {
  Layer bn = make_layer<Layer>();
  bn.running_mean() << 4, 8;
  bn.running_var() << 8, 15;
  bn.eval();
  const auto x = make(x0, x1);
  check_all(bn.forward(x), make({-1. / 3, 7. / 3, 7. / 3, 7. / 3}, {-2.5, 0.5, 0.5, 3.5}));
  check_all(bn.backward(x, make(dy0, dy1)), make({2. / 3, 0, 0, -2. / 3}, {9. / 4, 0, 0, 3. / 4}));
  check(bn.grad_gamma()[0], -4. / 3);
  check(bn.grad_gamma()[1], 0);
  check(bn.grad_beta()[0], 0);
  check(bn.grad_beta()[1], 4);
  CHECK(bn.running_mean()[0] == 4);  // eval moves nothing
  CHECK(bn.num_batches_tracked() == 0);
}

}  // namespace

TEST_CASE("training forward and backward give the numbers worked out by hand") {
  SECTION("1d, a matrix") { check_training<batchnorm::BatchNorm1d<double>>(matrix); }
  SECTION("2d") { check_training<batchnorm::BatchNorm2d<double>>(images); }
  SECTION("3d") { check_training<batchnorm::BatchNorm3d<double>>(volumes); }
}

TEST_CASE("eval forward and backward give the numbers worked out by hand") {
  SECTION("1d, a matrix") { check_eval<batchnorm::BatchNorm1d<double>>(matrix); }
  SECTION("2d") { check_eval<batchnorm::BatchNorm2d<double>>(images); }
  SECTION("3d") { check_eval<batchnorm::BatchNorm3d<double>>(volumes); }
}

// The first batch is the one above: means 5, 10; variances 3 and 8, unbiased 3 * 4/3 = 4 and 32/3.
// The second is twice it: means 10, 20; variances 12 and 32, unbiased 16 and 128/3.
TEST_CASE("running statistics over two batches move as momentum and convention say") {
  Options options = eps_of_one();
  Eigen::Vector4d expected;  // mean0, mean1, var0, var1

  SECTION("weight of new 1/4, unbiased variance") {
    options.momentum = Momentum::weight_of_new(0.25);
    // mean0: 0 -> 5/4 -> 3/4 * 5/4 + 10/4 = 55/16           mean1: twice that
    // var0:  1 -> 3/4 + 4/4 = 7/4 -> 3/4 * 7/4 + 16/4 = 85/16
    // var1:  1 -> 3/4 + 8/3 = 41/12 -> 3/4 * 41/12 + 32/3 = 123/48 + 512/48 = 635/48
    expected << 55. / 16, 55. / 8, 85. / 16, 635. / 48;
  }
  SECTION("weight of old 3/4 is the same, and the population variance is smaller") {
    options.momentum = Momentum::weight_of_old(0.75);
    options.running_variance = VarianceEstimate::population;
    // var0:  1 -> 3/4 + 3/4 = 6/4 -> 18/16 + 12/4 = 66/16
    // var1:  1 -> 3/4 + 8/4 = 11/4 -> 33/16 + 32/4 = 161/16
    expected << 55. / 16, 55. / 8, 66. / 16, 161. / 16;
  }
  SECTION("cumulative is the plain average of both, unbiased") {
    options.momentum = Momentum::cumulative();
    expected << 7.5, 15, (4 + 16) / 2., (32. / 3 + 128. / 3) / 2;
  }
  SECTION("cumulative, population variance") {
    options.momentum = Momentum::cumulative();
    options.running_variance = VarianceEstimate::population;
    expected << 7.5, 15, (3 + 12) / 2., (8 + 32) / 2.;
  }

  auto bn = make_layer<batchnorm::BatchNorm2d<double>>(options);
  const auto x = images(x0, x1);
  (void)bn.forward(x);
  (void)bn.forward(x * 2.0);
  for (int c = 0; c < 2; ++c) {
    check(bn.running_mean()[c], expected[c]);
    check(bn.running_var()[c], expected[2 + c]);
  }
  CHECK(bn.num_batches_tracked() == 2);
}

TEST_CASE("folded() is the eval-mode layer as scale, center and shift") {
  auto bn = make_layer<batchnorm::BatchNorm1d<double>>();
  bn.running_mean() << 4, 8;
  bn.running_var() << 8, 15;
  const batchnorm::ChannelAffine<double> folded = bn.folded();
  check(folded.scale[0], 2. / 3);  // gamma / sqrt(var + eps) = 2 / sqrt(9), 3 / sqrt(16)
  check(folded.scale[1], 3. / 4);
  CHECK(folded.center[0] == 4);
  CHECK(folded.center[1] == 8);
  CHECK(folded.shift[0] == 1);
  CHECK(folded.shift[1] == -1);

  batchnorm::Options beta_alone;
  beta_alone.scale = false;
  batchnorm::BatchNorm1d<double> without_gamma(2, beta_alone);
  without_gamma.beta() << 1, -1;
  CHECK(without_gamma.folded().shift == without_gamma.beta());
  check(without_gamma.folded().scale[0], 1 / std::sqrt(1 + 1e-5));
}
