// SPDX-License-Identifier: MIT
// A layer with its activation and residual in one pass, against the layer and the activation apart.
#define EIGEN_USE_THREADS

#include <batchnorm/extras/fused.hpp>
#include <cmath>
#include <functional>
#include <limits>

#include "support/allocations.hpp"
#include "support/check_layer.hpp"
#include "support/layer_gradient.hpp"
#include "support/refused.hpp"

using batchnorm::BatchNorm1d;
using batchnorm::BatchNorm2d;
using batchnorm::ChannelAxis;
using batchnorm::Fused;
using batchnorm::Identity;
using batchnorm::LeakyRelu;
using batchnorm::Options;
using batchnorm::plus;
using batchnorm::Relu;
using batchnorm::Relu6;
using Eigen::MatrixXd;
using Eigen::MatrixXf;
using testing::at;
using testing::check_refused;
using testing::check_throws;
using testing::Index;
using testing::same_bits;
using testing::Values;

namespace {

// The activations once more, and how much of dy they let pass.

double act(Identity, double z) { return z; }
double act(Relu, double z) { return std::max(z, 0.0); }
double act(Relu6, double z) { return std::min(std::max(z, 0.0), 6.0); }
double act(LeakyRelu leaky, double z) { return z > 0 ? z : leaky.slope * z; }
double slope(Identity, double) { return 1; }
double slope(Relu, double z) { return z > 0 ? 1 : 0; }
double slope(Relu6, double z) { return z > 0 && z < 6 ? 1 : 0; }
double slope(LeakyRelu leaky, double z) { return z > 0 ? 1 : leaky.slope; }

template <class Form, class Act>
using FusedWrapper = Fused<Act, typename Form::Scalar, testing::spatial_of<Form>>;

template <class Form, class Act>
struct FusedLayer : testing::WrappedLayer<Form, FusedWrapper<Form, Act>> {
  FusedLayer(Index channels, const Options& options)
      : FusedLayer::WrappedLayer(channels, options, Act()) {}
};

/// Calls f(kind, activation) for a choice of kinds and all activations.
template <class Form, class Act, class F>
void with_kind(const char* scalar, double unit, double small, const F& f) {
  f(testing::kind_of<Form, FusedLayer<Form, Act>>(scalar, unit, small), Act());
}
template <class F>
void with_kinds(const F& f) {
  using Eigen::bfloat16, Eigen::half, Eigen::RowMajor, Eigen::ColMajor;
  using testing::MatrixForm, testing::TensorForm;
  with_kind<TensorForm<double, 4, RowMajor>, Identity>("double", 0, 0, f);
  with_kind<TensorForm<double, 4, RowMajor>, Relu>("double", 0, 0, f);
  with_kind<TensorForm<double, 4, RowMajor>, Relu6>("double", 0, 0, f);
  with_kind<TensorForm<double, 4, RowMajor>, LeakyRelu>("double", 0, 0, f);
  with_kind<TensorForm<double, 3, ColMajor>, Relu>("double", 0, 0, f);
  with_kind<MatrixForm<double, ColMajor>, Relu6>("double", 0, 0, f);
  with_kind<TensorForm<float, 5, RowMajor>, Relu>("float", 0, 0, f);
  with_kind<TensorForm<float, 5, ColMajor>, LeakyRelu>("float", 0, 0, f);
  with_kind<MatrixForm<float, RowMajor>, Relu6>("float", 0, 0, f);
  with_kind<TensorForm<half, 4, RowMajor>, Relu>("half", 0x1p-11, 0x1p-25, f);
  with_kind<TensorForm<bfloat16, 2, RowMajor>, LeakyRelu>("bfloat16", 0x1p-8, 0x1p-134, f);
}

template <class F>
void with_settings(const F& f) {
  with_kinds([&](const testing::Kind& kind, auto activation) {
    testing::for_axes_and_modes([&](const Options& options, bool training) {
      INFO(kind.name << ", " << typeid(activation).name());
      f(kind, activation, options, training);
    });
  });
}

/// The activation at large gamma, so that some values are above 6.
void spread(testing::AnyLayer& layer) {
  testing::Random random(99);
  testing::randomize(layer, random);
  testing::State state = layer.state();
  state.gamma = {6, -4, 3};
  state.gamma.resize(state.running_mean.size(), 5);
  layer.set(state);
}

}  // namespace

