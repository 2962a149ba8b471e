// SPDX-License-Identifier: MIT
// Statistics that are switched apart from a layer's mode: each combination against a layer in the mode
// that has the same effect, bit by bit.

#include <batchnorm/extras/switched.hpp>
#include <functional>
#include <limits>

#include "support/allocations.hpp"
#include "support/layer_gradient.hpp"
#include "support/random.hpp"
#include "support/refused.hpp"

using batchnorm::BatchNorm1d;
using batchnorm::BatchNorm2d;
using batchnorm::ChannelAxis;
using batchnorm::Momentum;
using batchnorm::NonFinite;
using batchnorm::Normalize;
using batchnorm::Options;
using batchnorm::Switched;
using batchnorm::Update;
using Eigen::MatrixXd;
using testing::check_refused;
using testing::check_throws;
using testing::same_bits;

namespace {

template <class A>
bool same_statistics(const A& a, const A& b) {
  return same_bits(a.running_mean(), b.running_mean()) &&
         same_bits(a.running_var(), b.running_var()) &&
         a.num_batches_tracked() == b.num_batches_tracked();
}

const Normalize all_normalize[] = {Normalize::by_mode, Normalize::batch, Normalize::running};
const Update all_update[] = {Update::by_mode, Update::never, Update::always};

template <class Layer, class X>
void check_all(const X& shape, const Options& options) {
  X x(shape), dy(shape);
  testing::Random random(1);
  random.fill(x, 1, 2);
  random.fill(dy);
  Layer start(3, options);
  start.gamma().setConstant(static_cast<typename Layer::Param>(1.5));
  static_cast<void>(start.forward(x));
  for (const Normalize normalize : all_normalize) {
    for (const Update update : all_update) {
      for (const bool training : {true, false}) {
        INFO("normalize " << int(normalize) << ", update " << int(update) << ", training "
                          << training);
        const bool by_batch =
            normalize == Normalize::batch || (normalize == Normalize::by_mode && training);
        const bool updates = update == Update::always || (update == Update::by_mode && training);
        Layer as_normalized = start, as_updated = start, layer = start;
        as_normalized.train(by_batch);
        as_updated.train(updates);
        const X y = as_normalized.forward(x), dx = as_normalized.backward(x, dy);
        static_cast<void>(as_updated.forward(x));

        layer.train(training);
        Switched switched(layer, normalize, update);
        CHECK(same_bits(switched.forward(x), y));
        CHECK(same_statistics(layer, as_updated));
        CHECK(same_bits(switched.backward(x, dy), dx));
        CHECK(same_bits(layer.grad_gamma(), as_normalized.grad_gamma()));
        CHECK(same_bits(layer.grad_beta(), as_normalized.grad_beta()));
        CHECK(layer.is_training() == training);
      }
    }
  }
}

}  // namespace

TEST_CASE("each combination of switches normalizes and updates as it says", "[switched]") {
  Options cumulative, last;
  cumulative.momentum = Momentum::cumulative();
  last.channel_axis = ChannelAxis::last;
  check_all<BatchNorm1d<double>>(MatrixXd(7, 3), {});
  check_all<BatchNorm1d<float>>(Eigen::MatrixXf(7, 3), cumulative);
  check_all<BatchNorm2d<float>>(Eigen::Tensor<float, 4, Eigen::RowMajor>(4, 3, 5, 6), {});
  check_all<BatchNorm2d<Eigen::half>>(Eigen::Tensor<Eigen::half, 4>(4, 5, 6, 3), last);
  check_all<BatchNorm2d<Eigen::bfloat16>>(Eigen::Tensor<Eigen::bfloat16, 4>(4, 3, 5, 6), {});
}

// Running mean 4 and variance 8, eps 1: inv_std = 1/3. x = 1, 7 gives x_hat = -1, 1, and with gamma 2
// and beta 1 y = -1, 3; dy = 3, 6 gives dx = 2/3 dy = 2, 4, dgamma = 3, dbeta = 9.
TEST_CASE("a frozen layer stays so whatever train() says, by numbers worked out by hand",
          "[switched]") {
  Options options;
  options.eps = 1;
  BatchNorm1d<double> bn(1, options);
  bn.gamma() << 2, bn.beta() << 1, bn.running_mean() << 4, bn.running_var() << 8;
  auto frozen = batchnorm::frozen(bn);
  const MatrixXd x = Eigen::Vector2d(1, 7), dy = Eigen::Vector2d(3, 6);
  for (int step = 1; step < 3; ++step) {
    bn.train();
    CHECK(frozen.forward(x).isApprox(Eigen::Vector2d(-1, 3), 1e-15));
    CHECK(frozen.backward(x, dy).isApprox(Eigen::Vector2d(2, 4), 1e-15));
    CHECK(bn.grad_gamma()[0] == Approx(3 * step).epsilon(1e-15));
    CHECK(bn.grad_beta()[0] == 9 * step);
    CHECK(bn.running_mean()[0] == 4);
    CHECK(bn.running_var()[0] == 8);
    CHECK(bn.num_batches_tracked() == 0);
  }
}

