// SPDX-License-Identifier: MIT
// Random networks with a batch norm in them, and without, after folding: the same outputs, against
// slow convolutions written from their definition.

#include <batchnorm/batchnorm.hpp>
#include <batchnorm/fold.hpp>
#include <cmath>
#include <stdexcept>
#include <unsupported/Eigen/CXX11/Tensor>

#include "support/catch.hpp"
#include "support/reference_convolution.hpp"
#include "support/refused.hpp"

using batchnorm::BatchNorm1d;
using batchnorm::BatchNorm2d;
using batchnorm::ChannelAxis;
using batchnorm::ConvLayout;
using batchnorm::fold_into_conv;
using batchnorm::fold_into_linear;
using batchnorm::fold_into_next_linear;
using batchnorm::fold_into_transposed_conv;
using batchnorm::LinearLayout;
using batchnorm::Options;
using batchnorm::TransposedConvLayout;
using testing::at;
using testing::check_throws;
using testing::Convolution;
using testing::Index;
using testing::Values;

namespace {

/// How the weights of a Convolution stand in a tensor.
enum class Order { oihw, hwio, hwim, iohw, hwoi };

template <int spatial, class Index5>
auto place_of(Order order, const Convolution& conv, const Index5& i) {
  std::array<Index, spatial + 2> place{};
  const bool kernel_last = order == Order::oihw || order == Order::iohw;
  for (std::size_t d = 0; d < spatial; ++d) {
    place[d + (kernel_last ? 2 : 0)] = i[2 + 3 - spatial + d];
  }
  const Index multiplier = conv.outputs / conv.inputs;
  if (kernel_last) {
    place[0] = i[0], place[1] = i[1];
  } else if (order == Order::hwim) {
    place[spatial] = i[0] / multiplier, place[spatial + 1] = i[0] % multiplier;
  } else {
    place[spatial] = i[1], place[spatial + 1] = i[0];
  }
  return place;
}

/// Calls f(place in the tensor, weight of the convolution) for each.
template <int spatial, class Conv, class F>
void for_each_weight(Order order, Conv& conv, const F& f) {
  const auto [first, second] = conv.channel_extents();
  const auto& k = conv.kernel;
  std::size_t n = 0;
  std::array<Index, 5> i{};
  for (i[0] = 0; i[0] < first; ++i[0]) {
    for (i[1] = 0; i[1] < second; ++i[1]) {
      for (i[2] = 0; i[2] < k[0]; ++i[2]) {
        for (i[3] = 0; i[3] < k[1]; ++i[3]) {
          for (i[4] = 0; i[4] < k[2]; ++i[4]) {
            f(place_of<spatial>(order, conv, i), conv.weight[n++]);
          }
        }
      }
    }
  }
}

template <class Scalar, int spatial, int storage>
auto tensor_of(Order order, const Convolution& conv) {
  std::array<Index, spatial + 2> extents{};
  for_each_weight<spatial>(order, conv, [&](const auto& place, double) {
    for (std::size_t d = 0; d < place.size(); ++d) extents[d] = std::max(extents[d], place[d] + 1);
  });
  Eigen::Tensor<Scalar, spatial + 2, storage> weight(extents);
  for_each_weight<spatial>(
      order, conv, [&](const auto& place, double w) { weight(place) = static_cast<Scalar>(w); });
  return weight;
}

template <class Scalar>
Eigen::Matrix<Scalar, Eigen::Dynamic, 1> vector_of(const std::vector<double>& v) {
  return Eigen::Map<const Eigen::VectorXd>(v.data(), static_cast<Index>(v.size()))
      .template cast<Scalar>();
}

/// The convolution with its numbers rounded to Scalar.
template <class Scalar>
Convolution rounded(Convolution conv) {
  for (auto* numbers : {&conv.weight, &conv.bias}) {
    for (double& v : *numbers) v = static_cast<double>(static_cast<Scalar>(v));
  }
  return conv;
}

Convolution random_convolution(Convolution conv, bool bias, testing::Random& random) {
  conv.weight.resize(at(conv.weight_size()));
  for (double& w : conv.weight) w = random.normal();
  conv.bias.resize(at(conv.outputs));
  for (double& b : conv.bias) b = bias ? random.normal() : 0;
  return conv;
}

template <class Layer = BatchNorm2d<float>>
Layer random_norm(Index channels, testing::Random& random, Options options = {}) {
  using Param = typename Layer::Param;
  Layer norm(channels, options);
  for (Index c = 0; c < channels; ++c) {
    if (options.scale) norm.gamma()[c] = static_cast<Param>(random.normal(0.5, 1));
    if (options.shift) norm.beta()[c] = static_cast<Param>(random.normal());
    norm.running_mean()[c] = static_cast<Param>(random.normal(0, 2));
    norm.running_var()[c] = static_cast<Param>(random.uniform(0.05, 3));
  }
  return norm;
}

/// The batch norm in eval mode, from its definition.
template <class Layer>
Values normalized(const Layer& norm, const Values& x) {
  Values y = x;
  x.each([&](Index n, Index c, Index p) {
    const double gamma = norm.options().scale ? static_cast<double>(norm.gamma()[c]) : 1;
    const double beta = norm.options().shift ? static_cast<double>(norm.beta()[c]) : 0;
    const double deviation =
        std::sqrt(static_cast<double>(norm.running_var()[c]) + norm.options().eps);
    y(n, c, p) =
        gamma * (x(n, c, p) - static_cast<double>(norm.running_mean()[c])) / deviation + beta;
  });
  return y;
}

/// The largest error of y in units of what rounding every folded number once may do to it:
/// unit * (sum |w x| + |b|), and 1e-13 for sums in double in another order.
double worst_error(Convolution folded, Values x, const Values& y, const Values& expected,
                   double unit) {
  for (auto* numbers : {&folded.weight, &folded.bias, &x.data}) {
    for (double& v : *numbers) v = std::abs(v);
  }
  const Values size = folded.forward(x);
  double worst = 0;
  y.each([&](Index n, Index c, Index p) {
    const double allowed = 1.01 * unit * size(n, c, p) + 1e-13 * (1 + size(n, c, p));
    const double ratio = std::abs(y(n, c, p) - expected(n, c, p)) / allowed;
    worst = ratio <= worst ? worst : ratio;
  });
  return worst;
}

template <class Scalar>
constexpr double unit = std::is_same_v<Scalar, double>        ? 0x1p-53
                        : std::is_same_v<Scalar, float>       ? 0x1p-24
                        : std::is_same_v<Scalar, Eigen::half> ? 0x1p-11
                                                              : 0x1p-8;

template <class Scalar, int spatial, int storage>
void check_convolution(const Convolution& shape, Order order, bool bias, const Options& options,
                       std::uint64_t seed) {
  INFO(spatial << " dimensions, layout " << static_cast<int>(order) << ", " << shape.groups
               << " groups, " << (bias ? "with" : "without") << " bias, storage " << storage);
  testing::Random random(seed);
  const Convolution conv = rounded<Scalar>(random_convolution(shape, bias, random));
  const auto norm = random_norm(conv.outputs, random, options);
  std::vector<Index> extents = {1, 1, 1};
  for (std::size_t d = 3 - spatial; d < 3; ++d) extents[d] = 4 + static_cast<Index>(d);
  const Values x = testing::random_values(2, conv.inputs, extents, random.bits());

  const auto weight = tensor_of<Scalar, spatial, storage>(order, conv);
  Eigen::Matrix<Scalar, Eigen::Dynamic, 1> b;
  if (bias) b = vector_of<Scalar>(conv.bias);
  const auto folded = [&] {
    switch (order) {
      case Order::oihw:
        return fold_into_conv(weight, b, norm);
      case Order::hwio:
        return fold_into_conv(weight, b, norm, ConvLayout::hwio);
      case Order::hwim:
        return fold_into_conv(weight, b, norm, ConvLayout::hwim);
      case Order::iohw:
        return fold_into_transposed_conv(weight, b, norm, conv.groups);
      case Order::hwoi:
        break;
    }
    return fold_into_transposed_conv(weight, b, norm, conv.groups, TransposedConvLayout::hwoi);
  }();

  Convolution without_norm = conv;
  for_each_weight<spatial>(order, without_norm, [&](const auto& place, double& w) {
    w = static_cast<double>(folded.weight(place));
  });
  REQUIRE(folded.bias.size() == conv.outputs);
  for (Index o = 0; o < conv.outputs; ++o) {
    without_norm.bias[at(o)] = static_cast<double>(folded.bias[o]);
  }
  const Values expected = normalized(norm, conv.forward(x)), y = without_norm.forward(x);
  CHECK(worst_error(without_norm, x, y, expected, unit<Scalar>) <= 1);
}

template <class Scalar, int spatial>
void check_dimensions() {
  Convolution shape;
  for (std::size_t d = 3 - spatial; d < 3; ++d) {
    shape.kernel[d] = d == 1 ? 2 : 3;
    shape.stride[d] = d == 2 ? 2 : 1;
    shape.padding[d] = 1;
    shape.dilation[d] = d == 1 ? 2 : 1;
  }
  std::uint64_t seed = 1;
  for (const int affine : {0, 1, 2, 3}) {
    Options options;
    options.scale = affine % 2 == 0;
    options.shift = affine / 2 == 0;
    for (const bool bias : {true, false}) {
      const auto check = [&](Index inputs, Index outputs, Index groups, bool transposed,
                             Order order) {
        Convolution conv = shape;
        conv.inputs = inputs, conv.outputs = outputs;
        conv.groups = groups, conv.transposed = transposed;
        check_convolution<Scalar, spatial, Eigen::RowMajor>(conv, order, bias, options, ++seed);
        check_convolution<Scalar, spatial, Eigen::ColMajor>(conv, order, bias, options, ++seed);
      };
      for (const Order order : {Order::oihw, Order::hwio}) {
        check(3, 5, 1, false, order);
        check(4, 6, 2, false, order);
        check(3, 6, 3, false, order);  // depthwise, two outputs for each input
      }
      check(3, 6, 3, false, Order::hwim);
      check(3, 5, 1, true, Order::iohw);
      check(6, 4, 2, true, Order::iohw);
      check(4, 6, 2, true, Order::iohw);
      check(3, 5, 1, true, Order::hwoi);
    }
  }
}

}  // namespace

