// SPDX-License-Identifier: MIT
// Batches whose positions have weights: by hand, against the reference layer on what a mask leaves,
// and by derivatives.

#include <batchnorm/extras/weighted.hpp>
#include <cmath>
#include <limits>

#include "support/check_layer.hpp"
#include "support/layer_gradient.hpp"
#include "support/refused.hpp"

using batchnorm::BatchNorm1d;
using batchnorm::BatchNorm2d;
using batchnorm::Options;
using batchnorm::SingleValue;
using batchnorm::VarianceEstimate;
using batchnorm::Weighted;
using batchnorm::weights;
using batchnorm::ZeroWeight;
using Eigen::MatrixXd;
using Eigen::VectorXd;
using testing::at;
using testing::check_refused;
using testing::Index;
using testing::Values;

namespace {

constexpr double hidden = std::numeric_limits<double>::quiet_NaN();

/// Weights by sample and position, as Values of one channel.
template <class Form>
class WeightedLayer : public testing::LayerOfForm<Form> {
 public:
  using testing::LayerOfForm<Form>::LayerOfForm;

  Values forward(const Values& x) override {
    const auto w = weights_of();
    return Form::read(weighted_.forward(Form::make(x, this->axis_), weights(w)), this->axis_);
  }
  Values backward(const Values& x, const Values& dy) override {
    auto dx = Form::make(dy, this->axis_);
    weighted_.backward(Form::make(x, this->axis_), dx, dx);
    return Form::read(dx, this->axis_);
  }

  static inline Values by{0, 1, {}};  // the weights of the next forward
  static inline ZeroWeight at_zero = ZeroWeight::zero;

 private:
  static auto weights_of() {
    Eigen::Tensor<float, Form::rank - 1, Form::order> w;
    Eigen::DSizes<Index, Form::rank - 1> sizes;
    sizes[0] = by.samples;
    constexpr std::size_t axes = Form::rank - 2;  // that are spatial
    for (std::size_t d = 0; d < axes; ++d) sizes[d + 1] = by.spatial[d];
    w.resize(sizes);
    by.each([&](Index n, Index, Index p) {
      const double value = by(n, 0, p);
      Eigen::DSizes<Index, Form::rank - 1> place;
      place[0] = n;
      for (std::size_t d = axes; d > 0; p /= by.spatial[--d]) {
        place[d] = p % by.spatial[d - 1];
      }
      w(place) = static_cast<float>(value);
    });
    return w;
  }

  Weighted<typename Form::Scalar, testing::spatial_of<Form>> weighted_{this->layer_, at_zero};
};

/// Calls f(kind, weights) with a place for the weights of the kind's forwards.
template <class Form, class F>
void with_kind(const char* scalar, double unit, double small, const F& f) {
  f(testing::kind_of<Form, WeightedLayer<Form>>(scalar, unit, small), WeightedLayer<Form>::by,
    WeightedLayer<Form>::at_zero);
}
template <class F>
void with_kinds(const F& f) {
  using Eigen::bfloat16, Eigen::half, Eigen::RowMajor, Eigen::ColMajor;
  using testing::MatrixForm, testing::TensorForm;
  with_kind<TensorForm<double, 2, ColMajor>>("double", 0, 0, f);
  with_kind<TensorForm<double, 3, RowMajor>>("double", 0, 0, f);
  with_kind<TensorForm<double, 3, ColMajor>>("double", 0, 0, f);
  with_kind<TensorForm<double, 4, RowMajor>>("double", 0, 0, f);
  with_kind<TensorForm<double, 5, ColMajor>>("double", 0, 0, f);
  with_kind<MatrixForm<double, RowMajor>>("double", 0, 0, f);
  with_kind<TensorForm<float, 4, ColMajor>>("float", 0, 0, f);
  with_kind<TensorForm<half, 4, RowMajor>>("half", 0x1p-11, 0x1p-25, f);
  with_kind<TensorForm<bfloat16, 2, RowMajor>>("bfloat16", 0x1p-8, 0x1p-134, f);
}

/// The positions where mask is not zero, as samples of one position.
Values left_by(const Values& mask, const Values& v) {
  Values left(0, v.channels, {});
  mask.each([&](Index n, Index, Index p) {
    if (mask(n, 0, p) == 0) return;
    ++left.samples;
    for (Index c = 0; c < v.channels; ++c) left.data.push_back(v(n, c, p));
  });
  return left;
}

Values mask_of(const Values& x, std::uint64_t seed) {
  Values mask(x.samples, 1, x.spatial);
  testing::Random random(seed);
  for (double& w : mask.data) w = random.uniform() < 0.6;
  mask.data[0] = mask.data[1] = mask.data[2] = 1;
  return mask;
}

}  // namespace

