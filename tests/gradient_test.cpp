// SPDX-License-Identifier: MIT
// backward is the gradient of dot(dy, forward(x)), by central differences in double. dy is random:
// with dy = 1 the dx of training is 0, and hides errors.

#include <algorithm>

#include "support/any_layer.hpp"
#include "support/layer_gradient.hpp"

using batchnorm::ChannelAxis;
using batchnorm::Options;
using batchnorm::SingleValue;
using testing::at;
using testing::Index;
using testing::Kind;
using testing::State;

namespace {

struct Setting {
  const char* name;
  Options options;
  bool training;
  Index samples;
  bool single_position;
};

std::vector<Setting> settings(ChannelAxis axis) {
  Options plain, large_eps, no_scale, no_shift, bare, untracked, accept, use_running;
  large_eps.eps = 0.7;
  no_scale.scale = false;
  no_shift.shift = false;
  bare.scale = bare.shift = false;
  untracked.track_running_stats = false;
  accept.single_value = SingleValue::accept;
  use_running.single_value = SingleValue::use_running;
  std::vector<Setting> all = {{"training", plain, true, 4, false},
                              {"training, two values per channel", plain, true, 2, true},
                              {"training, large eps", large_eps, true, 3, false},
                              {"training, no scale", no_scale, true, 3, false},
                              {"training, no shift", no_shift, true, 3, false},
                              {"training, neither", bare, true, 3, false},
                              {"eval", plain, false, 3, false},
                              {"eval, neither", bare, false, 3, false},
                              {"eval, one value", plain, false, 1, true},
                              {"untracked, training", untracked, true, 3, false},
                              {"untracked, eval", untracked, false, 3, false},
                              {"one value, accepted", accept, true, 1, true},
                              {"one value by running statistics", use_running, true, 1, true}};
  for (Setting& one : all) one.options.channel_axis = axis;
  return all;
}

void check_setting(const Kind& kind, const Setting& setting) {
  constexpr Index channels = 3;
  const auto spatial = setting.single_position ? std::vector<Index>(at(kind.rank - 2), 1)
                                               : testing::small_spatial(kind.rank);
  const auto layer = kind.layer(channels, setting.options);
  layer->train(setting.training);
  testing::Random random(3);
  State state = layer->state();
  for (double& v : state.gamma) v = random.uniform(-2, 2);
  for (double& v : state.beta) v = random.normal();
  for (double& v : state.running_mean) v = random.normal();
  for (double& v : state.running_var) v = random.uniform(0.5, 2);
  std::fill(state.grad_gamma.begin(), state.grad_gamma.end(), 8);
  std::fill(state.grad_beta.begin(), state.grad_beta.end(), 9);
  layer->set(state);
  CHECK(state.grad_gamma.size() == (setting.options.scale ? at(channels) : 0));
  CHECK(state.grad_beta.size() == (setting.options.shift ? at(channels) : 0));
  testing::check_gradients(*layer, testing::random_values(setting.samples, channels, spatial, 1),
                           testing::random_values(setting.samples, channels, spatial, 2));
}

}  // namespace

TEST_CASE("backward is the gradient of forward, added to the gradients before", "[gradient]") {
  std::vector<Kind> kinds;
  testing::add_kinds<double>(kinds, "double", 0, 0);
  REQUIRE(kinds.size() == 10);
  for (const Kind& kind : kinds) {
    for (const ChannelAxis axis : {ChannelAxis::first, ChannelAxis::last}) {
      for (const Setting& setting : settings(axis)) {
        INFO(kind.name << (axis == ChannelAxis::first ? ", channel first" : ", channel last"));
        INFO(setting.name);
        check_setting(kind, setting);
      }
    }
  }
}

TEST_CASE("a layer used twice has the gradients of both uses, each by its own statistics",
          "[gradient]") {
  // dot(dy, b(a)) with a = forward(x), b = forward(a): the second use's saved() first, then the
  // first's.
  using Matrix = Eigen::MatrixXd;
  testing::Random random(4);
  Matrix x(7, 2), dy(7, 2);
  random.fill(x, 1, 2);
  random.fill(dy);
  batchnorm::BatchNorm1d<double> bn(2);
  bn.gamma() << 1.5, -0.5;
  bn.beta() << 0.25, 2;
  const auto loss = [&] {
    const Matrix a = bn.forward(x);
    return dy.cwiseProduct(bn.forward(a)).sum();
  };
  const Matrix a = bn.forward(x);
  const auto first = bn.saved();
  const Matrix b = bn.forward(a);
  const auto second = bn.saved();
  const Matrix da = bn.backward(second, a, dy);
  const Matrix dx = bn.backward(first, x, da);
  testing::check_gradients_of(loss, x, dx, bn);
}