TEST_CASE("the slow convolution gives the numbers worked out by hand", "[fold]") {
  Convolution conv;
  conv.kernel = {1, 1, 2}, conv.padding = {0, 0, 1}, conv.stride = {1, 1, 2};
  conv.weight = {1, 10}, conv.bias = {100};
  Values x(1, 1, {1, 1, 3});
  x.data = {1, 2, 3};
  CHECK(conv.forward(x).data == std::vector<double>{110, 132});  // (0, 1), (2, 3)
  conv.transposed = true;
  conv.padding = {0, 0, 0};
  CHECK(conv.forward(x).data == std::vector<double>{101, 110, 102, 120, 103, 130});
}

TEMPLATE_TEST_CASE("a folded convolution gives what convolution and batch norm gave", "[fold]",
                   float, double) {
  check_dimensions<TestType, 1>();
  check_dimensions<TestType, 2>();
  check_dimensions<TestType, 3>();
}

TEMPLATE_TEST_CASE("folded weights of 16 bits have one rounding", "[fold]", Eigen::half,
                   Eigen::bfloat16) {
  Convolution conv;
  conv.inputs = 3, conv.outputs = 4, conv.kernel = {1, 3, 3};
  check_convolution<TestType, 2, Eigen::RowMajor>(conv, Order::oihw, true, {}, 5);
}

