// SPDX-License-Identifier: MIT
// A folded layer: y = scale * (x - center) + shift, for every scalar, rank, layout and container,
// against the formula in long double.

#include <batchnorm/batchnorm.hpp>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <thread>
#include <unsupported/Eigen/CXX11/Tensor>
#include <vector>

#include "support/allocations.hpp"
#include "support/catch.hpp"
#include "support/refused.hpp"
#include "support/values.hpp"

using batchnorm::BatchNorm1d;
using batchnorm::BatchNorm2d;
using batchnorm::ChannelAffine;
using batchnorm::ChannelAxis;
using testing::check_throws;
using testing::Index;
using testing::same_bits;
using testing::Values;

namespace {

constexpr ChannelAxis axes[] = {ChannelAxis::first, ChannelAxis::last};

/// Half an ulp of 1 that storing a result costs.
template <class Scalar>
constexpr double unit = std::is_same_v<Scalar, Eigen::half>       ? 0x1p-11
                        : std::is_same_v<Scalar, Eigen::bfloat16> ? 0x1p-8
                                                                  : 0;
/// Half of the smallest step of a half, which alone matters beside 1.
template <class Scalar>
constexpr double smallest = std::is_same_v<Scalar, Eigen::half> ? 0x1p-25 : 0;

/// A layer with random parameters and statistics, in eval mode.
template <class Layer>
Layer random_layer(Index channels, std::uint64_t seed) {
  using Param = typename Layer::Param;
  Layer layer(channels);
  testing::Random random(seed);
  for (Index c = 0; c < channels; ++c) {
    layer.gamma()[c] = static_cast<Param>(random.normal(0.5, 1));
    layer.beta()[c] = static_cast<Param>(random.normal());
    layer.running_mean()[c] = static_cast<Param>(random.normal(0, 20));
    layer.running_var()[c] = static_cast<Param>(random.uniform(0.05, 3));
  }
  layer.eval();
  return layer;
}

/// The largest |y - exact| in units of what is promised of a layer in eval mode:
/// 6e-7 * max(1, |gamma * x_hat|, |beta|), in double 1e-15 times the roundings of a few operations.
template <class Scalar, class Layer>
double worst_error(const Layer& layer, const Values& x, const Values& y) {
  double worst = 0;
  x.each([&](Index n, Index c, Index p) {
    const long double var = static_cast<long double>(layer.running_var()[c]);
    const long double inv_std = 1 / std::sqrt(var + static_cast<long double>(layer.options().eps));
    const long double scaled =
        static_cast<long double>(layer.gamma()[c]) * inv_std *
        (static_cast<long double>(x(n, c, p)) - static_cast<long double>(layer.running_mean()[c]));
    const double beta = static_cast<double>(layer.beta()[c]);
    const double exact = static_cast<double>(scaled + static_cast<long double>(beta));
    const double size = std::max({1.0, std::abs(static_cast<double>(scaled)), std::abs(beta)});
    const double allowed = (std::is_same_v<Scalar, double> ? 2e-15 : 6e-7) * size +
                           unit<Scalar> * std::abs(exact) + smallest<Scalar>;
    const double ratio = std::abs(y(n, c, p) - exact) / allowed;
    worst = ratio <= worst ? worst : ratio;  // a NaN is kept
  });
  return worst;
}

template <class Form>
void check_form() {
  using Scalar = typename Form::Scalar;
  using X = typename Form::X;
  const std::vector<Index> spatial = testing::small_spatial(Form::rank);
  for (const ChannelAxis axis : axes) {
    for (const Index channels : {1, 3, 17}) {
      INFO(Form::name << " of rank " << Form::rank << ", " << channels << " channels, channel "
                      << (axis == ChannelAxis::first ? "first" : "last") << ", order "
                      << Form::order);
      const auto layer = random_layer<BatchNorm2d<Scalar>>(channels, 7);
      const auto affine = layer.folded();
      Values values(6, channels, spatial);
      testing::Random random(3);
      values.each([&](Index n, Index c, Index p) {
        values(n, c, p) = random.normal(static_cast<double>(layer.running_mean()[c]), 2);
      });
      X x = Form::make(values, axis);
      const Values rounded = Form::read(x, axis);
      const X y = affine.apply(x, axis);
      CHECK(worst_error<Scalar>(layer, rounded, Form::read(y, axis)) <= 1);
      X z = x;
      affine.apply(x, z, axis);
      CHECK(same_bits(y, z));
      affine.apply(x, x, axis);
      CHECK(same_bits(y, x));
    }
  }
}

template <class Scalar, int order>
void check_order() {
  check_form<testing::TensorForm<Scalar, 2, order>>();
  check_form<testing::TensorForm<Scalar, 3, order>>();
  check_form<testing::TensorForm<Scalar, 4, order>>();
  check_form<testing::TensorForm<Scalar, 5, order>>();
  check_form<testing::MatrixForm<Scalar, order>>();
}

ChannelAffine<float> affine_of(std::initializer_list<float> scale,
                               std::initializer_list<float> center,
                               std::initializer_list<float> shift) {
  const auto vector = [](std::initializer_list<float> v) {
    return Eigen::VectorXf(
        Eigen::Map<const Eigen::VectorXf>(v.begin(), static_cast<Index>(v.size())));
  };
  return {vector(scale), vector(center), vector(shift)};
}

}  // namespace

