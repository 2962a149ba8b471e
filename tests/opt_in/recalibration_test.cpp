// SPDX-License-Identifier: MIT
// Recalibration: running statistics of a whole data set, and what an average of batches makes of it.

#include <batchnorm/batchnorm.hpp>
#include <batchnorm/extras/in_place.hpp>
#include <batchnorm/extras/switched.hpp>
#include <batchnorm/extras/weighted.hpp>
#include <batchnorm/moments.hpp>
#include <cmath>
#include <limits>
#include <vector>

#include "support/catch.hpp"
#include "support/random.hpp"
#include "support/refused.hpp"

using batchnorm::BatchNorm1d;
using batchnorm::BatchNorm2d;
using batchnorm::Momentum;
using batchnorm::NonFinite;
using batchnorm::Options;
using batchnorm::Recalibration;
using batchnorm::VarianceEstimate;
using Eigen::Index;
using Eigen::MatrixXd;

namespace {

MatrixXd column(const std::vector<double>& v) {
  return Eigen::Map<const MatrixXd>(v.data(), static_cast<Index>(v.size()), 1);
}
template <class Layer>
auto through(Layer& layer) {
  return [&layer](const auto& x) { static_cast<void>(layer.forward(x)); };
}

}  // namespace

TEST_CASE("recalibration gives the data set's mean and variance by the layer's estimate",
          "[recalibration]") {
  // 0, 2 and 10, 10, 10, 10, 10, 14: mean 66 / 8, squares 4 + 500 + 196 - 66^2 / 8 = 155.5.
  const std::vector<MatrixXd> batches = {column({0, 2}), column({10, 10, 10, 10, 10, 14})};
  for (const VarianceEstimate estimate :
       {VarianceEstimate::unbiased, VarianceEstimate::population}) {
    Options options;
    options.running_variance = estimate;
    options.momentum = Momentum::weight_of_new(0.5);
    BatchNorm1d<double> bn(1, options);
    bn.eval();
    Recalibration recalibration;
    recalibration.add(bn);
    recalibration.run(batches, through(bn));
    CHECK(bn.running_mean()[0] == Approx(8.25).epsilon(1e-15));
    const double n = estimate == VarianceEstimate::unbiased ? 7 : 8;
    CHECK(bn.running_var()[0] == Approx(155.5 / n).epsilon(1e-15));
    CHECK(bn.num_batches_tracked() == 2);
    CHECK_FALSE(bn.is_training());
  }
}

TEST_CASE("a data set of one value has a mean, and no unbiased variance", "[recalibration]") {
  Options options;
  options.single_value = batchnorm::SingleValue::accept;
  BatchNorm1d<double> bn(1, options);
  bn.running_var() << 5;
  Recalibration recalibration;
  recalibration.add(bn);
  recalibration.run(std::vector<MatrixXd>{column({3})}, through(bn));
  CHECK(bn.running_mean()[0] == 3);
  CHECK(bn.running_var()[0] == 5);
}

TEST_CASE("an average of batches, as update_bn takes it, is something else", "[recalibration]") {
  // PyTorch's torch.optim.swa_utils.update_bn runs the batches under momentum None, which is
  // cumulative() here: means 1 and 64 / 6 weigh alike, and variances 2 and 16 / 6 * 6 / 5 too; that
  // the batches lie far apart is in neither.
  const std::vector<MatrixXd> batches = {column({0, 2}), column({10, 10, 10, 10, 10, 14})};
  Options options;
  options.momentum = Momentum::cumulative();
  BatchNorm1d<double> update_bn(1, options);
  for (const MatrixXd& x : batches) static_cast<void>(update_bn.forward(x));
  const double var_of_second = (5 * std::pow(10 - 64. / 6, 2) + std::pow(14 - 64. / 6, 2)) / 5;
  CHECK(update_bn.running_mean()[0] == Approx((1 + 64. / 6) / 2));       // 5.83, truly 8.25
  CHECK(update_bn.running_var()[0] == Approx((2 + var_of_second) / 2));  // 2.33, truly 22.2

  Recalibration recalibration;
  recalibration.add(update_bn);
  recalibration.run(batches, through(update_bn));
  CHECK(update_bn.running_mean()[0] == Approx(8.25));
  CHECK(update_bn.running_var()[0] == Approx(155.5 / 7));
}

