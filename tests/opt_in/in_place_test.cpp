// SPDX-License-Identifier: MIT
// Training in place: y over x, and x_hat from y, against the reference layer.

#include <batchnorm/extras/in_place.hpp>
#include <cmath>

#include "support/check_layer.hpp"
#include "support/layer_gradient.hpp"
#include "support/refused.hpp"

using batchnorm::BatchNorm1d;
using batchnorm::Identity;
using batchnorm::InPlace;
using batchnorm::LeakyRelu;
using batchnorm::Options;
using Eigen::MatrixXd;
using testing::check_refused;
using testing::check_throws;
using testing::Index;
using testing::Values;

namespace {

constexpr double slope_below(Identity) { return 1; }
constexpr double slope_below(LeakyRelu) { return 0.25; }  // whose quotients are exact
constexpr Identity make(Identity) { return {}; }
constexpr LeakyRelu make(LeakyRelu) { return {0.25}; }

template <class Form, class Act>
class InPlaceLayer : public testing::LayerOfForm<Form> {
 public:
  using testing::LayerOfForm<Form>::LayerOfForm;

  Values forward(const Values& x) override {
    x_or_y_ = Form::make(x, this->axis_);
    in_place_.forward(x_or_y_);
    return Form::read(x_or_y_, this->axis_);
  }
  Values backward(const Values&, const Values& dy) override {  // x is no more
    auto dx = Form::make(dy, this->axis_);
    in_place_.backward(x_or_y_, dx, dx);
    return Form::read(dx, this->axis_);
  }

 private:
  typename Form::X x_or_y_;
  InPlace<Act, typename Form::Scalar, testing::spatial_of<Form>> in_place_{this->layer_,
                                                                           make(Act())};
};

template <class Form, class Act, class F>
void with_kind(const char* scalar, const F& f) {
  const testing::Kind kind = testing::kind_of<Form, InPlaceLayer<Form, Act>>(scalar, 0, 0);
  testing::for_axes_and_modes([&](Options options, bool training) {
    for (const bool scale : {true, false}) {
      INFO(kind.name << ", scale " << scale);
      options.scale = scale;
      f(kind, options, training, slope_below(Act()));
    }
  });
}
template <class F>
void with_kinds(const F& f) {
  using Eigen::ColMajor, Eigen::RowMajor;
  using testing::MatrixForm, testing::TensorForm;
  with_kind<TensorForm<double, 4, RowMajor>, Identity>("double", f);
  with_kind<TensorForm<double, 4, RowMajor>, LeakyRelu>("double", f);
  with_kind<TensorForm<double, 3, ColMajor>, LeakyRelu>("double", f);
  with_kind<MatrixForm<double, ColMajor>, Identity>("double", f);
  with_kind<TensorForm<float, 5, RowMajor>, LeakyRelu>("float", f);
  with_kind<MatrixForm<float, RowMajor>, Identity>("float", f);
}

/// Parameters with gamma of either sign between 0.5 and 2.
void set_parameters(testing::AnyLayer& layer) {
  testing::Random random(9);
  testing::randomize(layer, random);
  testing::State state = layer.state();
  for (double& g : state.gamma) g = random.uniform(0.5, 2) * (random.uniform() < 0.5 ? -1 : 1);
  layer.set(state);
}

}  // namespace

TEST_CASE("in place, y and gradients are the layer's and the activation's", "[in_place]") {
  with_kinds([](const testing::Kind& kind, const Options& options, bool training, double slope) {
    const auto layer = kind.layer(3, options);
    set_parameters(*layer);
    // x_hat has the error of y, divided by gamma: 6e-7 * max(|x_hat|, 3 / 0.5) for these parameters,
    // which is up to 12 times what the layer's own x_hat may have.
    testing::check_with_activation(
        kind, *layer, 3, options, training, [&](double z) { return z > 0 ? z : slope * z; },
        [&](double z) { return z > 0 ? 1 : slope; }, 12);
  });
}

TEST_CASE("backward in place is the gradient of forward", "[in_place][gradient]") {
  with_kinds([](const testing::Kind& kind, const Options& options, bool training, double) {
    if (!kind.is_double) return;
    const auto layer = kind.layer(2, options);
    set_parameters(*layer);
    testing::check_gradients(kind, *layer, 4, 2, training);
  });
}

