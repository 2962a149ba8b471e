// SPDX-License-Identifier: MIT
// What diagnose says of layers whose ills are known.

#include <batchnorm/batchnorm.hpp>
#include <batchnorm/diagnose.hpp>
#include <cmath>
#include <limits>
#include <sstream>
#include <stdexcept>

#include "support/catch.hpp"
#include "support/random.hpp"
#include "support/refused.hpp"

using batchnorm::BatchNorm1d;
using batchnorm::BatchNorm2d;
using batchnorm::ChannelDiagnosis;
using batchnorm::diagnose;
using batchnorm::Diagnosis;
using batchnorm::Momentum;
using batchnorm::Options;

namespace {

std::string text(const Diagnosis& d) {
  std::ostringstream out;
  out << d;
  return out.str();
}
bool says(const Diagnosis& d, const std::string& words) {
  return text(d).find(words) != std::string::npos;
}

/// 1000 samples of normal numbers, mean 3 and deviation 2.
Eigen::MatrixXf samples(Eigen::Index channels, std::uint64_t seed = 1) {
  Eigen::MatrixXf x(1000, channels);
  testing::Random random(seed);
  random.fill(x, 3, 2);
  return x;
}

/// A layer that has seen batches enough.
BatchNorm1d<float> trained(Eigen::Index channels) {
  Options options;
  options.momentum = Momentum::cumulative();
  BatchNorm1d<float> bn(channels, options);
  for (std::uint64_t batch = 0; batch < 10; ++batch) {
    static_cast<void>(bn.forward(samples(channels, 10 + batch)));
  }
  return bn;
}

}  // namespace

TEST_CASE("shift and spread of a batch are the numbers worked out by hand", "[diagnose]") {
  Options options;
  options.eps = 1;
  BatchNorm1d<double> bn(2, options);
  bn.running_mean() << 4, 1;
  bn.running_var() << 3, 35;
  Eigen::Matrix2d two;
  two << 10, 0, 20, 2;  // of mean 15 and 1, variance 25 and 1
  const Eigen::MatrixXd x = two.replicate(100, 1);
  const auto before = bn;
  const Diagnosis d = diagnose(bn, x);
  CHECK(testing::same_state(bn, before));
  REQUIRE(d.channels.size() == 2);
  CHECK(d.count == 200);
  const ChannelDiagnosis &a = d.channels[0], &b = d.channels[1];
  CHECK(a.mean == Approx(15));
  CHECK(a.var == Approx(25));
  CHECK(a.running_mean == 4);
  CHECK(a.running_var == 3);
  CHECK(a.shift == Approx(11.0 / 2));
  CHECK(a.spread == Approx(std::sqrt(26.0 / 4)));
  CHECK(a.is_far);
  CHECK_FALSE(a.is_flat);
  CHECK(b.shift == Approx(0).margin(1e-12));
  CHECK(b.spread == Approx(std::sqrt(2.0 / 36)));
  CHECK(b.is_far);   // by its spread
  CHECK(b.is_flat);  // 1, no more than eps
  CHECK(d.number_of(&ChannelDiagnosis::is_far) == 2);
}

TEST_CASE("shift and spread are what eval mode makes of the batch", "[diagnose]") {
  BatchNorm2d<float> bn(3);
  bn.running_mean() << 1, -2, 5;
  bn.running_var() << 0.5f, 4, 9;
  bn.eval();
  Eigen::Tensor<float, 4, Eigen::RowMajor> x(6, 3, 5, 5);
  testing::Random random(2);
  random.fill(x, 2, 3);
  const Diagnosis d = diagnose(bn, x);
  const auto y = bn.forward(x);  // gamma 1, beta 0: x_hat
  for (Eigen::Index c = 0; c < 3; ++c) {
    double sum = 0, squares = 0;
    for (Eigen::Index n = 0; n < 6; ++n) {
      for (Eigen::Index p = 0; p < 25; ++p) {
        const double v = static_cast<double>(y(n, c, p / 5, p % 5));
        sum += v, squares += v * v;
      }
    }
    const double mean = sum / 150, var = squares / 150 - mean * mean;
    CHECK(d.channels[static_cast<std::size_t>(c)].shift == Approx(mean).epsilon(1e-4));
    CHECK(d.channels[static_cast<std::size_t>(c)].spread == Approx(std::sqrt(var)).epsilon(1e-4));
  }
}