TEMPLATE_TEST_CASE("apply is as exact as the layer in every layout", "[channel_affine]", float,
                   double, Eigen::half, Eigen::bfloat16) {
  check_order<TestType, Eigen::RowMajor>();
  check_order<TestType, Eigen::ColMajor>();
}

TEST_CASE("apply gives numbers computed by hand", "[channel_affine]") {
  const auto affine = affine_of({2, -0.5f}, {10, -4}, {1, 0.25f});
  Eigen::MatrixXf x(2, 2), expected(2, 2);
  x << 10, -4, 12.5f, 0;
  expected << 1, 0.25f, 6, -1.75f;
  CHECK(affine.apply(x) == expected);
  Eigen::MatrixXf of_columns(2, 2);
  of_columns << 1, -8, -27, -1.75f;
  CHECK(affine.apply(x.transpose()) == of_columns);
}

TEST_CASE("apply gives an eval-mode layer's bits", "[channel_affine]") {
  auto layer = random_layer<BatchNorm2d<float>>(70, 1);
  Eigen::Tensor<float, 4, Eigen::RowMajor> x(3, 70, 9, 11);
  testing::Random random(2);
  random.fill(x, 3, 20);
  CHECK(same_bits(layer.folded().apply(x), layer.forward(x)));
}

TEST_CASE("apply takes more channels than lie on the stack at once", "[channel_affine]") {
  const Index channels = 5000;
  const auto layer = random_layer<BatchNorm1d<float>>(channels, 4);
  const auto affine = layer.folded();
  using Rows = testing::MatrixForm<float, Eigen::RowMajor>;
  using Runs = testing::MatrixForm<float, Eigen::ColMajor>;
  using Planes = testing::TensorForm<float, 3, Eigen::RowMajor>;
  const Values matrix = Rows::read(Rows::make(testing::random_values(7, channels, {}, 5), {}), {});
  const Values planes =
      Planes::read(Planes::make(testing::random_values(2, channels, {9}, 6), {}), {});
  CHECK(worst_error<float>(layer, matrix, Rows::read(affine.apply(Rows::make(matrix, {})), {})) <=
        1);
  CHECK(worst_error<float>(layer, matrix, Runs::read(affine.apply(Runs::make(matrix, {})), {})) <=
        1);
  CHECK(worst_error<float>(layer, planes,
                           Planes::read(affine.apply(Planes::make(planes, {})), {})) <= 1);
}

TEST_CASE("apply serves tensors too large for the caches", "[channel_affine]") {
  const auto affine = affine_of({2, 3, -1}, {1, -2, 0.5f}, {0, 1, 2});
  for (const ChannelAxis axis : axes) {
    const bool last = axis == ChannelAxis::last;
    Eigen::Tensor<float, 3, Eigen::RowMajor> x(last ? 9 : 3, last ? 400000 : 3, last ? 3 : 400001);
    for (Index i = 0; i < x.size(); ++i) x.data()[i] = static_cast<float>(i % 1024) / 64;
    const auto y = affine.apply(x, axis);
    Index wrong = 0;
    for (Index i = 0; i < x.size(); ++i) {
      const Index c = last ? i % 3 : i / 400001 % 3;
      wrong += y.data()[i] != affine.scale[c] * (x.data()[i] - affine.center[c]) + affine.shift[c];
    }
    CHECK(wrong == 0);
  }
}

