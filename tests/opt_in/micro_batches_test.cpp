// SPDX-License-Identifier: MIT
// Micro-batches: forward and backward of a batch in parts are those of the whole.

#include <batchnorm/moments.hpp>
#include <cmath>

#include "support/check_layer.hpp"
#include "support/in_steps.hpp"
#include "support/layer_gradient.hpp"
#include "support/refused.hpp"

using batchnorm::BatchNorm1d;
using batchnorm::MicroBatches;
using batchnorm::NonFinite;
using batchnorm::Options;
using Eigen::MatrixXd;
using testing::check_refused;
using testing::Index;
using testing::random_matrix;
using testing::Values;

namespace {

std::vector<Index> sizes;  // of the parts, in samples

template <class Form>
class InMicroBatches : public testing::LayerOfForm<Form> {
 public:
  using testing::LayerOfForm<Form>::LayerOfForm;

  Values forward(const Values& x) override {
    const auto xs = testing::cut(x, sizes);
    for (const Values& part : xs) steps_.measure(make(part));
    std::vector<Values> ys;
    for (const Values& part : xs) ys.push_back(read(steps_.forward(make(part))));
    return testing::join(ys);
  }
  Values backward(const Values& x, const Values& dy) override {
    const auto xs = testing::cut(x, sizes), dys = testing::cut(dy, sizes);
    for (std::size_t i = 0; i < xs.size(); ++i) steps_.measure(make(xs[i]), make(dys[i]));
    std::vector<Values> dxs;
    for (std::size_t i = 0; i < xs.size(); ++i) {
      auto dx = make(dys[i]);
      steps_.backward(make(xs[i]), dx, dx);
      dxs.push_back(read(dx));
    }
    return testing::join(dxs);
  }

 private:
  auto make(const Values& v) const { return Form::make(v, this->axis_); }
  auto read(const typename Form::X& x) const { return Form::read(x, this->axis_); }

  MicroBatches<typename Form::Scalar, testing::spatial_of<Form>> steps_{this->layer_};
};

/// The y of a value that is d from the mean, where the variance is 1: d / sqrt(1 + eps). eps = 1e-5
/// takes 5e-6 from it. The mean and the variance are exact in these tests, so that y has two or
/// three roundings of 1.1e-16.
Approx y_of_deviation(double d) { return Approx(d / std::sqrt(1 + 1e-5)).epsilon(4e-16); }

}  // namespace

TEST_CASE("micro-batches are one large batch, forward and backward", "[micro]") {
  const std::vector<std::vector<Index>> cuts = {{10}, {5, 5}, {1, 0, 6, 1, 2}};
  testing::for_some_kinds<InMicroBatches>([&](const testing::Kind& kind, const Values& x,
                                              const Values& dy, Options options, bool training) {
    Options untracked = options, cumulative = Options::keras();
    untracked.track_running_stats = false;
    cumulative.channel_axis = options.channel_axis;
    cumulative.shift = false;
    cumulative.momentum = batchnorm::Momentum::cumulative();
    for (const auto& cut : cuts) {
      INFO(cut.size() << " parts");
      sizes = cut;
      testing::check_by_reference(kind, options, training, x, dy);
      testing::check_by_reference(kind, untracked, training, x, dy);
      testing::check_by_reference(kind, cumulative, training, x, dy);
    }
  });
}

TEST_CASE("the input gradient of micro-batches is that of dot(dy, y)", "[micro]") {
  MatrixXd x = random_matrix(7, 3, 3);
  const MatrixXd dy = random_matrix(7, 3, 4);
  BatchNorm1d<double> bn(3);
  bn.gamma() << 1.5, -0.5, 2;
  MicroBatches steps(bn);
  const auto loss = [&] {
    steps.measure(x.topRows(2));
    steps.measure(x.bottomRows(5));
    return dy.topRows(2).cwiseProduct(steps.forward(x.topRows(2))).sum() +
           dy.bottomRows(5).cwiseProduct(steps.forward(x.bottomRows(5))).sum();
  };
  loss();
  steps.measure(x.bottomRows(5), dy.bottomRows(5));
  steps.measure(x.topRows(2), dy.topRows(2));
  MatrixXd dx(7, 3);
  steps.backward(x.topRows(2), dy.topRows(2), dx.topRows(2));
  steps.backward(x.bottomRows(5), dy.bottomRows(5), dx.bottomRows(5));
  testing::check_gradients_of(loss, x, dx, bn);
}

