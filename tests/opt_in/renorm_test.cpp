// SPDX-License-Identifier: MIT
// Batch renormalization: by hand, against the reference layer and by derivatives, with r and d held.

#include <batchnorm/extras/renorm.hpp>
#include <cmath>
#include <functional>
#include <limits>

#include "support/check_layer.hpp"
#include "support/derivative.hpp"
#include "support/in_steps.hpp"
#include "support/refused.hpp"

using batchnorm::BatchNorm1d;
using batchnorm::BatchRenorm;
using batchnorm::ChannelAxis;
using batchnorm::Options;
using batchnorm::RenormLimits;
using batchnorm::RenormSchedule;
using batchnorm::SingleValue;
using Eigen::MatrixXd;
using testing::at;
using testing::check_throws;
using testing::Index;
using testing::Values;

namespace {

template <class Form>
using RenormWrapper = BatchRenorm<typename Form::Scalar, testing::spatial_of<Form>>;

template <class Form>
struct Renormalized : testing::WrappedLayer<Form, RenormWrapper<Form>> {
  Renormalized(Index channels, const Options& options)
      : Renormalized::WrappedLayer(channels, options, RenormSchedule::constant(limits)) {}

  static inline RenormLimits limits;
};

/// For each kind with `limits` and nothing else set.
std::vector<testing::Kind> kinds_with(RenormLimits limits) {
  using Eigen::bfloat16, Eigen::half, Eigen::RowMajor, Eigen::ColMajor;
  using testing::MatrixForm, testing::TensorForm;
  std::vector<testing::Kind> kinds;
  const auto add = [&](auto form, const char* scalar, double unit, double small) {
    using Form = decltype(form);
    Renormalized<Form>::limits = limits;
    testing::add_kind<Renormalized, Form>(kinds, scalar, unit, small);
  };
  add(TensorForm<double, 4, RowMajor>(), "double", 0, 0);
  add(TensorForm<double, 3, ColMajor>(), "double", 0, 0);
  add(MatrixForm<double, ColMajor>(), "double", 0, 0);
  add(TensorForm<float, 5, RowMajor>(), "float", 0, 0);
  add(TensorForm<half, 4, ColMajor>(), "half", 0x1p-11, 0x1p-25);
  add(TensorForm<bfloat16, 2, RowMajor>(), "bfloat16", 0x1p-8, 0x1p-134);
  return kinds;
}

}  // namespace

// The numbers of hand_computed_test.cpp, channel 0, with a running mean of 4 and variance of 8:
//   mu = 5, sigma_B = 2, x_hat = -3/2, 1/2, 1/2, 1/2;  sigma = 3:  r = 2/3, d = 1/3
// Limits that leave r and d as they are give y by the running statistics:
//   y = 2 * (x - 4) / 3 + 1 = -1/3, 7/3, 7/3, 7/3
//   dy = 1, 0, 0, -1:  dbeta = 0, s = -2, dgamma = -4/3
//   dx = 2 * 2/3 / 2 * (dy + x_hat / 2) = 1/6, 1/6, 1/6, -1/2
// and limits of 5/4 and 1/4 give r = 4/5, d = 1/4:
//   y = 2 * (x_hat * 4/5 + 1/4) + 1 = -0.9, 2.3, 2.3, 2.3
//   dy = 3, 0, 0, 1:  dbeta = 4, s = -4, dgamma = -16/5 + 1 = -2.2
//   dx = 2 * 4/5 / 2 * (dy - 1 + x_hat) = 0.4, -0.4, -0.4, 0.4
TEST_CASE("renormalization gives the numbers worked out by hand", "[renorm]") {
  Options options;
  options.eps = 1;
  options.momentum = batchnorm::Momentum::weight_of_new(0.25);
  BatchNorm1d<double> bn(1, options);
  bn.gamma() << 2, bn.beta() << 1, bn.running_mean() << 4, bn.running_var() << 8;
  const MatrixXd x = Eigen::Vector4d(2, 6, 6, 6);
  const bool within = GENERATE(true, false);
  BatchRenorm renorm(
      bn, RenormSchedule::constant(within ? RenormLimits{3, 5} : RenormLimits{1.25, 0.25}));
  const MatrixXd y = renorm.forward(x);
  if (within) {
    CHECK(y.isApprox(Eigen::Vector4d(-1, 7, 7, 7) / 3, 1e-15));
    CHECK(renorm.backward(x, Eigen::Vector4d(1, 0, 0, -1))
              .isApprox(Eigen::Vector4d(1, 1, 1, -3) / 6, 1e-15));
    CHECK(bn.grad_gamma()[0] == Approx(-4. / 3).epsilon(1e-15));
    CHECK(bn.grad_beta()[0] == 0);
  } else {
    CHECK(renorm.r()[0] == 0.8);
    CHECK(renorm.d()[0] == 0.25);
    CHECK(y.isApprox(Eigen::Vector4d(-0.9, 2.3, 2.3, 2.3), 1e-15));
    CHECK(renorm.backward(x, Eigen::Vector4d(3, 0, 0, 1))
              .isApprox(Eigen::Vector4d(0.4, -0.4, -0.4, 0.4), 1e-15));
    CHECK(bn.grad_gamma()[0] == Approx(-2.2).epsilon(1e-15));
    CHECK(bn.grad_beta()[0] == 4);
  }
  CHECK(bn.running_mean()[0] == 4.25);  // 3/4 * 4 + 5/4
  CHECK(bn.running_var()[0] == 7);      // 3/4 * 8 + 4/4
}

