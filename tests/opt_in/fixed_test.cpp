// SPDX-License-Identifier: MIT
// Layers of fixed size: by hand, against the reference layer, by derivatives, and without the heap.

#include <batchnorm/extras/fixed.hpp>
#include <cmath>
#include <functional>
#include <limits>

#include "support/allocations.hpp"
#include "support/check_layer.hpp"
#include "support/layer_gradient.hpp"
#include "support/refused.hpp"

using batchnorm::FixedBatchNorm1d;
using batchnorm::Momentum;
using batchnorm::NonFinite;
using batchnorm::Options;
using batchnorm::SingleValue;
using Eigen::Index;
using testing::check_throws;
using testing::Values;

namespace {

constexpr int channels = 3;

/// A fixed layer behind the interface of any layer; its matrices have at most 8 rows.
template <class Scalar_, int order>
struct FixedForm {
  using Scalar = Scalar_;
  using X = Eigen::Matrix<Scalar, Eigen::Dynamic, channels, order, 8, channels>;

  static X make(const Values& v) {
    X x(v.samples, channels);
    v.each([&](Index n, Index c, Index) { x(n, c) = static_cast<Scalar>(v(n, c, 0)); });
    return x;
  }
  static Values read(const X& x) {
    Values v(x.rows(), channels, {});
    v.each([&](Index n, Index c, Index) { v(n, c, 0) = static_cast<double>(x(n, c)); });
    return v;
  }
};

template <class Form>
class FixedLayer : public testing::AnyLayer {
 public:
  explicit FixedLayer(const Options& options) : layer_(options) {}

  Values forward(const Values& x) override { return Form::read(layer_.forward(Form::make(x))); }
  Values backward(const Values& x, const Values& dy) override {
    auto dx = Form::make(dy);
    layer_.backward(Form::make(x), dx, dx);
    return Form::read(dx);
  }
  void train(bool on) override { layer_.train(on); }
  void set_momentum(Momentum) override {}
  testing::State state() const override {
    return {list(layer_.gamma()),        list(layer_.beta()),         list(layer_.grad_gamma()),
            list(layer_.grad_beta()),    list(layer_.running_mean()), list(layer_.running_var()),
            layer_.num_batches_tracked()};
  }
  void set(const testing::State& s) override {
    put(s.gamma, layer_.gamma()), put(s.beta, layer_.beta());
    put(s.grad_gamma, layer_.grad_gamma()), put(s.grad_beta, layer_.grad_beta());
    put(s.running_mean, layer_.running_mean()), put(s.running_var, layer_.running_var());
  }

 private:
  using Layer = FixedBatchNorm1d<typename Form::Scalar, channels>;
  using Vector = typename Layer::Vector;
  static std::vector<double> list(const Vector& v) { return {v.data(), v.data() + v.size()}; }
  static void put(const std::vector<double>& from, Vector& to) {
    for (Index c = 0; c < channels; ++c) {
      to[c] = static_cast<typename Layer::Param>(from[testing::at(c)]);
    }
  }
  Layer layer_;
};

template <class Form>
testing::Kind fixed_kind(const char* name, double unit, double small) {
  return {name,
          2,
          std::is_same_v<typename Form::Scalar, double>,
          unit,
          small,
          [](Index, const Options& options) -> std::unique_ptr<testing::AnyLayer> {
            return std::make_unique<FixedLayer<Form>>(options);
          },
          [](const Values& v) {
            return v.mapped([](double one) {
              return static_cast<double>(static_cast<typename Form::Scalar>(one));
            });
          }};
}
std::vector<testing::Kind> fixed_kinds() {
  using Eigen::ColMajor, Eigen::RowMajor;
  return {fixed_kind<FixedForm<double, RowMajor>>("double", 0, 0),
          fixed_kind<FixedForm<double, ColMajor>>("double, column-major", 0, 0),
          fixed_kind<FixedForm<float, RowMajor>>("float", 0, 0),
          fixed_kind<FixedForm<Eigen::half, ColMajor>>("half", 0x1p-11, 0x1p-25),
          fixed_kind<FixedForm<Eigen::bfloat16, RowMajor>>("bfloat16", 0x1p-8, 0x1p-134)};
}

std::vector<Options> all_options() {
  Options cumulative, use_running, untracked;
  cumulative.momentum = Momentum::cumulative();
  use_running.single_value = SingleValue::use_running;
  untracked.track_running_stats = false;
  return {Options(), Options::keras(), cumulative, use_running, untracked};
}

}  // namespace