// Weights 1 and 3 of the values 2 and 6, with eps = 1, gamma = 2 and beta = 1:
//   n = 4      mu = (2 + 18) / 4 = 5      var = (9 + 3) / 4 = 3      inv_std = 1/2
//   x_hat = -3/2, 1/2      y = -2, 2
//   dy = 1, -1:  dbeta = 0, dgamma = -2
//   dx = 2 * 1/2 * (1 - 1/4 * (-3/2 * -2), -1 - 3/4 * (1/2 * -2)) = 1/4, -1/4
// and the unbiased variance is 3 * 4 / (4 - 10/4) = 8. With weight of new 1/4 the running variance is
// 3/4 + 8/4 = 11/4, and the mean 5/4. The third value has weight zero.
TEST_CASE("weights give the numbers worked out by hand", "[weighted]") {
  Options options;
  options.eps = 1;
  options.momentum = batchnorm::Momentum::weight_of_new(0.25);
  BatchNorm1d<double> bn(1, options);
  bn.gamma() << 2;
  bn.beta() << 1;
  const MatrixXd x = Eigen::Vector3d(2, 6, hidden), dy = Eigen::Vector3d(1, -1, hidden);
  const double scale = GENERATE(1.0, 0.125, 1e-300, 1e307);
  INFO("weights times " << scale);
  Weighted weighted(bn);
  const Eigen::Vector3d w(scale, 3 * scale, 0);
  const auto near = [](double got, double expected) {
    return std::abs(got - expected) <= 4 * 2.3e-16 * std::max(1.0, std::abs(expected));
  };
  const MatrixXd y = weighted.forward(x, weights(w));
  CHECK(near(y(0), -2));
  CHECK(near(y(1), 2));
  CHECK(y(2) == 0);
  CHECK(near(bn.running_mean()[0], 5. / 4));
  CHECK(near(bn.running_var()[0], 11. / 4));
  CHECK(bn.num_batches_tracked() == 1);
  const MatrixXd dx = weighted.backward(x, dy);
  CHECK(near(dx(0), 0.25));
  CHECK(near(dx(1), -0.25));
  CHECK(dx(2) == 0);
  CHECK(near(bn.grad_gamma()[0], -2));
  CHECK(near(bn.grad_beta()[0], 0));

  options.scale = options.shift = false;
  BatchNorm1d<double> bare(1, options);
  Weighted of_bare(bare);
  const MatrixXd x_hat = of_bare.forward(x, weights(w)), half_dx = of_bare.backward(x, dy);
  CHECK(near(x_hat(0), -1.5));
  CHECK(near(x_hat(1), 0.5));
  CHECK(near(half_dx(0), 0.125));
  CHECK(near(half_dx(1), -0.125));
}

// Weights 1 and 3 of the values 2 and 6 again: the variance 3, whose running average starts at 1.
TEST_CASE("a weight above zero counts, however small it is beside the largest", "[weighted]") {
  BatchNorm1d<double> bn(1);
  Weighted weighted(bn);
  const MatrixXd x = Eigen::Vector3d(1, 2, 4);
  const MatrixXd y = weighted.forward(x, weights(Eigen::Vector3d(1e200, 1e200, 1e-200)));
  CHECK(y(2) == Approx(2.5 / std::sqrt(0.25 + 1e-5)));  // mean 1.5, variance 0.25
  CHECK(weighted.saved().count == 3);
}

TEST_CASE("a population variance gets no correction for weights", "[weighted]") {
  Options options;
  options.running_variance = VarianceEstimate::population;
  options.momentum = batchnorm::Momentum::weight_of_new(0.25);
  BatchNorm1d<double> bn(1, options);
  const MatrixXd x = Eigen::Vector2d(2, 6);
  static_cast<void>(Weighted(bn).forward(x, weights(Eigen::Vector2d(1, 3))));
  CHECK(bn.running_var()[0] == Approx(3. / 4 + 3. / 4).epsilon(1e-15));
}

// The values 1 and 3 are left: mean 2 and variance 1, in double without an error.
TEST_CASE("a mask may hide the first value of a batch", "[weighted]") {
  for (const double first : {hidden, 1e30}) {
    BatchNorm1d<double> bn(1);
    Weighted weighted(bn);
    const MatrixXd x = Eigen::Vector3d(first, 1, 3);
    const MatrixXd y = weighted.forward(x, weights(Eigen::Vector3d(0, 1, 1)));
    CHECK(y(0) == 0);
    CHECK(y(1) == Approx(-1 / std::sqrt(1 + 1e-5)).epsilon(4e-16));
    CHECK(y(2) == Approx(1 / std::sqrt(1 + 1e-5)).epsilon(4e-16));
    CHECK(bn.running_mean()[0] == Approx(0.1 * 2).epsilon(4e-16));
  }
}