TEST_CASE("apply takes whatever a layer takes", "[channel_affine]") {
  const auto affine = affine_of({2, -0.5f}, {10, -4}, {1, 0.25f});
  Eigen::MatrixXf x = Eigen::MatrixXf::Zero(6, 4), y = x;
  x << 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12;
  const auto expected = [&](const auto& rows) {
    Eigen::MatrixXf e(rows.rows(), 2);
    for (Index i = 0; i < rows.rows(); ++i) {
      e(i, 0) = 2 * (rows(i, 0) - 10) + 1;
      e(i, 1) = -0.5f * (rows(i, 1) + 4) + 0.25f;
    }
    return e;
  };
  SECTION("blocks") {
    affine.apply(x.block(1, 1, 3, 2), y.block(2, 2, 3, 2));
    CHECK(y.block(2, 2, 3, 2) == expected(x.block(1, 1, 3, 2)));
    CHECK(y.leftCols(2).isZero());
    CHECK(y.topRows(2).isZero());
    CHECK(y.bottomRows(1).isZero());
  }
  SECTION("a row, an expression, strides in both directions") {
    CHECK(affine.apply(x.row(2).leftCols(2)) == expected(x.row(2).leftCols(2)));
    CHECK(affine.apply(2 * x.leftCols(2)) == expected(2 * x.leftCols(2)));
    using Strided = Eigen::Map<const Eigen::MatrixXf, 0, Eigen::Stride<12, 2>>;
    const Strided every_other(x.data(), 3, 2);
    CHECK(affine.apply(every_other) == expected(every_other));
  }
  SECTION("tensors that are maps, of fixed size, expressions and references") {
    using Tensor = Eigen::Tensor<float, 2>;
    const Eigen::MatrixXf right = expected(x.leftCols(2));
    const auto is_right = [&](const Tensor& t) {
      return Eigen::Map<const Eigen::MatrixXf>(t.data(), 6, 2) == right;
    };
    const Eigen::TensorMap<const Tensor> map(x.data(), 6, 2);
    Eigen::TensorFixedSize<float, Eigen::Sizes<6, 2>> fixed;
    fixed = map;
    Tensor plain = map, result(6, 2);
    CHECK(is_right(affine.apply(map)));
    CHECK(is_right(affine.apply(fixed)));
    CHECK(is_right(affine.apply(plain + plain - plain)));
    result.setZero();
    affine.apply(fixed, result);
    CHECK(is_right(result));
    result.setZero();
    Eigen::TensorRef<Tensor> ref(result);
    affine.apply(plain, ref);
    CHECK(is_right(result));
  }
  SECTION("nothing at all") {
    CHECK(affine.apply(Eigen::MatrixXf(0, 2)).rows() == 0);
    const ChannelAffine<float> none{};
    CHECK(none.apply(Eigen::MatrixXf(3, 0)).rows() == 3);
  }
}

TEST_CASE("apply keeps y finite to the ends of the range", "[channel_affine]") {
  const auto check = [](auto one, double center, double scale, double shift, double x0, double x1) {
    using Scalar = decltype(one);
    for (const int order : {0, 1}) {
      const Index n = 5, channels = 9;
      ChannelAffine<Scalar> affine;
      using Vector = Eigen::Matrix<Scalar, Eigen::Dynamic, 1>;
      affine.scale = Vector::Constant(channels, 2);
      affine.center = affine.shift = Vector::Ones(channels);
      affine.scale[4] = static_cast<Scalar>(scale);
      affine.center[4] = static_cast<Scalar>(center);
      affine.shift[4] = static_cast<Scalar>(shift);
      Eigen::Matrix<Scalar, Eigen::Dynamic, Eigen::Dynamic> x(n, channels);
      Eigen::Matrix<Scalar, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor> rows;
      x.setConstant(3);
      for (Index i = 0; i < n; ++i) x(i, 4) = static_cast<Scalar>(i % 2 ? x1 : x0);
      rows = x;
      if (order == 0) {
        affine.apply(x, x);
      } else {
        x = affine.apply(rows);
      }
      for (Index i = 0; i < n; ++i) {
        const long double v = static_cast<Scalar>(i % 2 ? x1 : x0);
        const long double e = static_cast<long double>(affine.scale[4]) *
                                  (v - static_cast<long double>(affine.center[4])) +
                              static_cast<long double>(affine.shift[4]);
        INFO("got " << x(i, 4) << ", expected " << static_cast<double>(e));
        const long double error = std::abs(static_cast<long double>(x(i, 4)) - e);
        CHECK(error <= 6e-7L * std::max(1.0L, std::abs(e)));
        CHECK(x(i, 3) == 5);  // its neighbours: 2 * (3 - 1) + 1
        CHECK(x(i, 5) == 5);
      }
    }
  };
  check(1.0f, -3.4e38, 1e-38, 0.5, 3.4e38, -3.4e38);  // the difference overflows a float
  check(1.0f, 1e30, 3e-39, 2, 3.3e38, 1e30);          // so small a scale loses bits in products
  check(1.0f, 2, 1e38, -3e38, 4.5, 2);
  check(1.0f, 0, 0x1p120, 0, 0x1p-60, -0x1p-60);  // in place, x is to keep its digits till then
  check(1.0f, 3e38, 1, 3e38, 1e38, 3e38);
  check(1.0, -1.7e308, 1e-308, 0.5, 1.7e308, -1.7e308);
  check(1.0, 2, 1e308, -1.5e308, 3.5, 2);
}