// The numbers of hand_computed_test.cpp, channel 0, with an activation of slope 1/2 below 0:
//   z = -2, 2, 2, 2      y = -1, 2, 2, 2
//   dy = 2, 0, 0, -1 gives dz = 1, 0, 0, -1 and so dx = 1/4, 1/4, 1/4, -3/4, dgamma = -2, dbeta = 0
TEST_CASE("in place, numbers worked out by hand; y becomes z; backward has the gamma of now",
          "[in_place]") {
  Options options;
  options.eps = 1;
  BatchNorm1d<double> bn(1, options);
  bn.gamma() << 2, bn.beta() << 1;
  InPlace in_place(bn, LeakyRelu{0.5});
  MatrixXd x = Eigen::Vector4d(2, 6, 6, 6), dx(4, 1);
  in_place.forward(x);
  CHECK(x == Eigen::Vector4d(-1, 2, 2, 2));
  MatrixXd y = x;
  in_place.backward(y, MatrixXd(Eigen::Vector4d(2, 0, 0, -1)), dx);
  CHECK(y == Eigen::Vector4d(-2, 2, 2, 2));
  CHECK(dx.isApprox(Eigen::Vector4d(1, 1, 1, -3) / 4, 1e-15));
  CHECK(bn.grad_gamma()[0] == Approx(-2).epsilon(1e-15));
  CHECK(bn.grad_beta()[0] == 0);
  bn.gamma() << -6, bn.beta() << 100;
  in_place.backward(x, MatrixXd(Eigen::Vector4d(2, 0, 0, -1)), dx);
  CHECK(dx.isApprox(Eigen::Vector4d(1, 1, 1, -3) * -3 / 4, 1e-15));
  CHECK(bn.grad_gamma()[0] == Approx(-4).epsilon(1e-15));
}

TEST_CASE("what cannot be had back from y is refused before x is overwritten", "[in_place]") {
  BatchNorm1d<float> bn(2);
  InPlace in_place(bn, Identity());
  Eigen::MatrixXf x(4, 2);
  testing::Random(1).fill(x);
  const Eigen::MatrixXf before = x;
  const auto refused = [&](float gamma, float beta) {
    bn.gamma()[1] = gamma, bn.beta()[1] = beta;
    check_refused<std::domain_error>(bn, {"[InPlace::forward] expected |gamma|", "in channel 1"},
                                     [&] { in_place.forward(x); });
    CHECK(x == before);
  };
  refused(0, 0);
  refused(1e-4f, 1);
  refused(-1e-39f, 0);
  refused(1e-10f, 0);  // gamma^2 * inv_std, the factor of dx, might vanish
  refused(1e10f, 0);   // or overflow
  refused(1, NAN);
  bn.gamma()[1] = 2e-3f, bn.beta()[1] = 1;
  CHECK_NOTHROW(in_place.forward(x));
  x = before;
  bn.gamma()[1] = 1e-4f, bn.beta()[1] = 0;  // small, but y has all its digits
  in_place.forward(x);
  Eigen::MatrixXf dy(4, 2), dx = x, expected = bn.forward(before);
  testing::Random(2).fill(dy);  // of dy = x nothing but roundings would be left
  in_place.backward(x, dy, dx);
  check_refused<std::logic_error>(  // x holds y, which the layer's own backward does not know
      bn, {"expected x as it was, but the last forward wrote y over it"},
      [&] { bn.backward(in_place.saved(), x, dy, dx); });
  expected = bn.backward(before, dy);
  CHECK(dx.isApprox(expected, 1e-5f));
  Eigen::MatrixXf three = x.topRows(3), dx_of_three = three;
  check_refused<std::invalid_argument>(
      bn, {"[InPlace::backward]", "of shape (4, 2), got one of (3, 2)"},
      [&] { in_place.backward(three, before.topRows(3), dx_of_three); });

  BatchNorm1d<double> of_double(1);
  InPlace wide(of_double, Identity());
  MatrixXd doubles = Eigen::Vector3d(1, 2, 4);
  const MatrixXd doubles_before = doubles;
  for (const double gamma : {1e-76, 1e76}) {  // as for floats, with limits of its own
    of_double.gamma() << gamma;
    check_refused<std::domain_error>(of_double, {"of at least 1e-75", "at most 1e+75"},
                                     [&] { wide.forward(doubles); });
    CHECK(doubles == doubles_before);
  }

  Options options;
  options.shift = false;
  BatchNorm1d<float> unshifted(2, options);
  InPlace of_unshifted(unshifted, Identity());
  unshifted.gamma() << 1, 0;
  x = before;
  check_refused<std::domain_error>(unshifted, {"got gamma 0 and beta 0 in channel 1"},
                                   [&] { of_unshifted.forward(x); });
  unshifted.gamma()[1] = 1e-4f;
  of_unshifted.forward(x);
  expected = unshifted.forward(before);
  CHECK(x.col(1).isApprox(expected.col(1), 1e-6f));

  options = {};
  options.scale = false;
  BatchNorm1d<float> unscaled(2, options);
  InPlace of_unscaled(unscaled, Identity());
  unscaled.beta() << 0, 1001;
  x = before;
  check_refused<std::domain_error>(unscaled, {"got gamma 1 and beta 1001 in channel 1"},
                                   [&] { of_unscaled.forward(x); });
  CHECK(x == before);

  check_throws<std::invalid_argument>({"expected a finite slope above 0, got 0"},
                                      [&] { InPlace(bn, LeakyRelu{0}); });
  check_throws<std::invalid_argument>({"expected a finite slope above 0, got nan"},
                                      [&] { InPlace(bn, LeakyRelu{NAN}); });
  check_throws<std::invalid_argument>({"expected a finite slope above 0, got 1e-46"},
                                      [&] { InPlace(bn, LeakyRelu{1e-46}); });  // 0 as a float
  for (const double slope : {1e-39, 1e39}) {  // 1 / slope, and slope, are infinite floats
    check_throws<std::invalid_argument>({"expected a finite slope above 0"},
                                        [&] { InPlace(bn, LeakyRelu{slope}); });
  }
  BatchNorm1d<Eigen::half> of_half(2);
  InPlace hardly_leaky(of_half, LeakyRelu{1e-9});  // negative y would all become 0
  Eigen::Matrix<Eigen::half, 4, 2> halves = before.cast<Eigen::half>();
  check_refused<std::domain_error>(of_half,
                                   {"expected |gamma| of at least 61035.2"},  // 2^-14 / 1e-9
                                   [&] { hardly_leaky.forward(halves); });
  InPlace fresh(bn, Identity());
  check_refused<std::logic_error>(bn, {"call forward(x) first"},
                                  [&] { fresh.backward(x, before, dx); });
  Eigen::MatrixXf one(1, 2);
  one << 1, 2;
  check_refused<std::invalid_argument>(bn, {"more than one value per channel"},
                                       [&] { fresh.forward(one); });
}