TEST_CASE("after weight averaging, recalibration fits the running statistics to the new weights",
          "[recalibration]") {
  // Two linear layers before a norm, and their average: its outputs have a mean and variance of
  // their own, which no average of the two norms' running statistics gives.
  testing::Random random(1);
  MatrixXd x(90, 3), w_a(3, 2), w_b(3, 2);
  random.fill(x, 1, 2);
  random.fill(w_a);
  random.fill(w_b);
  BatchNorm1d<double> a(2), b(2);
  for (int step = 0; step < 200; ++step) {
    static_cast<void>(a.forward(x * w_a));
    static_cast<void>(b.forward(x * w_b));
  }
  const MatrixXd w = (w_a + w_b) / 2, h = x * w;
  BatchNorm1d<double> bn(2);
  bn.running_mean() = (a.running_mean() + b.running_mean()) / 2;
  bn.running_var() = (a.running_var() + b.running_var()) / 2;
  const auto variances_in_eval = [&] {
    bn.eval();
    const MatrixXd y = bn.forward(h);
    const MatrixXd d = y.rowwise() - y.colwise().mean();
    return Eigen::Vector2d(d.colwise().squaredNorm() / 89.);
  };
  CHECK((variances_in_eval().array() - 1).abs().minCoeff() > 0.05);  // by the average of the two

  Recalibration recalibration;
  recalibration.add(bn);
  const std::vector<MatrixXd> batches = {x.topRows(64), x.middleRows(64, 20), x.bottomRows(6)};
  recalibration.run(batches,
                    [&](const MatrixXd& batch) { static_cast<void>(bn.forward(batch * w)); });
  // eps = 1e-5 beside variances of about 1.
  CHECK((variances_in_eval().array() - 1).abs().maxCoeff() < 1e-4);
  CHECK((bn.running_mean().transpose() - h.colwise().mean()).norm() < 1e-13);
}

TEST_CASE("a cumulative average goes on with the batches of a recalibration", "[recalibration]") {
  Options options;
  options.momentum = Momentum::cumulative();
  BatchNorm1d<double> bn(1, options);
  static_cast<void>(bn.forward(column({std::nan(""), 1})));  // skipped, which is forgotten too
  Recalibration recalibration;
  recalibration.add(bn);
  recalibration.run(std::vector<MatrixXd>{column({0, 2}), column({3, 5})}, through(bn));
  CHECK(bn.running_mean()[0] == 2.5);
  static_cast<void>(bn.forward(column({10, 12})));  // the third batch, which weighs 1/3
  CHECK(bn.running_mean()[0] == Approx((2 * 2.5 + 11) / 3).epsilon(1e-15));
  // What is skipped during a recalibration is not: one batch counts, and the next weighs 1/2.
  const std::vector<MatrixXd> batches = {column({std::nan(""), 1}), column({3, 5})};
  recalibration.run(batches, through(bn));
  static_cast<void>(bn.forward(column({10, 12})));
  CHECK(bn.running_mean()[0] == (4 + 11) / 2.0);
  CHECK(bn.num_batches_tracked() == 3);
}

TEST_CASE("who sets the counter to 0 after a recalibration starts anew", "[recalibration]") {
  Options options;
  options.momentum = Momentum::cumulative();
  BatchNorm1d<double> bn(1, options);
  Recalibration recalibration;
  recalibration.add(bn);
  recalibration.run(std::vector<MatrixXd>{column({std::nan(""), 1}), column({3, 5})}, through(bn));
  bn.num_batches_tracked() = 0;  // and no batch was skipped
  static_cast<void>(bn.forward(column({10, 12})));
  CHECK(bn.running_mean()[0] == 11);
}

TEST_CASE("an infinite value makes the mean infinite where infinities propagate",
          "[recalibration]") {
  const double inf = std::numeric_limits<double>::infinity();
  Options options;
  options.non_finite = NonFinite::propagate;
  BatchNorm1d<float> bn(1, options);
  Recalibration recalibration;
  recalibration.add(bn);
  const std::vector<MatrixXd> batches = {column({inf, 2}), column({3, 4}), column({5, 7})};
  recalibration.run(
      batches, [&](const MatrixXd& x) { static_cast<void>(bn.forward(x.cast<float>().eval())); });
  CHECK(bn.running_mean()[0] == static_cast<float>(inf));
}