TEST_CASE("a channel with numbers that are not finite stays alone with them", "[channel_affine]") {
  const float infinity = std::numeric_limits<float>::infinity();
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const auto affine =
      affine_of({2, nan, 2, infinity, 2}, {1, 1, infinity, 1, 1}, {1, 1, 1, 1, nan});
  Eigen::MatrixXf x = Eigen::MatrixXf::Constant(3, 5, 3);
  x(1, 0) = infinity;
  x(2, 0) = nan;
  const Eigen::MatrixXf y = affine.apply(x);
  CHECK(y(0, 0) == 5);
  CHECK(y(1, 0) == infinity);
  CHECK(std::isnan(y(2, 0)));
  CHECK(y.rightCols(4).array().isNaN().all());
}

TEMPLATE_TEST_CASE("an infinite shift makes every finite value infinite", "[channel_affine]", float,
                   double, Eigen::half, Eigen::bfloat16) {
  using Vector = Eigen::Matrix<TestType, Eigen::Dynamic, 1>;
  const TestType infinity = static_cast<TestType>(std::numeric_limits<float>::infinity());
  ChannelAffine<TestType> affine{Vector::Constant(2, TestType(2)), Vector::Constant(2, TestType(1)),
                                 Vector::Constant(2, TestType(3))};
  affine.shift[1] = -infinity;
  Eigen::Matrix<TestType, Eigen::Dynamic, 2> x(3, 2);
  x << TestType(0), TestType(0), TestType(4), TestType(4), TestType(-100), TestType(-100);
  const auto y = affine.apply(x);
  CHECK(y(0, 0) == TestType(1));
  CHECK(y(1, 0) == TestType(9));
  CHECK(y(2, 0) == TestType(-199));
  for (const Index n : {0, 1, 2}) CHECK(y(n, 1) == -infinity);
}

TEST_CASE("apply allocates nothing for y", "[channel_affine]") {
  if (!testing::counts_allocations) return;
  const auto affine = random_layer<BatchNorm2d<float>>(33, 8).folded();
  Eigen::Tensor<float, 4, Eigen::RowMajor> x(4, 33, 5, 7), y(4, 33, 5, 7);
  Eigen::MatrixXf samples = Eigen::MatrixXf::Ones(33, 20);
  x.setZero();
  CHECK(testing::allocations([&] {
          affine.apply(x, y);
          affine.apply(y, y);
          affine.apply(samples.transpose(), samples.transpose());
        }) == 0);
  CHECK(testing::allocations([&] { static_cast<void>(affine.apply(x)); }) == 1);  // y
}

TEST_CASE("threads share one folded layer", "[channel_affine]") {
  auto layer = random_layer<BatchNorm2d<float>>(64, 9);
  const ChannelAffine<float> affine = layer.folded();
  Eigen::Tensor<float, 4, Eigen::RowMajor> x(2, 64, 14, 14);
  testing::Random random(10);
  random.fill(x, 0, 20);
  const auto expected = layer.forward(x);
  constexpr int threads = 8, rounds = 50;
  std::vector<int> right(threads);
  std::vector<std::thread> pool;
  for (int t = 0; t < threads; ++t) {
    pool.emplace_back([&, t] {
      for (int r = 0; r < rounds; ++r)
        right[testing::at(t)] += same_bits(affine.apply(x), expected);
    });
  }
  for (std::thread& thread : pool) thread.join();
  CHECK(right == std::vector<int>(threads, rounds));
}