// The numbers of hand_computed_test.cpp, channel 0: y = -2, 2, 2, 2 before the activation.
//   Relu:   y = 0, 2, 2, 2;  dy = 1, 0, 0, -1 gives dz = 0, 0, 0, -1, dbeta = -1, dgamma = -1/2
//           dx = 2 * 1/2 * (dz + 1/4 + x_hat / 8), x_hat = -3/2, 1/2, 1/2, 1/2
//              = 1/4 - 3/16, 1/4 + 1/16, 1/4 + 1/16, -1 + 5/16
//   Relu6 and r = 3, -3, 0, 5:  z = 1, -1, 2, 7, y = 1, 0, 2, 6;  dy = 1, 1, 1, 1:  dr = 1, 0, 1, 0
//           dbeta = 2, dgamma = -3/2 + 1/2 = -1,  dx = dr - 2/4 + x_hat / 4
//              = 1/2 - 3/8, -1/2 + 1/8, 1/2 + 1/8, -1/2 + 1/8
TEST_CASE("activation and residual give the numbers worked out by hand", "[fused]") {
  Options options;
  options.eps = 1;
  BatchNorm1d<double> bn(1, options);
  bn.gamma() << 2;
  bn.beta() << 1;
  const MatrixXd x = Eigen::Vector4d(2, 6, 6, 6);
  SECTION("ReLU") {
    Fused fused(bn, Relu());
    CHECK(fused.forward(x) == Eigen::Vector4d(0, 2, 2, 2));  // every step is exact
    const MatrixXd dy = Eigen::Vector4d(1, 0, 0, -1);
    const MatrixXd dx = fused.backward(x, dy);
    CHECK(dx.isApprox(Eigen::Vector4d(1, 5, 5, -11) / 16, 1e-15));
    CHECK(bn.grad_gamma()[0] == -0.5);
    CHECK(bn.grad_beta()[0] == -1);
  }
  SECTION("ReLU6 and a residual") {
    Fused fused(bn, Relu6());
    const MatrixXd r = Eigen::Vector4d(3, -3, 0, 5);
    const MatrixXd y = fused.forward(x, plus(r));
    CHECK(y == Eigen::Vector4d(1, 0, 2, 6));
    MatrixXd dy = MatrixXd::Ones(4, 1), dx(4, 1), dr(4, 1);
    fused.backward(x, y, dy, dx, dr);
    CHECK(dr == Eigen::Vector4d(1, 0, 1, 0));
    CHECK(dx.isApprox(Eigen::Vector4d(1, -3, 5, -3) / 8, 1e-15));
    CHECK(bn.grad_gamma()[0] == -1);
    CHECK(bn.grad_beta()[0] == 2);
  }
}

TEST_CASE("a fused activation is the layer's and then the activation", "[fused]") {
  with_settings(
      [](const testing::Kind& kind, auto activation, const Options& options, bool training) {
        const auto layer = kind.layer(5, options);
        spread(*layer);
        testing::check_with_activation(
            kind, *layer, 5, options, training, [&](double z) { return act(activation, z); },
            [&](double z) { return slope(activation, z); });
      });
}

TEST_CASE("backward of a fused activation is the gradient of forward", "[fused][gradient]") {
  with_settings([](const testing::Kind& kind, auto, const Options& options, bool training) {
    if (!kind.is_double) return;
    const auto layer = kind.layer(2, options);
    spread(*layer);
    testing::check_gradients(kind, *layer, 3, 2, training);
  });
}