TEST_CASE("a folded linear layer gives what linear and batch norm gave", "[fold]") {
  testing::Random random(3);
  const auto norm = random_norm<BatchNorm1d<double>>(4, random);
  Eigen::MatrixXd w(4, 3), x(7, 3);
  Eigen::VectorXd b(4);
  random.fill(w), random.fill(x), random.fill(b);
  BatchNorm1d<double> eval = norm;
  eval.eval();
  const Eigen::MatrixXd expected = eval.forward((x * w.transpose()).rowwise() + b.transpose());
  const auto close = [&](const Eigen::MatrixXd& y) { return (y - expected).norm() < 1e-13; };

  const auto folded = fold_into_linear(w, b, norm);
  CHECK(close((x * folded.weight.transpose()).rowwise() + folded.bias.transpose()));
  const auto turned = fold_into_linear(w.transpose(), b, norm, LinearLayout::in_out);
  CHECK(close((x * turned.weight).rowwise() + turned.bias.transpose()));
  const auto of_affine = fold_into_linear(w, b, norm.folded());
  CHECK(close((x * of_affine.weight.transpose()).rowwise() + of_affine.bias.transpose()));

  const Eigen::Tensor<double, 2> tensor =
      Eigen::TensorMap<Eigen::Tensor<double, 2>>(w.data(), 4, 3);
  const auto of_tensor = fold_into_linear(tensor, b, norm);
  CHECK(Eigen::Map<const Eigen::MatrixXd>(of_tensor.weight.data(), 4, 3) == folded.weight);

  const auto unbiased = fold_into_linear(w, {}, norm);
  CHECK((eval.forward(x * w.transpose()) -
         ((x * unbiased.weight.transpose()).rowwise() + unbiased.bias.transpose()))
            .norm() < 1e-13);
}