// The numbers of hand_computed_test.cpp.
TEST_CASE("a fixed layer gives the numbers worked out by hand, in training and eval mode",
          "[fixed]") {
  Options options;
  options.eps = 1;
  options.momentum = Momentum::weight_of_new(0.25);
  FixedBatchNorm1d<double, 2> bn(options);
  bn.gamma() << 2, 3;
  bn.beta() << 1, -1;
  Eigen::Matrix<double, 4, 2> x, y, dy, dx;
  x << 2, 6, 6, 10, 6, 10, 6, 14;
  y << -2, -5, 2, -1, 2, -1, 2, 3;
  dy << 1, 3, 0, 0, 0, 0, -1, 1;
  dx << 0.25, 10. / 9, 0.25, -1, 0.25, -1, -0.75, 8. / 9;
  CHECK(bn.forward(x).isApprox(y, 1e-15));
  CHECK(bn.backward(x, dy).isApprox(dx, 1e-15));
  CHECK(bn.grad_gamma().isApprox(Eigen::Vector2d(-2, -8. / 3), 1e-15));
  CHECK(bn.grad_beta() == Eigen::Vector2d(0, 4));
  CHECK(bn.running_mean() == Eigen::Vector2d(5. / 4, 10. / 4));
  CHECK(bn.running_var().isApprox(Eigen::Vector2d(7. / 4, 41. / 12), 1e-15));

  bn.running_mean() << 4, 8;
  bn.running_var() << 8, 15;
  bn.eval();
  y << -1. / 3, -2.5, 7. / 3, 0.5, 7. / 3, 0.5, 7. / 3, 3.5;
  CHECK(bn.forward(x).isApprox(y, 1e-15));
  dx << 2. / 3, 9. / 4, 0, 0, 0, 0, -2. / 3, 3. / 4;
  CHECK(bn.backward(x, dy).isApprox(dx, 1e-15));
  bn.forward(x, x);
  CHECK(x.isApprox(y, 1e-15));
}

TEST_CASE("a fixed layer takes expressions, products too", "[fixed]") {
  FixedBatchNorm1d<double, 2> bn, of_values;
  const Eigen::Matrix<double, 4, 2> x = testing::filled(Eigen::Matrix<double, 4, 2>(), 1);
  const Eigen::Matrix<double, 4, 2> dy = testing::filled(Eigen::Matrix<double, 4, 2>(), 2);
  const Eigen::Matrix2d twice = Eigen::Vector2d(2, 2).asDiagonal();
  Eigen::Matrix<double, 4, 2> z;
  const auto y = of_values.forward(x), dx = of_values.backward(x, dy);
  CHECK(bn.forward(x / 2 * twice) == y);
  CHECK(bn.backward(x / 2 * twice, dy / 2 * twice) == dx);
  bn.forward(x / 4 * twice + x / 2, z);
  CHECK(z == y);
  bn.backward(x / 4 * twice + x / 2, dy, z);
  CHECK(z == dx);
  Eigen::Matrix<double, 8, 2> other;
  const auto second = Eigen::seqN(0, 4, 2);
  const auto all = Eigen::seqN(0, Eigen::fix<2>);
  other(second, all) = x;
  bn.forward(other(second, all), z);
  CHECK(z == y);
}

TEST_CASE("a fixed layer is as exact as the layer", "[fixed]") {
  for (const testing::Kind& kind : fixed_kinds()) {
    for (const Options& options : all_options()) {
      for (const bool training : {true, false}) {
        for (const Index samples : {7, 1}) {
          if (samples == 1 && options.single_value == SingleValue::reject) continue;
          INFO(kind.name << ", " << samples << " samples, training " << training);
          const Values x = kind.rounded(testing::random_values(samples, channels, {}, 1));
          const Values dy = kind.rounded(testing::random_values(samples, channels, {}, 2));
          const auto layer = kind.layer(channels, options);
          testing::Random random(9);
          testing::randomize(*layer, random);
          auto reference = testing::reference_of(*layer, channels, options, training);
          for (int step = 0; step < 2; ++step) {
            const Values y = layer->forward(x), expected_y = reference.forward(x);
            testing::check_forward(kind, reference, x, y, expected_y, layer->state());
          }
          const Values dx = layer->backward(x, dy);
          testing::check_backward(kind, reference, x, dy, dx, layer->state());
        }
      }
    }
  }
}