TEST_CASE("a masked batch is the batch of what the mask leaves, whatever it hides", "[weighted]") {
  with_kinds([](const testing::Kind& kind, Values& by, ZeroWeight& at_zero) {
    testing::for_axes_and_modes([&](Options options, bool training) {
      for (const auto estimate : {VarianceEstimate::unbiased, VarianceEstimate::population}) {
        INFO(kind.name);
        options.running_variance = estimate;
        const auto spatial = testing::small_spatial(kind.rank);
        Values x = kind.rounded(testing::random_values(6, 3, spatial, 1));
        Values dy = kind.rounded(testing::random_values(6, 3, spatial, 2));
        by = mask_of(x, 3);
        at_zero = ZeroWeight::zero;
        x.each([&](Index n, Index c, Index p) {
          if (by(n, 0, p) == 0) x(n, c, p) = dy(n, c, p) = hidden;
        });
        const auto layer = kind.layer(3, options);
        testing::Random random(9);
        testing::randomize(*layer, random);
        testing::ReferenceLayer reference = testing::reference_of(*layer, 3, options, training);

        const Values y = layer->forward(x);
        const Values rest = left_by(by, x), expected_y = reference.forward(rest);
        testing::check_forward(kind, reference, rest, left_by(by, y), expected_y, layer->state());
        const Values dx = layer->backward(x, dy);
        testing::check_backward(kind, reference, rest, left_by(by, dy), left_by(by, dx),
                                layer->state());
        bool zero = true;
        y.each([&](Index n, Index c, Index p) {
          if (by(n, 0, p) == 0) zero = zero && y(n, c, p) == 0 && dx(n, c, p) == 0;
        });
        CHECK(zero);
      }
    });
  });
}

TEST_CASE("backward with weights is the gradient of forward", "[weighted][gradient]") {
  with_kinds([](const testing::Kind& kind, Values& by, ZeroWeight& at_zero) {
    if (!kind.is_double) return;
    testing::for_axes_and_modes([&](const Options& options, bool training) {
      for (const ZeroWeight zero : {ZeroWeight::zero, ZeroWeight::normalize}) {
        INFO(kind.name);
        by = Values(4, 1, testing::small_spatial(kind.rank));
        at_zero = zero;
        testing::Random random(5);
        for (double& w : by.data) w = random.uniform() < 0.3 ? 0 : random.uniform(0.1, 5);
        by.data[0] = 0, by.data[1] = 2, by.data[2] = 1;
        const auto layer = kind.layer(2, options);
        testing::randomize(*layer, random);
        testing::check_gradients(kind, *layer, 4, 2, training);
      }
    });
  });
}

TEST_CASE("a weight for each sample weighs all of its positions, in whatever form it comes",
          "[weighted]") {
  Eigen::Tensor<float, 3, Eigen::RowMajor> x(3, 2, 4);
  testing::Random(1).fill(x);
  BatchNorm1d<float> bn(2);
  Weighted weighted(bn);
  const Eigen::Vector3f w(1, 0, 2);
  const auto y = weighted.forward(x, weights(w));
  const auto same = [&](const auto& other) {
    return testing::same_bits(y, weighted.forward(x, weights(other)));
  };
  Eigen::Matrix<int, 3, 4> of_positions = Eigen::Vector3i(1, 0, 2).replicate<1, 4>();
  Eigen::Matrix<double, 3, 4, Eigen::RowMajor> row_major = of_positions.cast<double>();
  Eigen::Tensor<float, 2> column_major_tensor(3, 4);
  Eigen::Tensor<Eigen::half, 2, Eigen::RowMajor> row_major_tensor(3, 4);
  Eigen::Tensor<float, 1> of_samples(3);
  Eigen::Tensor<float, 2, Eigen::ColMajor, int> of_int_indices(3, 4);
  for (int n = 0; n < 3; ++n) {
    of_samples(n) = w[n];
    for (int l = 0; l < 4; ++l) {
      column_major_tensor(n, l) = w[n];
      row_major_tensor(n, l) = Eigen::half(w[n]);
      of_int_indices(n, l) = w[n];
    }
  }
  CHECK(same(w.transpose()));
  CHECK(same(2 * w));
  CHECK(same(of_positions));
  CHECK(same(of_positions.leftCols(4)));
  CHECK(same(row_major));
  CHECK(same(column_major_tensor));
  CHECK(same(row_major_tensor));
  CHECK(same(of_samples));
  CHECK(same(of_samples * 4.f));
  CHECK(same(of_int_indices));
  const auto masked = weighted.forward(x, weights(Eigen::Array<bool, 3, 1>(true, false, true)));
  CHECK(testing::same_bits(masked, weighted.forward(x, weights(Eigen::Vector3d(5, 0, 5)))));

  // The positions of one sample may be a row.
  const Eigen::Tensor<float, 3, Eigen::RowMajor> one =
      x.slice(Eigen::array<Index, 3>{0, 0, 0}, Eigen::array<Index, 3>{1, 2, 4});
  const Eigen::Array<bool, 1, 4> row(true, true, true, false);
  const auto of_row = weighted.forward(one, weights(row));
  CHECK(testing::same_bits(of_row, weighted.forward(one, weights(Eigen::ArrayXX<bool>(row)))));
  CHECK(of_row(0, 1, 3) == 0);
}