TEST_CASE("folded weights and biases are the numbers worked out by hand", "[fold]") {
  BatchNorm1d<float> norm(1);
  norm.gamma()[0] = 3;
  norm.beta()[0] = 5;
  norm.running_mean()[0] = 2;
  norm.running_var()[0] = 4;
  Eigen::MatrixXf w(1, 2);
  w << 1, -2;
  const auto folded = fold_into_linear(w, Eigen::VectorXf::Constant(1, 6), norm);
  CHECK(folded.weight(0, 0) == Approx(1.5));
  CHECK(folded.weight(0, 1) == Approx(-3));
  CHECK(folded.bias[0] == Approx(1.5 * (6 - 2) + 5));
  CHECK(w(0, 0) == 1);                                // nothing is changed
  w(0, 1) = -std::numeric_limits<float>::infinity();  // stays what it is
  CHECK(fold_into_linear(w, {}, norm).weight(0, 1) == w(0, 1));

  const Eigen::MatrixXf next = Eigen::MatrixXf::Constant(2, 1, 2);
  const auto after = fold_into_next_linear(norm, next, {});
  CHECK(after.weight(1, 0) == Approx(3));
  CHECK(after.bias[1] == Approx(2 * (5 - 3)));
}

TEST_CASE("a scale beyond float may be folded into small weights", "[fold]") {
  Options options;
  options.eps = 1e-30;
  BatchNorm1d<float> norm(1, options);
  norm.gamma()[0] = 1e25f;
  norm.beta()[0] = 3;
  norm.running_mean()[0] = 1e-30f;
  norm.running_var()[0] = 0;  // a scale of 1e25 / 1e-15
  const Eigen::MatrixXf w = Eigen::MatrixXf::Constant(1, 1, 1e-20f);
  const Eigen::VectorXf b = Eigen::VectorXf::Constant(1, 2e-30f);
  const auto before = fold_into_linear(w, b, norm);
  CHECK(before.weight(0, 0) == Approx(1e20));
  CHECK(before.bias[0] == Approx(1e40 * (2e-30 - 1e-30) + 3));
  const auto after = fold_into_next_linear(norm, w, b);
  CHECK(after.weight(0, 0) == Approx(1e20));
  CHECK(after.bias[0] == Approx(-1e20 * 1e-30));
}