TEST_CASE("values whose squares are beyond double count as not finite in parts of a call",
          "[switched]") {
  Options options;
  for (const auto non_finite : {NonFinite::skip_update, NonFinite::reject}) {
    options.non_finite = non_finite;
    BatchNorm1d<double> bn(2, options);
    Switched switched(bn, Normalize::running, Update::always);
    MatrixXd x(2, 2);
    x << -1e200, 1, 1e200, 3;  // means 0 and 2, unbiased variances 2e400 and 2
    if (non_finite == NonFinite::reject) {
      check_refused<std::domain_error>(bn, {"[Switched::forward]", "finite", "channel 0"},
                                       [&] { static_cast<void>(switched.forward(x)); });
    } else {
      static_cast<void>(switched.forward(x));
      CHECK(bn.running_mean()[0] == 0);
      CHECK(bn.running_var()[0] == 1);
      CHECK(bn.running_mean()[1] == Approx(0.2));
      CHECK(bn.running_var()[1] == Approx(0.9 + 0.2));
    }
  }
}

TEST_CASE("activations made again have the bits of the first time, and count once", "[switched]") {
  MatrixXd x(6, 2), dy(6, 2);
  testing::Random random(2);
  random.fill(x), random.fill(dy);
  const MatrixXd good = x;
  x(0, 1) = std::numeric_limits<double>::infinity();  // a channel that an update skips
  Options options;
  options.momentum = Momentum::cumulative();
  BatchNorm1d<double> bn(2, options);
  for (int batch = 0; batch < 3; ++batch) static_cast<void>(bn.forward(good));
  const MatrixXd y = bn.forward(x);
  const BatchNorm1d<double> after = bn;
  auto again = batchnorm::recomputing(bn);
  CHECK(same_bits(again.forward(x), y));
  CHECK(testing::same_state(bn, after));
  BatchNorm1d<double> once = after;
  // The skipped batch counts once, too. So the next batch is the fourth of channel 1 and weighs 1/4.
  x(0, 1) = 1;
  CHECK(same_bits(bn.forward(x), once.forward(x)));
  CHECK(same_statistics(bn, once));
  const double expected = (3 * good.col(1).mean() + x.col(1).mean()) / 4;
  CHECK(bn.running_mean()[1] == Approx(expected).epsilon(1e-14));
}

TEST_CASE("backward through switched statistics is the gradient of forward",
          "[switched][gradient]") {
  for (const Normalize normalize : all_normalize) {
    for (const bool training : {true, false}) {
      BatchNorm1d<double> bn(2);
      bn.gamma() << 1.5, -0.5;
      bn.running_mean() << 0.5, -1;
      bn.running_var() << 2, 0.5;
      bn.train(training);
      Switched switched(bn, normalize, Update::never);
      MatrixXd x(5, 2), dy(5, 2);
      testing::Random random(3);
      random.fill(x), random.fill(dy);
      static_cast<void>(switched.forward(x));
      const MatrixXd dx = switched.backward(x, dy);
      const std::function<double()> loss = [&] {
        return dy.cwiseProduct(switched.forward(x)).sum();
      };
      testing::check_gradients_of(loss, x, dx, bn);
    }
  }
}

TEST_CASE("what a switched layer refuses leaves it as it was", "[switched]") {
  Options untracked;
  untracked.track_running_stats = false;
  BatchNorm1d<double> none(2, untracked);
  check_throws<std::invalid_argument>(
      {"[Switched::Switched] expected a layer with track_running_stats"},
      [&] { static_cast<void>(batchnorm::frozen(none)); });
  BatchNorm1d<double> bn(2);
  const MatrixXd one = MatrixXd::Ones(1, 2);
  for (const bool training : {true, false}) {
    bn.train(training);
    for (const Normalize normalize : {Normalize::batch, Normalize::running}) {
      Switched switched(bn, normalize, Update::always);
      check_refused<std::invalid_argument>(bn, {"more than one value per channel, got 1"},
                                           [&] { static_cast<void>(switched.forward(one)); });
    }
    Switched batch(bn, Normalize::batch, Update::never);
    check_refused<std::invalid_argument>(bn, {"more than one value per channel, got 1"},
                                         [&] { static_cast<void>(batch.forward(one)); });
    CHECK(batchnorm::frozen(bn).forward(one).allFinite());
  }
  auto frozen = batchnorm::frozen(bn);
  bn = none;
  check_refused<std::invalid_argument>(
      bn, {"[Switched::forward] expected a layer with track_running_stats"},
      [&] { static_cast<void>(frozen.forward(MatrixXd(MatrixXd::Random(4, 2)))); });
}

TEST_CASE("switched forwards that do not update allocate nothing", "[switched]") {
  Eigen::MatrixXf x(50, 3), y(50, 3);
  testing::Random(1).fill(x);
  BatchNorm1d<float> bn(3);
  for (const Normalize normalize : all_normalize) {
    Switched switched(bn, normalize, Update::never);
    switched.forward(x, y);
    CHECK(testing::allocations([&] { switched.forward(x, y); }) == 0);
  }
}