TEST_CASE("a mean of a million deviations takes no digits from micro-batches", "[micro]") {
  // y within 6e-7 of the exact value, whose statistics are sums of whole numbers.
  testing::Random random(5);
  Eigen::VectorXf x(3000);
  long long sum = 0, squares = 0;
  for (Index i = 0; i < x.size(); ++i) {
    const auto d = static_cast<long long>(random.bits() % 7) - 3;
    sum += d;
    squares += d * d;
    x[i] = static_cast<float>(2000000 + d);
  }
  const double mean = 2000000 + static_cast<double>(sum) / 3000;
  const double var = static_cast<double>(3000 * squares - sum * sum) / 9e6;
  BatchNorm1d<float> bn(1);
  MicroBatches steps(bn);
  for (Index first = 0; first < 3000; first += 300) steps.measure(x.segment(first, 300));
  double worst = 0;
  for (Index first = 0; first < 3000; first += 300) {
    const Eigen::MatrixXf y = steps.forward(x.segment(first, 300));
    for (Index i = 0; i < 300; ++i) {
      const double exact = (static_cast<double>(x[first + i]) - mean) / std::sqrt(var + 1e-5);
      worst = std::max(worst, std::abs(static_cast<double>(y(i)) - exact) / std::max(1., exact));
    }
  }
  CHECK(worst <= 6e-7);
}

TEST_CASE("micro-batches are right where the mean is beyond what the kernels do", "[micro]") {
  const float size = std::ldexp(1.0f, 104);
  const Eigen::Vector4f x = Eigen::Vector4f(1, 3, 1, 3) * size, dy(1, 2, 3, -1);
  BatchNorm1d<float> bn(1);
  MicroBatches steps(bn);
  steps.measure(x.head(1)), steps.measure(x.tail(3));
  CHECK(steps.forward(x.head(1))(0) == Approx(-1));
  CHECK(steps.forward(x.tail(3))(0) == Approx(1));
  steps.measure(x.head(1), dy.head(1)), steps.measure(x.tail(3), dy.tail(3));
  // x_hat -1, 1, -1, 1, dbeta 5, dgamma -3:  dx * size = dy - 5/4 + x_hat * 3/4
  CHECK(steps.backward(x.head(1), dy.head(1))(0) * size == Approx(-1));
  const Eigen::Vector3f dx = steps.backward(x.tail(3), dy.tail(3)) * size;
  CHECK(dx[0] == Approx(1.5));
  CHECK(dx[1] == Approx(1));
  CHECK(dx[2] == Approx(-1.5));
}

TEST_CASE("a gradient that is not finite makes its channel's dx NaN in all parts", "[micro]") {
  const double infinity = std::numeric_limits<double>::infinity();
  const Eigen::Vector4d x(-1, 1, -1, 1);
  // dbeta is infinite, or dgamma alone is beyond a double: sum dy * x_hat with x_hat -1, 1, -1, 1
  for (const Eigen::Vector4d& dy :
       {Eigen::Vector4d(1, infinity, 0, 0), Eigen::Vector4d(-1e308, 1e308, 0, 0)}) {
    BatchNorm1d<double> bn(1);
    bn.gamma() << 1e300;  // beyond what the kernels do
    MicroBatches steps(bn);
    steps.measure(x);
    CHECK(steps.forward(x)(1) == Approx(1e300));
    steps.measure(x.head(2), dy.head(2)), steps.measure(x.tail(2), dy.tail(2));
    CHECK(std::isnan(steps.backward(x.head(2), dy.head(2))(0)));
    CHECK(std::isnan(steps.backward(x.tail(2), dy.tail(2))(1)));
  }
}