TEST_CASE("a linear layer with the batch norm before it folded in gives what both gave", "[fold]") {
  testing::Random random(4);
  const auto norm = random_norm<BatchNorm1d<double>>(4, random);
  BatchNorm1d<double> eval = norm;
  eval.eval();
  SECTION("with a feature for each channel") {
    Eigen::MatrixXd w(3, 4), x(7, 4);
    Eigen::VectorXd b(3);
    random.fill(w), random.fill(x), random.fill(b);
    const Eigen::MatrixXd expected = (eval.forward(x) * w.transpose()).rowwise() + b.transpose();
    const auto folded = fold_into_next_linear(norm, w, b);
    CHECK(((x * folded.weight.transpose()).rowwise() + folded.bias.transpose() - expected).norm() <
          1e-13);
    const auto turned = fold_into_next_linear(norm, w.transpose(), b, LinearLayout::in_out);
    CHECK(((x * turned.weight).rowwise() + turned.bias.transpose() - expected).norm() < 1e-13);
  }
  for (const ChannelAxis axis : {ChannelAxis::first, ChannelAxis::last}) {
    INFO("flattened images, channel " << (axis == ChannelAxis::first ? "first" : "last"));
    const bool last = axis == ChannelAxis::last;
    Options options;
    options.channel_axis = axis;
    BatchNorm1d<double> images(4, options);
    images.gamma() = norm.gamma(), images.beta() = norm.beta();
    images.running_mean() = norm.running_mean(), images.running_var() = norm.running_var();
    images.eval();
    Eigen::Tensor<double, 3, Eigen::RowMajor> x(5, last ? 6 : 4, last ? 4 : 6);
    Eigen::MatrixXd w(3, 24);
    random.fill(x), random.fill(w);
    using Rows = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
    const auto flat = [](const auto& t) { return Eigen::Map<const Rows>(t.data(), 5, 24); };
    const auto y = images.forward(x);
    const auto folded = fold_into_next_linear(images, w, {}, LinearLayout::out_in, axis);
    const Eigen::MatrixXd got =
        (flat(x) * folded.weight.transpose()).rowwise() + folded.bias.transpose();
    CHECK((got - flat(y) * w.transpose()).norm() < 1e-12);
  }
}

TEST_CASE("weights that do not fit are refused", "[fold]") {
  BatchNorm2d<float> norm(4);
  const Eigen::MatrixXf w = Eigen::MatrixXf::Ones(3, 4);
  const Eigen::Tensor<float, 4> images(3, 4, 5, 5);
  const auto refuse = [](const std::string& words, const auto& call) {
    check_throws<std::invalid_argument>({words}, call);
  };
  refuse(
      "[batchnorm::fold_into_linear] expected 4 output channels, as the batch norm has, got 3 in "
      "weights of (3, 4)",
      [&] { static_cast<void>(fold_into_linear(w, {}, norm)); });
  refuse("[batchnorm::fold_into_conv] expected 4 output channels, as the batch norm has, got 3 in",
         [&] { static_cast<void>(fold_into_conv(images, {}, norm)); });
  refuse("expected 4 output channels, as the batch norm has, got 25 in",
         [&] { static_cast<void>(fold_into_conv(images, {}, norm, ConvLayout::hwim)); });
  refuse(
      "[batchnorm::fold_into_transposed_conv] expected groups that divide 3 input channels, got 2",
      [&] { static_cast<void>(fold_into_transposed_conv(images, {}, norm, 2)); });
  refuse("expected groups that divide 3 input channels, got 0",
         [&] { static_cast<void>(fold_into_transposed_conv(images, {}, norm, 0)); });
  refuse("[batchnorm::fold_into_linear] expected a bias of length 4 or none, got 3", [&] {
    static_cast<void>(fold_into_linear(w.transpose(), Eigen::VectorXf::Ones(3), norm));
  });
  refuse(
      "[batchnorm::fold_into_next_linear] expected features of 4 channels, as the batch norm has, "
      "got 3 in weights of (4, 3)",
      [&] { static_cast<void>(fold_into_next_linear(norm, w.transpose(), {})); });
  refuse("expected features of 4 channels, as the batch norm has, got 0 in weights of (3, 0)",
         [&] { static_cast<void>(fold_into_next_linear(norm, Eigen::MatrixXf(3, 0), {})); });
  refuse("expected features of 0 channels, as the batch norm has, got 4 in weights of (3, 4)", [&] {
    static_cast<void>(fold_into_next_linear(batchnorm::ChannelAffine<float>(), w, {}));
  });
  refuse("[batchnorm::fold_into_next_linear] expected a bias of length 3 or none, got 4",
         [&] { static_cast<void>(fold_into_next_linear(norm, w, Eigen::VectorXf::Ones(4))); });
  norm.gamma()[2] = 1e30f;
  refuse("expected folded weights in the range of their type, got 9.99995e+38",
         [&] { static_cast<void>(fold_into_linear(w.transpose() * 1e9f, {}, norm.folded())); });
  Options options;
  options.track_running_stats = false;
  const BatchNorm2d<float> untracked(3, options);
  check_throws<std::logic_error>({"[BatchNorm2d::folded] expected running statistics"},
                                 [&] { static_cast<void>(fold_into_linear(w, {}, untracked)); });
}
