// SPDX-License-Identifier: MIT
// The backward of backward is the gradient of F = sum v * dx + a * dgamma + b * dbeta, by central
// differences in double over x, dy and gamma, as PyTorch's gradgradcheck does it.

#include <batchnorm/extras/second_order.hpp>
#include <functional>
#include <limits>

#include "support/catch.hpp"
#include "support/derivative.hpp"
#include "support/random.hpp"
#include "support/refused.hpp"

using batchnorm::backward_of_backward;
using batchnorm::BatchNorm1d;
using batchnorm::BatchNorm2d;
using batchnorm::ChannelAxis;
using batchnorm::Options;
using batchnorm::WithRespectTo;
using Eigen::Index;
using Eigen::MatrixXd;

namespace {

template <class Layer, class X>
void check(X x, const Options& options, bool training, bool with_others) {
  constexpr Index channels = 2;
  X dy = x, v = x;
  testing::Random random(7);
  random.fill(x, 1, 1.5), random.fill(dy), random.fill(v);
  Layer bn(channels, options);
  if (options.scale) bn.gamma() << 1.5, -0.75;
  bn.running_mean() << 0.5, -1;
  bn.running_var() << 2, 0.5;
  bn.train(training);
  WithRespectTo other;
  if (with_others) {
    other.dgamma = Eigen::Vector2d(0.7, -1.3);
    other.dbeta = Eigen::Vector2d(-0.4, 2);
  }
  static_cast<void>(bn.forward(x));
  const auto second = backward_of_backward(bn, x, dy, v, other);

  // Where gamma and beta are off, backward keeps no gradients of them: a second layer has both.
  Options learned = options;
  learned.scale = learned.shift = true;
  Layer whole(channels, learned);
  whole.running_mean() = bn.running_mean(), whole.running_var() = bn.running_var();
  const Eigen::VectorXd running_mean = bn.running_mean(), running_var = bn.running_var();
  if (options.scale) whole.gamma() = bn.gamma();
  whole.train(training);
  const std::function<double()> f = [&] {
    whole.running_mean() = running_mean, whole.running_var() = running_var;
    static_cast<void>(whole.forward(x));
    whole.zero_grad();
    const X dx = whole.backward(x, dy);
    double sum = 0;
    for (Index i = 0; i < dx.size(); ++i) sum += v.data()[i] * dx.data()[i];
    if (with_others) {
      sum += other.dgamma.dot(whole.grad_gamma()) + other.dbeta.dot(whole.grad_beta());
    }
    return sum;
  };
  for (Index i = 0; i < x.size(); ++i) {
    CHECK(testing::near(second.x.data()[i], testing::derivative(x.data()[i], f)));
    CHECK(testing::near(second.dy.data()[i], testing::derivative(dy.data()[i], f)));
  }
  for (Index c = 0; c < channels; ++c) {
    CHECK(testing::near(second.gamma[c], testing::derivative(whole.gamma()[c], f)));
  }
}

}  // namespace

TEST_CASE("backward of backward is the gradient of backward, in every layout", "[second_order]") {
  using Eigen::ColMajor, Eigen::RowMajor;
  Options last, bare;
  last.channel_axis = ChannelAxis::last;
  bare.scale = bare.shift = false;
  for (const bool training : {true, false}) {
    for (const bool others : {true, false}) {
      INFO("training " << training << ", dgamma and dbeta " << others);
      check<BatchNorm1d<double>>(MatrixXd(5, 2), {}, training, others);
      check<BatchNorm1d<double>>(MatrixXd(2, 2), bare, training, others);
      check<BatchNorm1d<double>>(Eigen::Tensor<double, 3, RowMajor>(3, 4, 2), last, training,
                                 others);
      check<BatchNorm2d<double>>(Eigen::Tensor<double, 4, RowMajor>(2, 2, 2, 3), {}, training,
                                 others);
      check<BatchNorm2d<double>>(Eigen::Tensor<double, 4, ColMajor>(2, 2, 3, 2), last, training,
                                 others);
    }
  }
}