TEST_CASE("limits of 1 and 0 are plain batch normalization, and so is eval mode", "[renorm]") {
  for (const testing::Kind& kind : kinds_with({1, 0})) {
    for (const bool training : {true, false}) {
      INFO(kind.name << ", training " << training);
      const auto spatial = testing::small_spatial(kind.rank);
      testing::check_by_reference(kind, {}, training, testing::random_values(7, 3, spatial, 1),
                                  testing::random_values(7, 3, spatial, 2));
    }
  }
}

TEST_CASE("renormalization corrects the reference layer by r and d, in every layout", "[renorm]") {
  constexpr double r_max = 1.5, d_max = 0.5;
  for (const testing::Kind& kind : kinds_with({r_max, d_max})) {
    for (const ChannelAxis axis : {ChannelAxis::first, ChannelAxis::last}) {
      INFO(kind.name << (axis == ChannelAxis::first ? ", channel first" : ", channel last"));
      Options options;
      options.channel_axis = axis;
      const auto spatial = testing::small_spatial(kind.rank);
      const Values x = kind.rounded(testing::random_values(7, 3, spatial, 1));
      const Values dy = kind.rounded(testing::random_values(7, 3, spatial, 2));
      const auto layer = kind.layer(3, options);
      testing::Random random(9);
      testing::randomize(*layer, random);
      const testing::State before = layer->state();
      testing::ReferenceLayer reference(3, options);
      testing::copy_state(before, reference);
      Values expected_y = reference.forward(x), expected_dx = reference.backward(x, dy);
      std::vector<double> r(3), d(3);
      for (std::size_t c = 0; c < 3; ++c) {
        const double sigma = std::sqrt(before.running_var[c] + options.eps);
        const double sigma_b = 1 / static_cast<double>(reference.inv_std(Index(c)));
        const double mu = static_cast<double>(reference.mean[c]);
        r[c] = std::min(std::max(sigma_b / sigma, 1 / r_max), r_max);
        d[c] = std::min(std::max((mu - before.running_mean[c]) / sigma, -d_max), d_max);
        const double dbeta = static_cast<double>(reference.grad_beta[c]) - 9;
        const double s = static_cast<double>(reference.grad_gamma[c]) - 8;
        reference.grad_gamma[c] = 8 + r[c] * s + d[c] * dbeta;
      }
      x.each([&](Index n, Index c, Index p) {
        const double x_hat = static_cast<double>(reference.x_hat(x, n, c, p));
        expected_y(n, c, p) =
            before.gamma[at(c)] * (x_hat * r[at(c)] + d[at(c)]) + before.beta[at(c)];
        expected_dx(n, c, p) *= r[at(c)];
      });
      const Values y = layer->forward(x), dx = layer->backward(x, dy);
      // The bounds are for terms of the plain layer's size; these are up to r_max + d_max times it.
      CHECK(error_of_y(kind, reference, x, y, expected_y) <= r_max + d_max);
      CHECK(error_of_statistics(kind, reference, layer->state()) <= 1);
      const auto errors =
          errors_of_gradients(kind, reference, x, dy, dx, expected_dx, layer->state());
      CHECK(errors.dx <= r_max + d_max);
      CHECK(errors.dgamma <= r_max + d_max);
      CHECK(errors.dbeta <= 1);
    }
  }
}