TEMPLATE_TEST_CASE("backward with a residual is the gradient of forward", "[fused][gradient]",
                   Identity, Relu, Relu6, LeakyRelu) {
  using Tensor = Eigen::Tensor<double, 4, Eigen::RowMajor>;
  for (const bool training : {true, false}) {
    for (const ChannelAxis axis : {ChannelAxis::first, ChannelAxis::last}) {
      Options options;
      options.channel_axis = axis;
      BatchNorm2d<double> bn(3, options);
      bn.gamma() << 5, -4, 1;
      bn.beta() << 1, 0, -1;
      bn.running_var() << 2, 1, 3;
      bn.train(training);
      Fused fused(bn, TestType());
      Tensor x = axis == ChannelAxis::first ? Tensor(3, 3, 2, 4) : Tensor(3, 2, 4, 3);
      Tensor r = x, dy = x, dx = x, dr = x;
      testing::Random random(3);
      random.fill(x), random.fill(r), random.fill(dy);
      const Tensor y = fused.forward(x, plus(r));
      fused.backward(x, y, dy, dx, dr);
      const std::function<double()> loss = [&] {
        const Tensor out = fused.forward(x, plus(r));
        double sum = 0;
        for (Index i = 0; i < out.size(); ++i) sum += dy.data()[i] * out.data()[i];
        return sum;
      };
      const double var = bn.running_var()[0];  // which a loss moves; training does not read it
      testing::check_gradients_of(loss, x, dx, bn);
      for (Index i = 0; i < r.size(); ++i) {
        CHECK(testing::near(dr.data()[i], testing::derivative(r.data()[i], loss)));
      }
      CHECK((bn.running_var()[0] == var) == !training);
    }
  }
}

TEMPLATE_TEST_CASE("channels beyond the kernels' range, and what is not finite, are as apart",
                   "[fused]", Identity, Relu) {
  constexpr bool cuts = std::is_same_v<TestType, Relu>;
  const float huge = 3e38f, infinity = std::numeric_limits<float>::infinity();
  MatrixXf x(40, 6), dy(40, 6), r(40, 6);
  testing::Random random(1);
  random.fill(x), random.fill(dy), random.fill(r);
  x.col(0) *= 2e37f;
  x(3, 0) = -huge, x(4, 0) = huge;
  x(5, 1) = std::numeric_limits<float>::quiet_NaN();
  x.col(2).array() = x.col(2).array() * 1e-38f;
  x(6, 3) = infinity;
  // A mean that float has not, and in training a z of 6e-7 for 16 values, of which it sees nothing.
  x.col(5).fill(1e8f);
  x.col(5).head(16).array() += 8;
  for (const bool training : {true, false}) {
    BatchNorm1d<float> apart(6);
    apart.gamma() << 2, 2, 1e30f, 2, 3, 4;
    apart.beta() << 0.5f, 0, 1, 0, 0, -4.89897728f;
    apart.train(training);
    BatchNorm1d<float> bn = apart;
    Fused fused(bn, TestType());
    // Of float roundings: those of the sums, some 1e-6 of their terms.
    const auto same = [](const MatrixXf& a, const MatrixXf& b) {
      for (Index i = 0; i < a.size(); ++i) {
        const float u = a.data()[i], v = b.data()[i];
        if (u == v || (std::isnan(u) && std::isnan(v))) continue;
        const float size = b.col(i / b.rows()).cwiseAbs().maxCoeff();
        if (!(std::abs(u / size - v / size) <= 2e-6f)) return false;
      }
      return true;
    };
    const MatrixXf z = apart.forward(x);
    const MatrixXf y = fused.forward(x);
    MatrixXf expected = z, dz = dy;
    for (Index i = 0; i < z.size(); ++i) {
      if (cuts && z.data()[i] <= 0) expected.data()[i] = dz.data()[i] = 0;
    }
    CHECK(same(y, expected));
    const MatrixXf expected_dx = apart.backward(x, dz);
    MatrixXf dx = dy;
    fused.backward(x, dx, dx);
    CHECK(same(dx, expected_dx));
    CHECK(same(bn.grad_gamma().transpose(), apart.grad_gamma().transpose()));
    CHECK(same(bn.grad_beta().transpose(), apart.grad_beta().transpose()));

    const MatrixXf with_r = fused.forward(x, plus(r));
    for (Index i = 0; i < z.size(); ++i) {
      const float sum = z.data()[i] + r.data()[i];
      expected.data()[i] = cuts && sum <= 0 ? 0 : sum;
    }
    CHECK(same(with_r, expected));
  }
}