// In eval mode dx = gamma * s * dy, here with gamma = 2 and s = 1 / sqrt(8 + 1): x has no part in it.
//   v = 3, 6:  dF/ddy = 2/3 * v = 2, 4    dF/dgamma = 1/3 * (3 * 1 + 6 * 2) = 5    dF/dx = 0
// With dgamma asked for too, a = 3:  dF/ddy + 3 * (x - 4) / 3 = 2 - 3, 4 + 3    dF/dx = 3 * 1/3 * dy
TEST_CASE("backward of backward gives the numbers worked out by hand", "[second_order]") {
  Options options;
  options.eps = 1;
  BatchNorm1d<double> bn(1, options);
  bn.gamma() << 2, bn.running_mean() << 4, bn.running_var() << 8;
  bn.eval();
  const MatrixXd x = Eigen::Vector2d(1, 7), dy = Eigen::Vector2d(1, 2), v = Eigen::Vector2d(3, 6);
  static_cast<void>(bn.forward(x));
  auto second = backward_of_backward(bn, x, dy, v);
  CHECK(second.dy.isApprox(Eigen::Vector2d(2, 4), 1e-15));
  CHECK(second.gamma[0] == Approx(5).epsilon(1e-15));
  CHECK(second.x == Eigen::Vector2d::Zero());
  WithRespectTo other;
  other.dgamma = Eigen::VectorXd::Constant(1, 3);
  second = backward_of_backward(bn, x, dy, v, other);
  CHECK(second.dy.isApprox(Eigen::Vector2d(-1, 7), 1e-15));
  CHECK(second.x.isApprox(Eigen::Vector2d(1, 2), 1e-15));
}

TEST_CASE("backward of backward refuses what does not fit, and changes no layer",
          "[second_order]") {
  BatchNorm1d<double> bn(2);
  MatrixXd x = MatrixXd::Identity(4, 2);
  testing::check_refused<std::logic_error>(
      bn, {"[batchnorm::backward_of_backward]", "forward"},
      [&] { static_cast<void>(backward_of_backward(bn, x, x, x)); });
  static_cast<void>(bn.forward(x));
  const BatchNorm1d<double> before = bn;
  static_cast<void>(backward_of_backward(bn, x, x, x));
  CHECK(testing::same_state(bn, before));
  testing::check_refused<std::invalid_argument>(bn, {"(4, 2), (4, 2) and (3, 2)"}, [&] {
    static_cast<void>(backward_of_backward(bn, x, x, x.topRows(3)));
  });
  testing::check_refused<std::invalid_argument>(bn, {"(4, 2), (3, 2) and (4, 2)"}, [&] {
    static_cast<void>(backward_of_backward(bn, x, x.topRows(3), x));
  });
  WithRespectTo other;
  for (Eigen::VectorXd* const of_other : {&other.dgamma, &other.dbeta}) {
    other = {};
    *of_other = Eigen::VectorXd::Zero(3);
    testing::check_refused<std::invalid_argument>(bn, {"of length 0 or 2"}, [&] {
      static_cast<void>(backward_of_backward(bn, x, x, x, other));
    });
  }
}

TEST_CASE("backward of backward of an empty batch is empty, and 0 for gamma", "[second_order]") {
  Options options;
  options.single_value = batchnorm::SingleValue::accept;
  BatchNorm1d<double> bn(2, options);
  const MatrixXd none(0, 2);
  static_cast<void>(bn.forward(none));
  batchnorm::Saved saved = bn.saved();
  saved.inv_std.setConstant(std::numeric_limits<double>::quiet_NaN());  // a variance of no values
  const auto second = backward_of_backward(bn, saved, none, none, none);
  CHECK(second.x.rows() == 0);
  CHECK(second.dy.rows() == 0);
  CHECK(second.gamma == Eigen::Vector2d::Zero());
}