TEST_CASE("in place, values near the largest float are activated once", "[in_place]") {
  BatchNorm1d<float> bn(1);
  InPlace in_place(bn, LeakyRelu{0.5});
  Eigen::MatrixXf x = Eigen::Vector4f(-3e38f, 3e38f, 1e38f, -1e38f);  // mean 0, variance 5e76
  in_place.forward(x);
  CHECK(x.isApprox(Eigen::Vector4f(-1.5f, 3, 1, -0.5f) / std::sqrt(5.f), 1e-6f));
}

TEST_CASE("in place, a dx whose factor is beyond the range is refused", "[in_place]") {
  const Eigen::MatrixXf x = Eigen::Vector4f(1, -2, 3, -1);
  const Eigen::MatrixXf dy = Eigen::Vector4f(1, 2, -1, 0.5f);
  const auto backward_refuses = [&](float gamma, float deviation, double eps) {
    INFO("gamma " << gamma << ", deviation " << deviation);
    Options options;
    options.eps = eps;
    BatchNorm1d<float> bn(1, options);
    bn.gamma() << gamma;
    InPlace in_place(bn, Identity());
    Eigen::MatrixXf y = deviation * x, dx = dy;
    in_place.forward(y);
    check_refused<std::domain_error>(
        bn, {"[InPlace::backward] expected gamma^2 * inv_std", "channel 0"},
        [&] { in_place.backward(y, dy, dx); });
    CHECK(dx == dy);
  };
  backward_refuses(1e-6f, 1e32f, 1e-5);  // a factor of 1e-44
  backward_refuses(1e-8f, 1e30f, 1e-5);  // 1e-46
  backward_refuses(1e6f, 1e-28f, 0);     // 1e40
}

TEST_CASE("in place, NaN stays in its channel, and a gamma of NaN gives a dx of NaN",
          "[in_place]") {
  const MatrixXd x = testing::filled(MatrixXd(6, 2), 1), dy = testing::filled(MatrixXd(6, 2), 2);
  const auto dx_of = [&dy](MatrixXd y, double gamma) {
    BatchNorm1d<double> bn(2);
    InPlace in_place(bn, Identity());
    in_place.forward(y);
    bn.gamma()[0] = gamma;
    MatrixXd dx = dy;
    in_place.backward(y, dy, dx);
    return dx;
  };
  MatrixXd with_nan = x;
  with_nan(3, 0) = std::nan("");
  const MatrixXd expected = dx_of(x, 1);
  for (const MatrixXd& dx : {dx_of(with_nan, 1), dx_of(x, std::nan(""))}) {
    CHECK(dx.col(0).array().isNaN().all());
    CHECK(testing::same_bits(dx.col(1), expected.col(1)));
  }
}