TEST_CASE("fused calls allocate nothing, and threads do not change bits", "[fused]") {
  using Tensor = Eigen::Tensor<float, 4, Eigen::RowMajor>;
  Eigen::ThreadPool pool(2);
  const Eigen::ThreadPoolDevice device(&pool, 3);
  Tensor x(64, 6, 33, 31), r(x), dy(x), y(x), dx(x), dr(x);
  testing::Random random(1);
  random.fill(x), random.fill(r), random.fill(dy);
  std::vector<Tensor> results;
  for (const bool threads : {false, true}) {
    BatchNorm2d<float> bn(6);
    if (threads) bn.set_device(&device);
    Fused fused(bn, LeakyRelu{0.2});
    const auto step = [&] {
      fused.forward(x, y);
      fused.backward(x, dy, dx);
      fused.forward(x, y, plus(r));
      fused.backward(x, y, dy, dx, dr);
    };
    step();
    CHECK(testing::allocations(step) == 0);
    for (const Tensor& t : {y, dx, dr}) results.push_back(t);
  }
  for (std::size_t k = 0; k < 3; ++k) CHECK(same_bits(results[k], results[k + 3]));
}

TEST_CASE("fused calls that do not fit are refused", "[fused]") {
  BatchNorm1d<float> bn(2);
  check_throws<std::invalid_argument>(
      {"[Fused::Fused] expected a finite slope of at least 0, got -0.1"},
      [&] { Fused(bn, LeakyRelu{-0.1}); });
  check_throws<std::invalid_argument>({"expected a finite slope of at least 0, got inf"},
                                      [&] { Fused(bn, LeakyRelu{INFINITY}); });
  check_throws<std::invalid_argument>({"expected a finite slope of at least 0, got 1e+39"},
                                      [&] { Fused(bn, LeakyRelu{1e39}); });  // beyond float
  Fused fused(bn, Relu());
  MatrixXf x(6, 2), r(6, 2), y(6, 2), dx(6, 2);
  testing::Random random(1);
  random.fill(x), random.fill(r);
  check_refused<std::logic_error>(bn, {"[Fused::backward]", "call forward(x) first"},
                                  [&] { static_cast<void>(fused.backward(x, r)); });
  check_refused<std::invalid_argument>(
      bn, {"[Fused::forward] expected r of x's shape (6, 2), got (5, 2)"},
      [&] { static_cast<void>(fused.forward(x, plus(r.topRows(5)))); });
  check_refused<std::invalid_argument>(bn, {"expected y apart from r, got them overlapping"},
                                       [&] { fused.forward(x, r, plus(r)); });
  MatrixXf tall(8, 2);
  auto strided = tall.topRows(6);
  check_refused<std::invalid_argument>(bn, {"expected y apart from r, got them overlapping"},
                                       [&] { fused.forward(x, strided, plus(strided)); });
  bn.eval();
  check_refused<std::invalid_argument>(bn, {"expected y apart from x"},
                                       [&] { fused.forward(x, x); });
  bn.train();
  fused.forward(x, y, plus(r));
  check_refused<std::logic_error>(bn, {"backward(x, y, dy, dx, dr)"},
                                  [&] { fused.backward(x, r, dx); });
  check_refused<std::invalid_argument>(bn, {"expected dr apart from x"},
                                       [&] { fused.backward(x, y, r, dx, x); });
  check_refused<std::invalid_argument>(bn, {"expected dr apart from dx"},
                                       [&] { fused.backward(x, y, r, dx, dx); });
}