TEST_CASE("backward is the gradient of renormalization with r and d held", "[renorm][gradient]") {
  MatrixXd x(6, 2), dy(6, 2);
  testing::Random random(4);
  random.fill(x, 1, 2), random.fill(dy);
  BatchNorm1d<double> bn(2);
  bn.gamma() << 1.5, -0.5;
  bn.beta() << 0.25, 2;
  bn.running_mean() << 0.5, 3;
  BatchRenorm renorm(bn, RenormSchedule::constant({2, 1}));
  Eigen::Vector2d gamma = bn.gamma(), beta = bn.beta();
  static_cast<void>(renorm.forward(x));
  const MatrixXd dx = renorm.backward(x, dy);
  const std::function<double()> loss = [&] {
    double sum = 0;
    for (Index c = 0; c < 2; ++c) {
      const double mu = x.col(c).mean();
      const double var = (x.col(c).array() - mu).square().mean();
      for (Index n = 0; n < 6; ++n) {
        const double x_hat = (x(n, c) - mu) / std::sqrt(var + 1e-5) * renorm.r()[c] + renorm.d()[c];
        sum += dy(n, c) * (gamma[c] * x_hat + beta[c]);
      }
    }
    return sum;
  };
  CHECK(renorm.r()[0] != 1);
  for (Index i = 0; i < x.size(); ++i) {
    CHECK(testing::near(dx.data()[i], testing::derivative(x.data()[i], loss)));
  }
  for (Index c = 0; c < 2; ++c) {
    CHECK(testing::near(bn.grad_gamma()[c], testing::derivative(gamma[c], loss)));
    CHECK(testing::near(bn.grad_beta()[c], testing::derivative(beta[c], loss)));
  }
}

TEST_CASE("results may not lie over x, dense or not", "[renorm]") {
  using Strided = Eigen::Map<MatrixXd, 0, Eigen::Stride<Eigen::Dynamic, Eigen::Dynamic>>;
  Eigen::VectorXd memory(24);
  memory.setLinSpaced(-1, 1);
  const Eigen::VectorXd before = memory;
  BatchNorm1d<double> bn(3);
  BatchRenorm renorm(bn);
  for (const Index stride : {1, 2}) {
    Strided x(memory.data(), 4, 3, {4 * stride, stride});
    testing::check_refused<std::invalid_argument>(bn, {"[BatchRenorm::forward]", "y apart from x"},
                                                  [&] { renorm.forward(x, x); });
    const MatrixXd dy = renorm.forward(x);
    testing::check_refused<std::invalid_argument>(
        bn, {"[BatchRenorm::backward]", "dx apart from x"}, [&] { renorm.backward(x, dy, x); });
  }
  CHECK(memory == before);
}

// The paper's schedule: r_max 1 and d_max 0 for 5000 batches, then lines to r_max 3 at 40,000 batches
// and to d_max 5 at 25,000.
TEST_CASE("limits follow their schedule, by the batches that were counted", "[renorm]") {
  const RenormSchedule paper;
  const auto is = [&](std::int64_t batches, double r_max, double d_max) {
    const RenormLimits limits = paper.at(batches);
    return limits.r_max == Approx(r_max) && limits.d_max == Approx(d_max);
  };
  CHECK(is(0, 1, 0));
  CHECK(is(5000, 1, 0));
  CHECK(is(15000, 1 + 2 * 10000. / 35000, 2.5));
  CHECK(is(25000, 1 + 2 * 20000. / 35000, 5));
  CHECK(is(40000, 3, 5));
  CHECK(is(1000000, 3, 5));
  BatchNorm1d<float> bn(1);
  BatchRenorm renorm(bn, RenormSchedule{1, 3, 2, {2, 4}});
  const Eigen::MatrixXf x = Eigen::Vector2f(1, 2);
  for (const double r_max : {1.0, 1.0, 1.5, 2.0, 2.0}) {
    CHECK(renorm.limits().r_max == r_max);
    static_cast<void>(renorm.forward(x));
  }
}