TEST_CASE("backward of a fixed layer is the gradient of forward", "[fixed][gradient]") {
  using Matrix = Eigen::Matrix<double, 5, 2>;
  for (const bool training : {true, false}) {
    FixedBatchNorm1d<double, 2> bn;
    bn.gamma() << 1.5, -0.5;
    bn.running_var() << 2, 0.5;
    bn.train(training);
    Matrix x, dy;
    testing::Random random(3);
    random.fill(x), random.fill(dy);
    static_cast<void>(bn.forward(x));
    const Matrix dx = bn.backward(x, dy);
    const std::function<double()> loss = [&] { return dy.cwiseProduct(bn.forward(x)).sum(); };
    testing::check_gradients_of(loss, x, dx, bn);
  }
}

TEST_CASE("nothing that a fixed layer does uses the heap", "[fixed]") {
  Eigen::Matrix<float, 32, 64, Eigen::RowMajor> x, dy, y, dx;
  testing::Random(1).fill(x), testing::Random(2).fill(dy);
  CHECK(testing::allocations([&] {
          FixedBatchNorm1d<float, 64> bn(Options::keras());
          y = bn.forward(x);
          dx = bn.backward(x, dy);
          bn.forward(x, y);
          bn.backward(x, dy, dx);
          bn.forward(x.topRows<16>(), y.bottomRows<16>());
          FixedBatchNorm1d<float, 64> copy = bn;
          copy.eval();
          copy.forward(x, x);
          bn = copy;
        }) == 0);
}

TEST_CASE("a fixed layer switches off, skips and refuses as the layer", "[fixed]") {
  using Matrix = Eigen::Matrix<double, 3, 2>;
  Options options;
  options.scale = options.shift = false;
  options.momentum = Momentum::cumulative();
  FixedBatchNorm1d<double, 2> bare(options);
  Matrix x;
  x << 1, 2, 3, 5, 8, 13;
  const Matrix fine = x;
  x(1, 1) = std::numeric_limits<double>::infinity();
  static_cast<void>(bare.forward(x));
  static_cast<void>(bare.backward(x, x));
  CHECK(bare.running_mean() == Eigen::Vector2d(4, 0));  // the other channel was skipped,
  static_cast<void>(bare.forward(fine));
  CHECK(bare.running_mean()[1] == 20. / 3);  // and its average is of one batch
  CHECK(bare.num_batches_tracked() == 2);
  bare.num_batches_tracked() = 7;
  CHECK(bare.num_batches_tracked() == 7);
  CHECK(bare.grad_beta() == Eigen::Vector2d::Zero());

  FixedBatchNorm1d<double, 2> bn;
  check_throws<std::logic_error>({"[FixedBatchNorm1d::backward] expected a forward before"},
                                 [&] { static_cast<void>(bn.backward(x, x)); });
  check_throws<std::invalid_argument>({"expected y apart from x"}, [&] { bn.forward(x, x); });
  const Eigen::Matrix<double, 1, 2> one(1, 2);
  check_throws<std::invalid_argument>({"more than one value per channel, got 1"},
                                      [&] { static_cast<void>(bn.forward(one)); });
  CHECK(bn.num_batches_tracked() == 0);
  options.non_finite = NonFinite::reject;
  FixedBatchNorm1d<double, 2> strict(options);
  Matrix y = fine;
  check_throws<std::domain_error>({"finite values", "channel 1"}, [&] { strict.forward(x, y); });
  CHECK(y == fine);
  CHECK(strict.running_mean() == Eigen::Vector2d::Zero());
  bn.eval();
  bn.forward(y, y);
  check_throws<std::logic_error>({"wrote y over it"},
                                 [&] { static_cast<void>(bn.backward(y, y)); });
  const Matrix z = bn.forward(y);
  CHECK(bn.backward(y, z).allFinite());
  Eigen::Matrix<double, Eigen::Dynamic, 2> two = y.topRows(2), of_three = y;
  check_throws<std::invalid_argument>({"[FixedBatchNorm1d::backward]", "of 3 rows, got 2"},
                                      [&] { bn.backward(two, two, of_three); });
  check_throws<std::invalid_argument>({"expected dy of 3 rows, got 2"},
                                      [&] { bn.backward(y, two, of_three); });
  check_throws<std::invalid_argument>({"expected dx of 3 rows, got 2"},
                                      [&] { bn.backward(y, y, two); });
  check_throws<std::invalid_argument>({"expected y of 3 rows, got 2"}, [&] { bn.forward(y, two); });
  options.eps = -1;
  check_throws<std::invalid_argument>({"[FixedBatchNorm1d::FixedBatchNorm1d]", "eps"},
                                      [&] { FixedBatchNorm1d<double, 2>{options}; });
}