TEST_CASE("a variance that float does not have becomes the largest float", "[recalibration]") {
  BatchNorm1d<float> bn(1);
  Recalibration recalibration;
  recalibration.add(bn);
  // Mean 0, and variance 2e50.
  const std::vector<Eigen::MatrixXf> batches = {Eigen::Vector2f(-1e25f, 1e25f)};
  recalibration.run(batches, through(bn));
  CHECK(bn.running_mean()[0] == 0);
  CHECK(bn.running_var()[0] == std::numeric_limits<float>::max());
}

TEST_CASE("all layers of a network are recalibrated in one pass, with progress",
          "[recalibration]") {
  testing::Random random(2);
  Eigen::Tensor<float, 4, Eigen::RowMajor> images(6, 2, 3, 3);
  random.fill(images, 5, 2);
  BatchNorm2d<float> first(2);
  BatchNorm1d<float> second(18);
  using Rows = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  Rows seen(0, 18);  // what reached the second layer, batch by batch
  std::vector<std::pair<std::size_t, std::size_t>> reports;
  Recalibration recalibration;
  recalibration.add(first);
  recalibration.add(second);
  const std::vector<Index> sizes = {2, 4};
  recalibration.run(
      sizes,
      [&](Index n) {
        using Images = Eigen::TensorMap<Eigen::Tensor<float, 4, Eigen::RowMajor>>;
        const Images batch(images.data() + (n == 2 ? 0 : 36), n, 2, 3, 3);
        const Eigen::Tensor<float, 4, Eigen::RowMajor> h = first.forward(batch);
        const Rows rows = Eigen::Map<const Rows>(h.data(), n, 18);
        static_cast<void>(second.forward(rows));
        seen.conservativeResize(seen.rows() + n, 18);
        seen.bottomRows(n) = rows;
      },
      [&](Recalibration::Progress at) { reports.emplace_back(at.done, at.total); });
  CHECK(reports == std::vector<std::pair<std::size_t, std::size_t>>{{1, 2}, {2, 2}});
  REQUIRE(seen.rows() == 6);
  // A float running variance, and 0 where a mean of values about 1 is exactly so.
  for (Index c = 0; c < 18; ++c) {
    const Eigen::VectorXd v = seen.col(c).cast<double>();
    CHECK(std::abs(double{second.running_mean()[c]} - v.mean()) <= 1.2e-7);
    const double var = (v.array() - v.mean()).square().sum() / 5;
    CHECK(double{second.running_var()[c]} == Approx(var).epsilon(1e-6));
  }
  double sum = 0;
  for (Index n = 0; n < 6; ++n) {
    for (Index i = 0; i < 9; ++i) sum += double{images(n, 0, i / 3, i % 3)};
  }
  CHECK(double{first.running_mean()[0]} == Approx(sum / 54).epsilon(1e-6));
}

TEST_CASE("a batch that is not finite in a channel is left out for that channel",
          "[recalibration]") {
  MatrixXd a(3, 2), b(3, 2);
  a << 1, 1, 2, 2, 3, 3;
  b << 5, 5, std::nan(""), 6, 7, 7;
  Options options;
  for (const NonFinite what : {NonFinite::skip_update, NonFinite::propagate, NonFinite::reject}) {
    options.non_finite = what;
    BatchNorm1d<double> bn(2, options);
    Recalibration recalibration;
    recalibration.add(bn);
    const auto run = [&] { recalibration.run(std::vector<MatrixXd>{a, b}, through(bn)); };
    if (what == NonFinite::reject) {
      testing::check_throws<std::domain_error>({"channel 0"}, run);
      CHECK(bn.num_batches_tracked() == 0);
      CHECK(bn.running_mean() == Eigen::Vector2d(0, 0));
      continue;
    }
    run();
    CHECK(bn.running_mean()[1] == Approx(4));
    CHECK(bn.running_var()[1] == Approx(28. / 5));
    if (what == NonFinite::propagate) {
      CHECK(std::isnan(bn.running_mean()[0]));
    } else {
      CHECK(bn.running_mean()[0] == 2);
      CHECK(bn.running_var()[0] == 1);
    }
  }
}