TEST_CASE("the next batch of micro-batches starts with its first measure", "[micro]") {
  const MatrixXd a = random_matrix(6, 2, 6), b = random_matrix(4, 2, 7);
  BatchNorm1d<double> bn(2), whole(2);
  MicroBatches steps(bn);
  for (const MatrixXd& x : {a, b}) {
    steps.measure(x.topRows(3));
    steps.measure(x.bottomRows(x.rows() - 3));
    static_cast<void>(steps.forward(x.topRows(3)));
    const MatrixXd expected = whole.forward(x).topRows(3);
    CHECK(steps.forward(x.topRows(3)).isApprox(expected, 1e-14));
  }
  CHECK(bn.num_batches_tracked() == 2);
  CHECK(bn.running_mean().isApprox(whole.running_mean(), 1e-14));
  CHECK(bn.running_var().isApprox(whole.running_var(), 1e-14));
}

TEST_CASE(
    "gradients of micro-batches are summed anew for each batch, and for other gradients of it",
    "[micro]") {
  BatchNorm1d<double> bn(2), whole(2);
  MicroBatches steps(bn);
  for (const std::uint64_t seed : {6u, 7u}) {
    const MatrixXd x = random_matrix(6, 2, seed);
    steps.measure(x);
    static_cast<void>(steps.forward(x));
    static_cast<void>(whole.forward(x));
    for (const std::uint64_t of_dy : {seed + 10, seed + 20}) {
      const MatrixXd dy = random_matrix(6, 2, of_dy);
      steps.measure(x.topRows(2), dy.topRows(2));
      steps.measure(x.bottomRows(4), dy.bottomRows(4));
      const MatrixXd expected = whole.backward(x, dy);
      CHECK(steps.backward(x, dy).isApprox(expected, 1e-13));
      CHECK(bn.grad_gamma().isApprox(whole.grad_gamma(), 1e-13));
      CHECK(bn.grad_beta().isApprox(whole.grad_beta(), 1e-13));
    }
  }
}

TEST_CASE("parts of a single value are no single value", "[micro]") {
  BatchNorm1d<double> bn(1);
  MicroBatches steps(bn);
  const MatrixXd one = MatrixXd::Constant(1, 1, 3), other = MatrixXd::Constant(1, 1, 5);
  steps.measure(one);
  check_refused<std::invalid_argument>(
      bn, {"[MicroBatches::forward]", "more than one value per channel, got 1"},
      [&] { static_cast<void>(steps.forward(one)); });
  steps.measure(other);  // the batch can still be completed
  CHECK(steps.forward(one)(0) == y_of_deviation(-1));
  CHECK(steps.forward(other)(0) == y_of_deviation(1));
}

TEST_CASE("a batch of micro-batches that was refused can be dropped", "[micro]") {
  BatchNorm1d<double> bn(1);
  MicroBatches steps(bn);
  const MatrixXd one = MatrixXd::Constant(1, 1, 99), two = Eigen::Vector2d(3, 5);
  steps.measure(one);
  CHECK_THROWS_AS(steps.forward(one), std::invalid_argument);
  steps.discard();
  check_refused<std::logic_error>(bn, {"[MicroBatches::forward]", "expected measure(x)"},
                                  [&] { static_cast<void>(steps.forward(two)); });
  steps.measure(two);
  CHECK(steps.forward(two)(1) == y_of_deviation(1));
}

TEST_CASE("micro-batches of a layer that got another size are refused", "[micro]") {
  BatchNorm1d<double> bn(2);
  MicroBatches steps(bn);
  const MatrixXd x = random_matrix(4, 2, 9), wide = random_matrix(4, 3, 9);
  steps.measure(x);
  const auto of_other_size = [&](const auto& call) {
    const BatchNorm1d<double> before = bn;
    bn = BatchNorm1d<double>(3);
    check_refused<std::logic_error>(bn, {"layer that was measured, of 2 channels, got one of 3"},
                                    call);
    bn = before;
  };
  of_other_size([&] { static_cast<void>(steps.forward(wide)); });
  static_cast<void>(steps.forward(x));
  of_other_size([&] { steps.measure(wide, wide); });
  steps.measure(x, x);
  of_other_size([&] { static_cast<void>(steps.backward(wide, wide)); });
  CHECK_NOTHROW(steps.backward(x, x));
  bn = BatchNorm1d<double>(3);
  steps.measure(wide);  // the next batch
  CHECK(steps.forward(wide).cols() == 3);
}