TEST_CASE("half is trained in place to its own precision", "[in_place]") {
  using Tensor = Eigen::Tensor<Eigen::half, 4, Eigen::RowMajor>;
  Tensor x(5, 3, 4, 6), dy(5, 3, 4, 6), dx(5, 3, 4, 6);
  testing::Random random(4);
  random.fill(x, 1, 2), random.fill(dy);
  batchnorm::BatchNorm2d<Eigen::half> bn(3);
  bn.gamma() << 1.5f, -1, 0.75f;
  const Tensor expected_y = bn.forward(x), expected = bn.backward(x, dy);
  InPlace in_place(bn, Identity());
  in_place.forward(x);
  CHECK(testing::same_bits(x, expected_y));
  in_place.backward(x, dy, dx);
  // x_hat <= 4 is off by half an ulp of y, 2^-11 * 4 / 0.75, in dx times mean(dy * x_hat) < 0.5; and dx,
  // below 4, by its rounding.
  for (Index i = 0; i < dx.size(); ++i) {
    CHECK(std::abs(float(dx.data()[i]) - float(expected.data()[i])) < 0.004f);
  }
}

TEST_CASE("what 16 bits leave of x_hat decides how large beta may be", "[in_place]") {
  const auto check = [](auto zero, float most) {
    using Scalar = decltype(zero);
    BatchNorm1d<Scalar> bn(1);
    InPlace in_place(bn, Identity());
    Eigen::Matrix<Scalar, Eigen::Dynamic, Eigen::Dynamic> x(4, 1);
    x << Scalar(1.f), Scalar(2.f), Scalar(3.f), Scalar(4.f);
    const auto dy = x;
    auto dx = x;
    bn.beta()[0] = 1.01f * most;
    check_refused<std::domain_error>(bn, {"and |beta| / " + std::to_string(std::lround(most))},
                                     [&] { in_place.forward(x); });
    bn.beta()[0] = most;
    in_place.forward(x);
    in_place.backward(x, dy, dx);
    // sum dy * x_hat = (1.5^2 + 0.5^2) * 2 / sqrt(1.25). Each x_hat is wrong by at most 1/16.
    CHECK(std::abs(bn.grad_gamma()[0] - 5 / std::sqrt(1.25f)) <= 10.f / 16);
  };
  check(Eigen::half(), 100);
  check(Eigen::bfloat16(), 16);
}

TEST_CASE("a layer in place may become one of more channels", "[in_place]") {
  BatchNorm1d<double> bn(1), plain(40);
  InPlace in_place(bn, LeakyRelu{0.5});
  bn = plain;
  const MatrixXd x = testing::filled(MatrixXd(6, 40), 1), dy = testing::filled(MatrixXd(6, 40), 2);
  const MatrixXd z = plain.forward(x);
  MatrixXd y = x, dx(6, 40);
  in_place.forward(y);
  CHECK(y.isApprox((z.array() > 0).select(z, z / 2), 1e-14));
  in_place.backward(y, dy, dx);
  CHECK(dx.isApprox(plain.backward(x, (z.array() > 0).select(dy, dy / 2)), 1e-12));
}

TEST_CASE("in place, an empty batch changes nothing but what is differentiated", "[in_place]") {
  Options options;
  options.single_value = batchnorm::SingleValue::accept;
  BatchNorm1d<double> bn(2, options);
  InPlace in_place(bn, LeakyRelu());
  MatrixXd x(3, 2), none(0, 2), dx(0, 2);
  testing::Random(3).fill(x);
  static_cast<void>(bn.forward(x));
  const BatchNorm1d<double> before = bn;
  in_place.forward(none);
  in_place.backward(none, none, dx);
  CHECK(bn.running_mean() == before.running_mean());
  CHECK(bn.running_var() == before.running_var());
  CHECK(bn.num_batches_tracked() == 1);
  CHECK(bn.grad_gamma() == Eigen::Vector2d::Zero());
  CHECK(bn.grad_beta() == Eigen::Vector2d::Zero());
  check_refused<std::logic_error>(bn, {"call forward(x) first"},
                                  [&] { static_cast<void>(bn.backward(x, x)); });
}

TEST_CASE("in place, a backward before a forward is refused, whatever the layer did",
          "[in_place]") {
  BatchNorm1d<double> bn(2);
  MatrixXd x = testing::filled(MatrixXd(3, 2), 1), dx(3, 2);
  for (int time = 0; time < 2; ++time) static_cast<void>(bn.forward(x));
  InPlace in_place(bn, Identity());
  check_refused<std::logic_error>(bn, {"expected a forward before backward"},
                                  [&] { in_place.backward(x, x, dx); });
}