TEST_CASE("eval mode is explained where the data are not those that a layer has learned",
          "[diagnose]") {
  auto bn = trained(4);
  const Diagnosis d = diagnose(bn, samples(4));
  CHECK_FALSE(d.explains_eval());
  CHECK(d.batches == 10);
  CHECK(says(d, "Eval mode normalizes this batch as training mode does.\n"));
  CHECK_FALSE(diagnose(bn, samples(4).topRows(4).eval()).explains_eval());  // 4 of them scatter
  const Eigen::MatrixXf other = samples(4).array() * 10 + 5;
  CHECK(diagnose(bn, other).number_of(&ChannelDiagnosis::is_far) == 4);
  CHECK(diagnose(bn, other).explains_eval());
  CHECK(says(diagnose(bn, other), "4 of 4 channels are far off"));
  bn.running_mean()[2] = std::numeric_limits<float>::quiet_NaN();  // nothing is far off, but
  CHECK(diagnose(bn, samples(4)).number_of(&ChannelDiagnosis::is_far) == 0);
  CHECK(diagnose(bn, samples(4)).explains_eval());
}

TEST_CASE("running statistics that were never updated are named", "[diagnose]") {
  BatchNorm1d<float> bn(2);
  CHECK(diagnose(bn, samples(2)).never_updated);
  CHECK(says(diagnose(bn, samples(2)), "The running statistics were never updated"));
  bn.running_var().setConstant(4);  // loaded, as from Keras, which has no counter
  CHECK_FALSE(diagnose(bn, samples(2)).never_updated);
  bn.running_mean().setConstant(3);
  CHECK_FALSE(diagnose(bn, samples(2)).never_updated);
  CHECK_FALSE(diagnose(bn, samples(2)).explains_eval());
}

// By eps 0, running mean 0 and variance 1, a batch of mean 0 and variance 1. 1000 values, so that the
// limits are 1/2 for the shift, and 1/2 and 2 for the spread: chance explains only 0.13 and exp(0.09).
TEST_CASE("a channel is far off just beyond a shift of a half or a spread of two", "[diagnose]") {
  Options options;
  options.eps = 0;
  BatchNorm1d<double> bn(1, options);
  const Eigen::MatrixXd x = Eigen::Vector2d(-1, 1).replicate(500, 1);
  const auto is_far = [&](double running_mean, double running_deviation) {
    bn.running_mean() << running_mean;
    bn.running_var() << running_deviation * running_deviation;
    return diagnose(bn, x).channels[0].is_far;
  };
  CHECK_FALSE(is_far(0.49, 1));
  CHECK(is_far(0.51, 1));
  CHECK_FALSE(is_far(-0.49, 1));
  CHECK(is_far(-0.51, 1));
  CHECK_FALSE(is_far(0, 1.99));
  CHECK(is_far(0, 2.01));
  CHECK_FALSE(is_far(0, 0.51));
  CHECK(is_far(0, 0.49));
}

TEST_CASE("a batch counts as seen by any of mean, variance and counter", "[diagnose]") {
  BatchNorm1d<float> bn(2);
  bn.running_mean()[1] = 3;
  CHECK_FALSE(diagnose(bn, samples(2)).never_updated);
  bn.running_mean()[1] = 0, bn.running_var()[0] = 2;
  CHECK_FALSE(diagnose(bn, samples(2)).never_updated);
  bn.running_var()[0] = 1, bn.num_batches_tracked() = 1;
  CHECK_FALSE(diagnose(bn, samples(2)).never_updated);
  bn.num_batches_tracked() = 0;
  CHECK(diagnose(bn, samples(2)).never_updated);
}

TEST_CASE("flat, dead and not finite channels are named", "[diagnose]") {
  auto bn = trained(6);
  bn.gamma()[1] = 0;
  Eigen::MatrixXf x = samples(6);
  x.col(2).setConstant(3);
  x(7, 3) = std::numeric_limits<float>::infinity();
  bn.running_var()[4] = std::numeric_limits<float>::quiet_NaN();
  bn.running_var()[5] = std::numeric_limits<float>::infinity();  // of shift and spread 0
  const Diagnosis d = diagnose(bn, x);
  CHECK(d.channels[1].is_dead);
  CHECK(d.number_of(&ChannelDiagnosis::is_dead) == 1);
  CHECK(d.channels[2].is_flat);
  CHECK(d.number_of(&ChannelDiagnosis::is_flat) == 1);
  CHECK_FALSE(d.channels[3].is_finite);
  CHECK_FALSE(d.channels[4].is_finite);
  CHECK_FALSE(d.channels[5].is_finite);
  CHECK_FALSE(d.channels[5].is_far);
  CHECK(d.number_of(&ChannelDiagnosis::is_finite) == 3);
  CHECK(d.explains_eval());
  CHECK(says(d, "1 of 6 channels are dead: gamma is 0.\n"));
  CHECK(says(d, "1 of 6 channels are flat"));
  CHECK(says(d, "3 of 6 channels have statistics that are not finite"));
}