TEST_CASE("renormalization refuses what it cannot do", "[renorm]") {
  Options untracked;
  untracked.track_running_stats = false;
  BatchNorm1d<float> none(2, untracked), bn(2);
  check_throws<std::invalid_argument>({"[BatchRenorm::BatchRenorm] expected a layer with track"},
                                      [&] { BatchRenorm{none}; });
  const auto refused = [&](const RenormSchedule& schedule, const char* what) {
    check_throws<std::invalid_argument>({what}, [&] { BatchRenorm(bn, schedule); });
  };
  refused(RenormSchedule::constant({0.5, 1}), "expected a finite r_max of at least 1, got 0.5");
  refused(RenormSchedule::constant({2, -1}), "expected a finite d_max of at least 0, got -1");
  refused({10, 5, 20, {}},
          "expected a schedule of 0 <= start <= r_end and d_end, got 10, 5 and 20");
  refused({10, 20, 5, {}}, "got 10, 20 and 5");
  refused({-1, 5, 5, {}}, "got -1, 5 and 5");
  for (const double bad : {std::numeric_limits<double>::infinity(), std::nan("")}) {
    refused(RenormSchedule::constant({bad, 1}), "expected a finite r_max of at least 1, got ");
    refused(RenormSchedule::constant({2, bad}), "expected a finite d_max of at least 0, got ");
  }
  BatchRenorm renorm(bn);
  const Eigen::MatrixXf one = Eigen::MatrixXf::Ones(1, 2), two = Eigen::MatrixXf::Ones(2, 2);
  testing::check_refused<std::logic_error>(bn, {"call forward(x) first"},
                                           [&] { static_cast<void>(renorm.backward(two, two)); });
  testing::check_refused<std::invalid_argument>(
      bn, {"[BatchRenorm::forward]", "more than one value per channel, got 1"},
      [&] { static_cast<void>(renorm.forward(one)); });
  static_cast<void>(renorm.forward(two));
  testing::check_refused<std::invalid_argument>(bn, {"of shape (2, 2), got one of (1, 2)"}, [&] {
    static_cast<void>(renorm.backward(one, one));
  });
  bn = none;
  testing::check_refused<std::logic_error>(bn,
                                           {"[BatchRenorm::forward] expected running statistics"},
                                           [&] { static_cast<void>(renorm.forward(two)); });
}

TEST_CASE("there is nothing to renormalize where running statistics do, or without values",
          "[renorm]") {
  const bool empty = GENERATE(true, false);
  Options options;
  options.eps = 1;
  options.single_value = empty ? SingleValue::accept : SingleValue::use_running;
  BatchNorm1d<double> bn(1, options);
  bn.gamma() << 2, bn.beta() << 1, bn.running_mean() << 4, bn.running_var() << 8;
  BatchRenorm renorm(bn, RenormSchedule::constant({3, 5}));
  const MatrixXd x = MatrixXd::Constant(empty ? 0 : 1, 1, 7);
  const MatrixXd y = renorm.forward(x), dx = renorm.backward(x, x);
  CHECK(renorm.r()[0] == 1);
  CHECK(renorm.d()[0] == 0);
  CHECK(bn.running_mean()[0] == 4);
  CHECK(bn.running_var()[0] == 8);
  CHECK(bn.num_batches_tracked() == 0);
  CHECK(bn.grad_beta()[0] == (empty ? 0 : 7));
  CHECK(bn.grad_gamma()[0] == Approx(empty ? 0. : 7.).epsilon(1e-15));
  if (empty) return;
  CHECK(y(0) == Approx(3).epsilon(1e-15));         // 2 * (7 - 4) / 3 + 1
  CHECK(dx(0) == Approx(14. / 3).epsilon(1e-15));  // 2 / 3 * 7
}

TEST_CASE("without a deviation, of the batch or of the running statistics, r is 1 and d 0",
          "[renorm]") {
  Options options;
  options.eps = 0;
  BatchNorm1d<double> bn(2, options);
  bn.running_mean() << 4, 4;
  bn.running_var() << 1, 0;
  bn.beta() << 3, 3;
  BatchRenorm renorm(bn, RenormSchedule::constant({3, 5}));
  MatrixXd x(2, 2);
  x << 7, 6, 7, 8;  // a constant channel, and one of mean 7 and variance 1
  const MatrixXd y = renorm.forward(x);
  CHECK((renorm.r() == 1).all());
  CHECK((renorm.d() == 0).all());
  CHECK(y.col(0) == Eigen::Vector2d(3, 3));
  CHECK(y.col(1) == Eigen::Vector2d(2, 4));
  CHECK(renorm.backward(x, x).col(0) == Eigen::Vector2d(0, 0));
}