TEST_CASE("normalized positions of weight zero keep what is not finite to themselves",
          "[weighted]") {
  BatchNorm1d<double> bn(1);
  Weighted weighted(bn, ZeroWeight::normalize);
  MatrixXd x = Eigen::Vector4d(1, 3, 5, hidden), dy = Eigen::Vector4d(1, -2, 4, 8);
  const Eigen::Vector4d w(1, 1, 0, 0);
  const MatrixXd y = weighted.forward(x, weights(w));
  CHECK(y(2) == Approx(3 / std::sqrt(1 + 1e-5)).epsilon(1e-14));  // mean 2, variance 1
  CHECK(std::isnan(y(3)));
  const MatrixXd dx = weighted.backward(x, dy);
  CHECK(dx(3) == 0);
  CHECK(bn.grad_beta()[0] == 3);  // 1 - 2 + 4
  CHECK(bn.grad_gamma()[0] == Approx((-1 - 2 + 12) / std::sqrt(1 + 1e-5)).epsilon(1e-14));
}

TEST_CASE("a value that is not finite makes its channel's y NaN, and not its running statistics",
          "[weighted]") {
  BatchNorm1d<double> bn(2);
  Weighted weighted(bn);
  MatrixXd x(3, 2);
  x << 1, 1, std::numeric_limits<double>::infinity(), 3, 5, 5;
  const MatrixXd y = weighted.forward(x, weights(Eigen::Vector3d(1, 2, 1)));
  CHECK(y.col(0).array().isNaN().all());
  CHECK(y(2, 1) == Approx(2 / std::sqrt(2 + 1e-5)).epsilon(1e-14));  // mean 3, variance 2
  CHECK(bn.running_mean()[0] == 0);
  CHECK(bn.running_var()[0] == 1);
  CHECK(bn.running_mean()[1] == Approx(0.3).epsilon(1e-14));
}

TEST_CASE("an infinite value makes its channel's mean infinite, wherever it stands", "[weighted]") {
  Options options;
  options.non_finite = batchnorm::NonFinite::propagate;
  constexpr double infinity = std::numeric_limits<double>::infinity();
  for (Index place = 0; place < 4; ++place) {
    BatchNorm1d<double> bn(1, options);
    Eigen::Vector4d x(1, 2, 3, 4);
    x[place] = infinity;
    static_cast<void>(Weighted(bn).forward(x, weights(Eigen::Vector4d::Ones())));
    CHECK(bn.running_mean()[0] == infinity);
    CHECK(std::isnan(bn.running_var()[0]));
  }
}