TEST_CASE("backward uses the gamma of now, not that of its forward", "[gradient]") {
  testing::Random random(6);
  Eigen::MatrixXd x(6, 2), dy(6, 2);
  random.fill(x);
  random.fill(dy);
  for (const bool training : {true, false}) {
    batchnorm::BatchNorm1d<double> bn(2);
    bn.train(training);
    static_cast<void>(bn.forward(x));
    const Eigen::MatrixXd dx = bn.backward(x, dy);
    const Eigen::VectorXd dgamma = bn.grad_gamma();
    bn.gamma() << 2, -4;  // exact factors
    bn.beta() << 7, 8;
    bn.zero_grad();
    const Eigen::MatrixXd scaled = bn.backward(x, dy);
    CHECK(scaled.col(0) == 2 * dx.col(0));
    CHECK(scaled.col(1) == -4 * dx.col(1));
    CHECK(bn.grad_gamma() == dgamma);
  }
}

TEST_CASE("zero_grad starts the sums of gradients again", "[gradient]") {
  batchnorm::BatchNorm1d<double> bn(2);
  testing::Random random(5);
  Eigen::MatrixXd x(6, 2), dy(6, 2);
  random.fill(x);
  random.fill(dy);
  static_cast<void>(bn.forward(x));
  static_cast<void>(bn.backward(x, dy));
  const Eigen::VectorXd dgamma = bn.grad_gamma(), dbeta = bn.grad_beta();
  CHECK(dgamma.norm() > 0);
  static_cast<void>(bn.backward(x, dy));
  CHECK(bn.grad_gamma().isApprox(2 * dgamma, 1e-15));
  CHECK(bn.grad_beta().isApprox(2 * dbeta, 1e-15));
  bn.zero_grad();
  CHECK(bn.grad_gamma() == Eigen::VectorXd::Zero(2));
  CHECK(bn.grad_beta() == Eigen::VectorXd::Zero(2));
  static_cast<void>(bn.backward(x, dy));
  CHECK(bn.grad_gamma() == dgamma);
  CHECK(bn.grad_beta() == dbeta);
}

TEST_CASE("dx keeps its digits where means are large and lie between floats", "[gradient]") {
  // x = 2^23 and 2^23 + 1 in turn: mu = 2^23 + 1/2, var = 1/4, inv_std = 1 / sqrt(1/4 + 3/4) = 1 and
  // x_hat = -1/2 and 1/2. dy = 2^20 + 0, 3, 1, 2, 0, 4, and so on: mean 2^20 + 10/6, of dy * x_hat
  // (-0 + 3 - 1 + 2 - 0 + 4) / 2 / 6 = 4/6. All sums are exact, so that dx has a few roundings at the
  // size of 4 alone; means taken as floats would be wrong by 1/2 and by 1/24.
  Options options;
  options.eps = 0.75;
  const float pattern[] = {0, 3, 1, 2, 0, 4};
  const auto check = [&](auto x) {
    auto dy = x;
    for (int i = 0; i < x.rows(); ++i) {
      x.row(i).setConstant(0x1p23f + static_cast<float>(i % 2));
      dy.row(i).setConstant(0x1p20f + pattern[i % 6]);
    }
    batchnorm::BatchNorm1d<float> bn(x.cols(), options);
    static_cast<void>(bn.forward(x));
    const auto dx = bn.backward(x, dy);
    for (int i = 0; i < x.rows(); ++i) {
      const double x_hat = i % 2 - 0.5;
      const double expected = double{pattern[i % 6]} - 10.0 / 6 - x_hat * 4 / 6;
      for (int c = 0; c < x.cols(); ++c) CHECK(std::abs(double{dx(i, c)} - expected) <= 1e-6);
    }
  };
  check(Eigen::MatrixXf(96, 3));
  check(Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>(96, 3));
}