TEST_CASE("a channel whose variance overflows is not finite, even if its mean is", "[diagnose]") {
  BatchNorm1d<double> bn(1);
  const Diagnosis d = diagnose(bn, Eigen::MatrixXd(Eigen::Vector2d(-1e300, 1e300)));
  CHECK(d.channels[0].shift == 0);
  CHECK_FALSE(d.channels[0].is_finite);
}

TEST_CASE("a channel of variance 0 in batch and layer has a spread of 1, by eps 0 too",
          "[diagnose]") {
  Options options;
  options.eps = 0;
  BatchNorm1d<double> bn(1, options);
  bn.running_mean() << 3;
  bn.running_var() << 0;
  const Diagnosis d = diagnose(bn, Eigen::MatrixXd(Eigen::Vector2d(3, 3)));
  CHECK(d.channels[0].spread == 1);
  CHECK_FALSE(d.channels[0].is_far);
}

TEST_CASE("numbers of any size do not cut a line of the table short", "[diagnose]") {
  BatchNorm1d<double> bn(1);
  const std::string table = text(diagnose(bn, Eigen::MatrixXd(Eigen::Vector2d(1e200, 1e200))));
  CHECK(table.find("  far off  flat\n") != table.npos);
}

TEST_CASE("the table has a line for each channel, or for the 20 worst", "[diagnose]") {
  auto bn = trained(30);
  const Eigen::MatrixXf x = samples(30);
  bn.running_mean()[29] = 30;
  const std::string table = text(diagnose(bn, x));
  CHECK(table.find("channel        mean   run. mean         std    run. std     shift    spread\n"
                   "     29 ") == 0);
  CHECK(table.find("far off\n") != std::string::npos);
  CHECK(table.find("The 20 worst of 30 channels.\n") != std::string::npos);
  bn.running_mean()[25] = std::numeric_limits<float>::quiet_NaN();  // worse than far off
  const std::string broken = text(diagnose(bn, x));
  CHECK(broken.find("spread\n     25 ") != std::string::npos);
  CHECK(broken.find("not finite\n     29 ") != std::string::npos);
  const std::string few = text(diagnose(trained(3), samples(3)));
  CHECK(std::count(few.begin(), few.end(), '\n') == 5);  // a heading, 3 channels, a verdict
}

TEST_CASE("channels are diagnosed where they are the last axis", "[diagnose]") {
  Options options;
  options.channel_axis = batchnorm::ChannelAxis::last;
  const BatchNorm2d<float> bn(3, options);
  Eigen::Tensor<float, 4, Eigen::RowMajor> x(2, 3, 4, 3);
  for (Eigen::Index i = 0; i < x.size(); ++i) x.data()[i] = static_cast<float>(i % 3);
  const Diagnosis d = diagnose(bn, x);
  CHECK(d.count == 24);
  for (std::size_t c = 0; c < 3; ++c) CHECK(d.channels[c].mean == static_cast<double>(c));
}

TEST_CASE("layers without gamma or statistics are diagnosed, and samples in columns",
          "[diagnose]") {
  Options options;
  options.scale = options.track_running_stats = false;
  const BatchNorm1d<float> bn(2, options);
  const Diagnosis d = diagnose(bn, samples(2));
  CHECK_FALSE(d.tracks);
  CHECK_FALSE(d.explains_eval());
  CHECK(says(d, "eval mode uses the batch's too"));
  const Eigen::MatrixXf columns = samples(2).transpose();
  CHECK(diagnose(bn, columns.transpose()).channels[1].mean == d.channels[1].mean);
}

TEST_CASE("a batch or a layer that does not fit is refused", "[diagnose]") {
  BatchNorm1d<float> cut(2);
  cut.running_mean().resize(1);
  testing::check_throws<std::logic_error>(
      {"[batchnorm::diagnose] expected running_mean of length 2, got 1"},
      [&] { static_cast<void>(diagnose(cut, samples(2))); });
  const BatchNorm1d<float> bn(2);
  testing::check_throws<std::invalid_argument>(
      {"[BatchNorm1d::forward] expected 2 channels, got 3"},
      [&] { static_cast<void>(diagnose(bn, samples(3))); });
  testing::check_throws<std::invalid_argument>(
      {"[batchnorm::diagnose] expected values, got an empty batch of shape (0, 2)"},
      [&] { static_cast<void>(diagnose(bn, Eigen::MatrixXf(0, 2))); });
}