TEST_CASE("weights of zero leave an empty batch, and one other a single value", "[weighted]") {
  const MatrixXd x = Eigen::Vector3d(4, 5, 6);
  const Eigen::Vector3d none = Eigen::Vector3d::Zero(), one(0, 0.5, 0);
  Options options;
  BatchNorm1d<double> strict(1);
  Weighted rejecting(strict);
  static_cast<void>(rejecting.forward(x, weights(Eigen::Vector3d(1, 1, 1))));
  check_refused<std::invalid_argument>(
      strict, {"[Weighted::forward]", "more than one value per channel, got 0"},
      [&] { static_cast<void>(rejecting.forward(x, weights(none))); });
  check_refused<std::invalid_argument>(strict, {"more than one value per channel, got 1"}, [&] {
    static_cast<void>(rejecting.forward(x, weights(one)));
  });

  for (const SingleValue choice : {SingleValue::accept, SingleValue::use_running}) {
    options.single_value = choice;
    const bool accept = choice == SingleValue::accept;
    BatchNorm1d<double> bn(1, options);
    bn.beta() << 7;
    Weighted weighted(bn);
    CHECK(weighted.forward(x, weights(none)) == MatrixXd::Zero(3, 1));
    CHECK(weighted.backward(x, x) == MatrixXd::Zero(3, 1));
    CHECK(bn.grad_beta()[0] == 0);
    CHECK(bn.num_batches_tracked() == 0);
    CHECK(bn.running_mean()[0] == 0);
    const MatrixXd no_rows(0, 1);
    CHECK(weighted.forward(no_rows, weights(Eigen::VectorXd(0))).rows() == 0);
    CHECK(weighted.backward(no_rows, no_rows).rows() == 0);
    CHECK(bn.num_batches_tracked() == 0);

    const MatrixXd y = weighted.forward(x, weights(one));
    CHECK(y(0) == 0);
    CHECK(y(1) == (accept ? 7 : 7 + 5 / std::sqrt(1 + 1e-5)));
    CHECK(bn.num_batches_tracked() == accept);
    CHECK(bn.running_mean()[0] == (accept ? Approx(0.5) : Approx(0)));
    CHECK(bn.running_var()[0] == 1);  // unbiased: there is none of one value
    CHECK(weighted.backward(x, x)(1) == (accept ? 0 : 5 / std::sqrt(1 + 1e-5)));

    bn.eval();
    static_cast<void>(bn.forward(x));
    bn.train();
    static_cast<void>(weighted.forward(x, weights(none)));
    check_refused<std::logic_error>(bn, {"[BatchNorm1d::backward]", "call forward(x) first"},
                                    [&] { static_cast<void>(bn.backward(x, x)); });
  }
}

TEST_CASE("a batch without a weight above zero is empty, even if its positions are normalized",
          "[weighted]") {
  Options options;
  options.single_value = SingleValue::accept;
  BatchNorm1d<double> bn(1, options);
  bn.beta() << 7;
  Weighted weighted(bn, ZeroWeight::normalize);
  const MatrixXd x = Eigen::Vector3d(4, 5, 6);
  CHECK(weighted.forward(x, weights(Eigen::Vector3d(0, 0, 0))) == MatrixXd::Zero(3, 1));
  CHECK(weighted.backward(x, x) == MatrixXd::Zero(3, 1));
  CHECK(bn.grad_beta()[0] == 0);
  CHECK(bn.num_batches_tracked() == 0);
}

TEST_CASE("bad weights are refused, and nothing changes", "[weighted]") {
  BatchNorm2d<float> bn(2);
  Weighted weighted(bn);
  Eigen::Tensor<float, 4> x(3, 2, 2, 2), y(3, 2, 2, 2);
  testing::Random(1).fill(x);
  y.setConstant(5);
  check_refused<std::logic_error>(bn, {"[Weighted::backward] expected a forward"},
                                  [&] { static_cast<void>(weighted.backward(x, x)); });
  const auto refused = [&](const auto& w, const char* what) {
    check_refused<std::invalid_argument>(bn, {"[Weighted::forward]", what},
                                         [&] { weighted.forward(x, y, weights(w)); });
    CHECK(y(0) == 5);
  };
  refused(Eigen::Vector2f(1, 1), "expected weights of shape (3) or (3, 2, 2), got (2)");
  refused(Eigen::MatrixXf(3, 4), "expected weights of shape (3) or (3, 2, 2), got (3, 4)");
  refused(Eigen::Vector3f(1, -1, 1), "expected finite weights of at least 0, got -1");
  refused(Eigen::Vector3f(1, INFINITY, 1), "expected finite weights of at least 0, got inf");
  refused(Eigen::Vector3f(1, NAN, 1), "expected finite weights of at least 0, got nan");
  BatchNorm1d<float> flat(2);
  const Eigen::MatrixXf rows = Eigen::MatrixXf::Zero(3, 2);  // whose samples are its positions
  check_refused<std::invalid_argument>(flat, {"expected weights of shape (3), got (2)"}, [&] {
    static_cast<void>(Weighted(flat).forward(rows, weights(Eigen::Vector2f(1, 1))));
  });
  weighted.forward(x, y, weights(Eigen::Vector3f(1, 1, 1)));
  Eigen::Tensor<float, 4> other(2, 2, 2, 2);
  check_refused<std::invalid_argument>(bn, {"of shape (3, 2, 2, 2), got one of (2, 2, 2, 2)"},
                                       [&] { static_cast<void>(weighted.backward(other, other)); });
}