TEST_CASE("a fused layer may become one of more channels", "[fused]") {
  BatchNorm1d<double> bn(1), plain(40);
  Fused fused(bn, LeakyRelu{0.5});
  bn = plain;
  const Eigen::MatrixXd x = testing::filled(Eigen::MatrixXd(6, 40), 1);
  const Eigen::MatrixXd dy = testing::filled(Eigen::MatrixXd(6, 40), 2);
  const Eigen::MatrixXd z = plain.forward(x);
  CHECK(fused.forward(x).isApprox((z.array() > 0).select(z, z / 2), 1e-14));
  const Eigen::MatrixXd dz = (z.array() > 0).select(dy, dy / 2);
  CHECK(fused.backward(x, dy).isApprox(plain.backward(x, dz), 1e-14));
}

TEST_CASE("fused calls of an empty batch change nothing", "[fused]") {
  Options options;
  options.single_value = batchnorm::SingleValue::accept;
  BatchNorm1d<float> bn(2, options);
  const BatchNorm1d<float> before = bn;
  Fused fused(bn, Relu());
  const MatrixXf x(0, 2), r(0, 2), dy(0, 2);
  MatrixXf y(0, 2), dx(0, 2), dr(0, 2);
  fused.forward(x, y, plus(r));
  fused.backward(x, y, dy, dx, dr);
  CHECK(bn.num_batches_tracked() == 0);
  CHECK(same_bits(bn.running_var(), before.running_var()));
  CHECK(same_bits(bn.grad_gamma(), before.grad_gamma()));
  CHECK(same_bits(bn.grad_beta(), before.grad_beta()));
}

// gamma = 2^102, running mean 0 and variance 3, eps = 1: dx = 2^101 * dz, whatever x.
TEST_CASE("by given statistics an infinite x passes dy on beyond the kernels' range, too",
          "[fused]") {
  Options options;
  options.eps = 1;
  BatchNorm1d<float> bn(1, options);
  bn.gamma() << 0x1p102f;
  bn.running_var() << 3;
  bn.eval();
  Fused fused(bn, Relu());
  const float infinity = std::numeric_limits<float>::infinity();
  const MatrixXf x = Eigen::Vector4f(2, -2, infinity, -infinity);
  CHECK(fused.forward(x) == Eigen::Vector4f(0x1p102f, 0, infinity, 0));
  const MatrixXf dx = fused.backward(x, MatrixXf(Eigen::Vector4f(1, 2, 3, 4)));
  CHECK(dx == Eigen::Vector4f(1, 0, 3, 0) * 0x1p101f);
}

TEST_CASE("where z is beyond the loops' range and dx is not, the sign of z decides", "[fused]") {
  const MatrixXf x = testing::filled(MatrixXf(6, 2), 1), dy = testing::filled(MatrixXf(6, 2), 2);
  for (const bool training : {true, false}) {
    INFO("training " << training);
    BatchNorm1d<float> bn(2);
    bn.train(training);
    const Eigen::Vector2f far(1e31f, -1e31f);  // z > 0 in the first channel, z < 0 in the second
    if (training) bn.beta() = far;
    if (!training) bn.running_mean() = -far;
    BatchNorm1d<float> plain = bn;
    Fused fused(bn, Relu());
    CHECK(fused.forward(x).isApprox(plain.forward(x).cwiseMax(0.f), 1e-6f));
    const MatrixXf dx = fused.backward(x, dy);
    CHECK(dx.col(0).isApprox(plain.backward(x, dy).col(0), 1e-6f));
    CHECK(dx.col(1).isZero(0));
  }
}