TEST_CASE("apply says what does not fit", "[channel_affine]") {
  auto affine = affine_of({1, 1, 1}, {0, 0, 0}, {0, 0, 0});
  Eigen::MatrixXf x = Eigen::MatrixXf::Zero(5, 3), y = Eigen::MatrixXf::Ones(5, 3);
  const auto refuse = [&](const std::vector<std::string>& words, const auto& call) {
    check_throws<std::invalid_argument>(words, call);
    CHECK((y.array() == 1).all());
  };
  refuse({"[ChannelAffine::apply] expected 3 channels, got 2 in (5, 2)"},
         [&] { affine.apply(x.leftCols(2), y.leftCols(2)); });
  const Eigen::Tensor<float, 4> images(2, 3, 4, 5);
  refuse({"[ChannelAffine::apply] expected 3 channels, got 5 in (2, 3, 4, 5)"},
         [&] { static_cast<void>(affine.apply(images, ChannelAxis::last)); });
  refuse({"[ChannelAffine::apply] expected y of x's shape (5, 3), got (4, 3)"},
         [&] { affine.apply(x, y.topRows(4)); });
  Eigen::VectorXf memory = Eigen::VectorXf::Zero(20);
  Eigen::Map<Eigen::MatrixXf> first(memory.data(), 5, 3), second(memory.data() + 5, 5, 3);
  refuse(
      {"[ChannelAffine::apply] expected y to be x itself or apart from it, got them overlapping"},
      [&] { affine.apply(first, second); });
  affine.shift.resize(2);
  check_throws<std::logic_error>(
      {"[ChannelAffine::apply] expected scale, center and shift of one length, got 3, 3 and 2"},
      [&] { affine.apply(x, y); });
  check_throws<std::logic_error>({"[ChannelAffine::cast]", "3, 3 and 2"},
                                 [&] { static_cast<void>(affine.cast<double>()); });
  check_throws<std::logic_error>({"[ChannelAffine::scale_shift]", "3, 3 and 2"},
                                 [&] { static_cast<void>(affine.scale_shift()); });
  check_throws<std::logic_error>({"[ChannelAffine::error_bound]", "3, 3 and 2"},
                                 [&] { static_cast<void>(affine.error_bound()); });
  affine.center.resize(1);
  check_throws<std::logic_error>({"[ChannelAffine::cast]", "3, 1 and 2"},
                                 [&] { static_cast<void>(affine.cast<double>()); });
}

TEST_CASE("cast to half rounds each number, and the shift makes good what the center lost",
          "[channel_affine]") {
  // Halves near 1000 are 0.5 apart, near 6 0.0039.
  const auto affine = affine_of({0.5f, 2}, {1000.2f, 1}, {1, -2.5f});
  const ChannelAffine<Eigen::half> halves = affine.cast<Eigen::half>();
  CHECK(static_cast<float>(halves.scale[0]) == 0.5f);
  CHECK(static_cast<float>(halves.center[0]) == 1000.0f);
  CHECK(static_cast<float>(halves.shift[0]) == Approx(1 - 0.5 * 0.2).margin(0.0005));
  CHECK(static_cast<float>(halves.center[1]) == 1);
  CHECK(static_cast<float>(halves.shift[1]) == -2.5f);

  using Matrix = Eigen::Matrix<Eigen::half, Eigen::Dynamic, Eigen::Dynamic>;
  const Matrix x = Matrix::Constant(3, 2, Eigen::half(1008));
  const Matrix y = halves.apply(x);  // 0.5 * (1008 - 1000.2) + 1 and 2 * 1007 - 2.5
  CHECK(static_cast<float>(y(0, 0)) == Approx(4.9).margin(0.004));
  CHECK(static_cast<float>(y(0, 1)) == 2012);  // of 2011.5, halfway
  const Eigen::MatrixXf z = halves.apply(x.cast<float>().eval());
  CHECK(z(0, 1) == 2011.5f);
}