TEST_CASE("a constant channel of a fixed layer gives exactly beta, by eps 0 too", "[fixed]") {
  // A sum of ten times 0.1 is not 1: the mean must come from deviations, which are exactly 0.
  using Column = Eigen::Matrix<double, 10, 1>;
  Options options;
  options.eps = 0;
  FixedBatchNorm1d<double, 1> bn(options);
  bn.beta() << 7;
  const Column x = Column::Constant(0.1);
  CHECK(bn.forward(x) == Column::Constant(7));
}

TEST_CASE("a fixed layer has no gradient of a gamma that is switched off", "[fixed]") {
  Options options;
  options.scale = false;
  FixedBatchNorm1d<double, 1> bn(options);
  const Eigen::Vector3d x(1, 2, 4), dy(1, 0, 0);  // sum dy * x_hat is not 0
  static_cast<void>(bn.forward(x));
  static_cast<void>(bn.backward(x, dy));
  CHECK(bn.grad_gamma()[0] == 0);
  CHECK(bn.grad_beta()[0] == 1);
}

TEST_CASE("an empty batch is refused by a fixed layer, or changes nothing", "[fixed]") {
  Eigen::Matrix<double, Eigen::Dynamic, 2, Eigen::ColMajor, 4, 2> none(0, 2);
  FixedBatchNorm1d<double, 2> strict;
  check_throws<std::invalid_argument>({"more than one value per channel, got 0"},
                                      [&] { static_cast<void>(strict.forward(none)); });
  strict.eval();
  CHECK(strict.forward(none).rows() == 0);
  Options options;
  options.track_running_stats = false;
  FixedBatchNorm1d<double, 2> untracked(options);
  untracked.eval();
  CHECK(untracked.forward(none).rows() == 0);

  options = {};
  options.single_value = SingleValue::accept;
  options.non_finite = NonFinite::reject;
  FixedBatchNorm1d<double, 2> bn(options);
  bn.forward(none, none);  // no x is lost
  bn.backward(none, none, none);
  CHECK(bn.num_batches_tracked() == 0);
  CHECK(bn.running_mean() == Eigen::Vector2d::Zero());
  CHECK(bn.running_var() == Eigen::Vector2d::Ones());
  CHECK(bn.grad_gamma() == Eigen::Vector2d::Zero());
}

TEST_CASE("one row moves a fixed layer's running mean, and there is no unbiased variance of it",
          "[fixed]") {
  Options options;
  options.single_value = SingleValue::accept;
  options.momentum = Momentum::weight_of_new(0.5);
  FixedBatchNorm1d<double, 2> bn(options);
  CHECK(bn.forward(Eigen::RowVector2d(3, 5)) == Eigen::RowVector2d(0, 0));
  CHECK(bn.running_mean() == Eigen::Vector2d(1.5, 2.5));
  CHECK(bn.running_var() == Eigen::Vector2d::Ones());
}

TEST_CASE("statistics of a fixed layer that are not finite are skipped, or propagate", "[fixed]") {
  constexpr float infinity = std::numeric_limits<float>::infinity();
  Options options;
  options.momentum = Momentum::weight_of_new(0.5);
  FixedBatchNorm1d<double, 2> skipping(options);
  Eigen::Matrix2d far;
  far << 1e160, 1, 3e160, 3;  // a finite mean, but squares that are not
  static_cast<void>(skipping.forward(far));
  CHECK(skipping.running_mean() == Eigen::Vector2d(0, 1));
  CHECK(skipping.running_var() == Eigen::Vector2d(1, 1.5));

  options.non_finite = NonFinite::propagate;
  FixedBatchNorm1d<float, 2> bn(options);
  Eigen::Matrix2f x;
  x << -infinity, 1, 0, 3;
  static_cast<void>(bn.forward(x));
  CHECK(bn.running_mean() == Eigen::Vector2f(-infinity, 1));
  CHECK(std::isnan(bn.running_var()[0]));
  CHECK(bn.running_var()[1] == 1.5f);
  x(0, 0) = 1;
  static_cast<void>(bn.forward(x));  // the average of what it was and a number
  CHECK(bn.running_mean() == Eigen::Vector2f(-infinity, 1.5f));
  bn.reset_running_stats();
  x << 0, 1, infinity, 3;  // sums are taken about the second row
  static_cast<void>(bn.forward(x));
  CHECK(bn.running_mean() == Eigen::Vector2f(infinity, 1));

  options.momentum = Momentum::weight_of_new(0);
  FixedBatchNorm1d<float, 2> still(options);
  x(0, 0) = infinity;
  static_cast<void>(still.forward(x));
  CHECK(still.running_mean() == Eigen::Vector2f::Zero());
  CHECK(still.running_var() == Eigen::Vector2f::Ones());
  CHECK(still.num_batches_tracked() == 1);
}