TEST_CASE("one part that is not finite makes its channel so in all", "[micro]") {
  MatrixXd good = random_matrix(4, 2, 8), bad = good;
  bad(1, 0) = std::nan("");
  Options options;
  {
    BatchNorm1d<double> bn(2, options);
    MicroBatches steps(bn);
    steps.measure(good);
    steps.measure(bad);
    const MatrixXd y = steps.forward(good);
    CHECK(y.col(0).array().isNaN().all());
    CHECK(y.col(1).array().isFinite().all());
    CHECK(bn.running_mean()[0] == 0);
    CHECK(bn.running_mean()[1] != 0);
  }
  options.non_finite = NonFinite::reject;
  BatchNorm1d<double> bn(2, options);
  MicroBatches steps(bn);
  steps.measure(good);
  steps.measure(bad);
  check_refused<std::domain_error>(bn, {"[MicroBatches::forward]", "channel 0"},
                                   [&] { static_cast<void>(steps.forward(good)); });
}

TEST_CASE("steps of micro-batches out of order are refused", "[micro]") {
  BatchNorm1d<double> bn(2);
  MicroBatches steps(bn);
  const MatrixXd x = random_matrix(4, 2, 9);
  const auto forward = [&] { static_cast<void>(steps.forward(x)); };
  const auto backward = [&] { static_cast<void>(steps.backward(x, x)); };
  check_refused<std::logic_error>(bn, {"[MicroBatches::forward]", "expected measure(x)"}, forward);
  const auto measure = [&] { steps.measure(x, x); };
  check_refused<std::logic_error>(bn, {"[MicroBatches::measure]", "expected forward"}, measure);
  check_refused<std::logic_error>(bn, {"[MicroBatches::backward]", "expected measure(x, dy)"},
                                  backward);
  steps.measure(x);
  check_refused<std::logic_error>(bn, {"[MicroBatches::measure]", "expected forward"}, measure);
  steps.measure(x);
  forward();
  check_refused<std::logic_error>(bn, {"[MicroBatches::backward]", "of 8 values", "got 0"},
                                  backward);
  steps.measure(x, x);
  check_refused<std::logic_error>(bn, {"[MicroBatches::backward]", "of 8 values", "got 4"},
                                  backward);
  steps.measure(x, x);
  backward();
  backward();

  steps.measure(x);
  bn.eval();
  check_refused<std::logic_error>(bn, {"[MicroBatches::forward]", "mode"}, forward);
  check_refused<std::logic_error>(bn, {"[MicroBatches::measure]", "mode"},
                                  [&] { steps.measure(x); });
  bn.train();
  check_refused<std::invalid_argument>(bn,
                                       {"[MicroBatches::measure]", "expected 2 channels, got 3"},
                                       [&] { steps.measure(MatrixXd(2, 3)); });
  MatrixXd z = x;
  check_refused<std::invalid_argument>(bn, {"[MicroBatches::forward]", "overlapping"},
                                       [&] { steps.forward(z, z); });
  check_refused<std::invalid_argument>(bn, {"[MicroBatches::forward]", "expected y of x's shape"},
                                       [&] { steps.forward(x, MatrixXd(3, 2)); });

  forward();
  steps.measure(x, x);
  check_refused<std::invalid_argument>(bn, {"[MicroBatches::backward]", "expected dx apart from x"},
                                       [&] { steps.backward(z, x, z); });
  Eigen::VectorXd memory = Eigen::VectorXd::Zero(10);
  Eigen::Map<MatrixXd> dy(memory.data(), 4, 2), dx(memory.data() + 2, 4, 2);
  check_refused<std::invalid_argument>(
      bn, {"[MicroBatches::backward]", "expected dx to be dy itself or apart from it"},
      [&] { steps.backward(x, dy, dx); });
  CHECK(memory == Eigen::VectorXd::Zero(10));
  backward();

  const auto refuse_backward = [&] {  // by the sums of the batch before, which had 4 values too
    check_refused<std::logic_error>(bn, {"[MicroBatches::backward]", "of 4 values", "got 0"},
                                    backward);
  };
  steps.measure(x);
  refuse_backward();
  forward();
  refuse_backward();
}