TEST_CASE("cast goes to bfloat16, float and double", "[channel_affine]") {
  const auto affine = affine_of({1.00390625f}, {256.5f}, {0});  // 1 + 2^-8 is halfway in bfloat16
  const auto brief = affine.cast<Eigen::bfloat16>();
  CHECK(static_cast<float>(brief.scale[0]) == 1);
  CHECK(static_cast<float>(brief.center[0]) == 256);
  CHECK(static_cast<float>(brief.shift[0]) == -0.5f);  // of -0.501953125
  CHECK(affine.cast<double>().center[0] == 256.5);
  const float infinity = std::numeric_limits<float>::infinity();
  CHECK(affine_of({infinity}, {1}, {3}).cast<double>().shift[0] == 3);  // no error to correct
  const ChannelAffine<double> exact{Eigen::VectorXd::Constant(1, 3),
                                    Eigen::VectorXd::Constant(1, 1e6 + 0.01),
                                    Eigen::VectorXd::Zero(1)};
  const auto floats = exact.cast<float>();
  CHECK(floats.center[0] == 1e6f);
  CHECK(floats.shift[0] == Approx(-0.03).epsilon(1e-6));
  Eigen::MatrixXf x = Eigen::MatrixXf::Constant(1, 1, 1000001);
  CHECK(floats.apply(x)(0) == Approx(3 * (1 - 0.01)).epsilon(1e-6));
}

TEST_CASE("cast refuses what the new type cannot hold", "[channel_affine]") {
  const auto affine = affine_of({1, 1, 1}, {0, 70000, 0}, {0, 0, 0});
  check_throws<std::invalid_argument>(
      {"[ChannelAffine::cast] expected a center in the new type's range, got 70000 in channel 1"},
      [&] { static_cast<void>(affine.cast<Eigen::half>()); });
  const ChannelAffine<double> wide{Eigen::VectorXd::Constant(1, 1e39), Eigen::VectorXd::Zero(1),
                                   Eigen::VectorXd::Zero(1)};
  check_throws<std::invalid_argument>({"expected a scale in", "1e+39 in channel 0"},
                                      [&] { static_cast<void>(wide.cast<float>()); });
  const float nan = std::numeric_limits<float>::quiet_NaN();
  CHECK(std::isnan(static_cast<float>(affine_of({nan}, {0}, {0}).cast<Eigen::half>().scale[0])));
}

TEST_CASE("scale_shift is the same map in two terms, within error_bound", "[channel_affine]") {
  const auto hand = affine_of({2, -0.5f}, {10, -4}, {1, 0.25f});
  CHECK(hand.scale_shift().scale == hand.scale);
  CHECK(hand.scale_shift().shift == Eigen::Vector2f(-19, -1.75f));

  testing::Random random(11);
  double tightest = 0;
  for (const double mean : {0.0, 1.0, 100.0, 1e4, 1e6}) {
    for (int round = 0; round < 200; ++round) {
      const auto affine = affine_of({static_cast<float>(random.normal())},
                                    {static_cast<float>(mean * random.uniform(1, 2))},
                                    {static_cast<float>(random.normal())});
      const auto two = affine.scale_shift();
      const double bound = affine.error_bound()[0];
      double worst = 0;
      for (int i = 0; i < 20; ++i) {
        const float x = static_cast<float>(random.normal(static_cast<double>(affine.center[0]), 1));
        const float product = two.scale[0] * x, y = product + two.shift[0];
        const double scaled = static_cast<double>(affine.scale[0]) *
                              (static_cast<double>(x) - static_cast<double>(affine.center[0]));
        const double shift = static_cast<double>(affine.shift[0]);
        const double size = std::max({1.0, std::abs(scaled), std::abs(shift)});
        worst = std::max(worst, std::abs(static_cast<double>(y) - (scaled + shift)) / size);
      }
      CHECK(worst <= bound);
      tightest = std::max(tightest, worst / bound);
      if (mean == 1e6 && std::abs(affine.scale[0]) > 0.5f) {
        CHECK(bound > 0.05);  // against 6e-7 of three terms
      }
    }
  }
  CHECK(tightest > 0.3);  // the bound says what happens, within a factor of three
}

TEST_CASE("error_bound knows each type's digits", "[channel_affine]") {
  const auto affine = affine_of({3}, {-2}, {0});  // u * (4 + 2 * 6) and no more
  CHECK(affine.error_bound()[0] == Approx(16 * 0x1p-24));
  CHECK(affine.cast<double>().error_bound()[0] == Approx(16 * 0x1p-52));
  CHECK(affine.cast<Eigen::half>().error_bound()[0] == Approx(16 * 0x1p-11).epsilon(0.01));
  CHECK(affine.cast<Eigen::bfloat16>().error_bound()[0] == Approx(16 * 0x1p-8).epsilon(0.02));
}