TEST_CASE("a channel that is finite in no batch keeps its running statistics", "[recalibration]") {
  MatrixXd x(2, 2);
  x << 1, std::nan(""), 3, 7;
  BatchNorm1d<double> bn(2);
  bn.running_mean() << 5, 6;
  bn.running_var() << 7, 8;
  Recalibration recalibration;
  recalibration.add(bn);
  recalibration.run(std::vector<MatrixXd>{x, x}, through(bn));
  CHECK(bn.running_mean() == Eigen::Vector2d(2, 6));
  CHECK(bn.running_var()[0] == Approx(4. / 3));  // of 1, 3, 1 and 3, by n - 1
  CHECK(bn.running_var()[1] == 8);
}

TEST_CASE("a recalibration that fails leaves the running statistics as they were",
          "[recalibration]") {
  BatchNorm1d<double> bn(1), other(1);
  static_cast<void>(bn.forward(column({3, 4})));
  bn.eval();
  const BatchNorm1d<double> before = bn;
  Recalibration recalibration;
  recalibration.add(bn);
  recalibration.add(other);
  const std::vector<MatrixXd> batches = {column({0, 2}), column({1, 2})};
  const auto check = [&] {
    CHECK(testing::same_bits(bn.running_mean(), before.running_mean()));
    CHECK(testing::same_bits(bn.running_var(), before.running_var()));
    CHECK(bn.num_batches_tracked() == 1);
    CHECK_FALSE(bn.is_training());
    CHECK(other.is_training());
  };
  testing::check_throws<std::logic_error>({"[Recalibration::add] expected each layer once"},
                                          [&] { recalibration.add(bn); });
  testing::check_throws<std::logic_error>(
      {"[Recalibration::run]", "every layer's own forward once", "layer 1", "batch 0"},
      [&] { recalibration.run(batches, through(bn)); });
  check();
  testing::check_throws<std::logic_error>({"every layer's own forward once", "layer 0"}, [&] {
    recalibration.run(batches, [&](const MatrixXd& x) {
      batchnorm::MicroBatches steps(bn);  // of which the layer keeps no moments
      steps.measure(x);
      static_cast<void>(steps.forward(x));
      static_cast<void>(other.forward(x));
    });
  });
  check();
  testing::check_throws<std::logic_error>({"every layer's own forward once", "layer 0"}, [&] {
    recalibration.run(batches, [&](const MatrixXd& x) {
      for (int times = 0; times < 2; ++times) static_cast<void>(bn.forward(x));
      static_cast<void>(other.forward(x));
    });
  });
  check();
  // In the second batch no forward, or one of a wrapper that leaves the layer no moments.
  const auto refused_in_second = [&](const auto& forward) {
    bool is_first = true;
    testing::check_throws<std::logic_error>({"layer 0", "batch 1"}, [&] {
      recalibration.run(batches, [&](const MatrixXd& x) {
        is_first ? static_cast<void>(bn.forward(x)) : forward(x);
        static_cast<void>(other.forward(x));
        is_first = false;
      });
    });
    check();
  };
  refused_in_second([](const MatrixXd&) {});
  refused_in_second([&](const MatrixXd& x) {  // normalized by the running statistics
    using batchnorm::Normalize, batchnorm::Update;
    static_cast<void>(batchnorm::Switched(bn, Normalize::running, Update::by_mode).forward(x));
  });
  refused_in_second([&](const MatrixXd& x) {
    const Eigen::Vector2d alike(1, 1);
    static_cast<void>(batchnorm::Weighted(bn).forward(x, batchnorm::weights(alike)));
  });
  refused_in_second([&](const MatrixXd& x) {
    MatrixXd y = x;
    batchnorm::InPlace(bn, batchnorm::Identity()).forward(y);
  });
  int calls = 0;
  testing::check_throws<std::runtime_error>({"out of data"}, [&] {
    recalibration.run(batches, [&](const MatrixXd& x) {
      static_cast<void>(bn.forward(x));
      static_cast<void>(other.forward(x));
      if (++calls == 2) throw std::runtime_error("out of data");
    });
  });
  check();
  testing::check_throws<std::invalid_argument>({"[Recalibration::run]", "at least one batch"}, [&] {
    recalibration.run(std::vector<MatrixXd>(), through(bn));
  });
  check();
  Options untracked;
  untracked.track_running_stats = false;
  BatchNorm1d<double> without(1, untracked);
  testing::check_throws<std::logic_error>({"[Recalibration::add]", "a layer that tracks none"},
                                          [&] { recalibration.add(without); });
}
