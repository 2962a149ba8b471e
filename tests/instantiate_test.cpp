// SPDX-License-Identifier: MIT
// Every class template and every member function of it compiles for every scalar, used or not.

#include <batchnorm/batchnorm.hpp>
#include <type_traits>
#include <unsupported/Eigen/CXX11/Tensor>
#include <utility>

#include "support/catch.hpp"

template class batchnorm::BatchNorm<float, 1>;
template class batchnorm::BatchNorm<float, 2>;
template class batchnorm::BatchNorm<float, 3>;
template class batchnorm::BatchNorm<double, 1>;
template class batchnorm::BatchNorm<double, 2>;
template class batchnorm::BatchNorm<double, 3>;
template class batchnorm::BatchNorm<Eigen::half, 1>;
template class batchnorm::BatchNorm<Eigen::half, 2>;
template class batchnorm::BatchNorm<Eigen::half, 3>;
template class batchnorm::BatchNorm<Eigen::bfloat16, 1>;
template class batchnorm::BatchNorm<Eigen::bfloat16, 2>;
template class batchnorm::BatchNorm<Eigen::bfloat16, 3>;
template struct batchnorm::ChannelAffine<float>;
template struct batchnorm::ChannelAffine<double>;

namespace {

using batchnorm::BatchNorm1d;
using batchnorm::BatchNorm2d;
using batchnorm::BatchNorm3d;
using batchnorm::Options;

// Parameters of half and bfloat16 layers are float.
static_assert(std::is_same_v<BatchNorm2d<float>::Param, float>);
static_assert(std::is_same_v<BatchNorm2d<double>::Param, double>);
static_assert(std::is_same_v<BatchNorm2d<Eigen::half>::Param, float>);
static_assert(std::is_same_v<BatchNorm2d<Eigen::bfloat16>::Param, float>);

// What the members return, on a layer and on a const one.
template <class Layer>
constexpr bool has_the_promised_members() {
  using Vector = Eigen::Matrix<typename Layer::Param, Eigen::Dynamic, 1>;
  const auto pair = [](auto of, auto of_const) {
    return std::is_same_v<decltype(of(std::declval<Layer&>())), Vector&> &&
           std::is_same_v<decltype(of_const(std::declval<const Layer&>())), const Vector&>;
  };
#define BOTH(member)                                          \
  pair([](Layer& l) -> decltype(auto) { return l.member(); }, \
       [](const Layer& l) -> decltype(auto) { return l.member(); })
  static_assert(BOTH(gamma) && BOTH(beta) && BOTH(grad_gamma) && BOTH(grad_beta) &&
                BOTH(running_mean) && BOTH(running_var));
#undef BOTH
  using Const = const Layer&;
  static_assert(
      std::is_same_v<decltype(std::declval<Const>().num_batches_tracked()), std::int64_t>);
  static_assert(std::is_same_v<decltype(std::declval<Const>().num_features()), Eigen::Index>);
  static_assert(std::is_same_v<decltype(std::declval<Const>().is_training()), bool>);
  static_assert(std::is_same_v<std::decay_t<decltype(std::declval<Const>().options())>, Options>);
  static_assert(std::is_same_v<decltype(std::declval<Const>().folded()),
                               batchnorm::ChannelAffine<typename Layer::Param>>);
  static_assert(std::is_copy_constructible_v<Layer> && std::is_copy_assignable_v<Layer> &&
                std::is_move_constructible_v<Layer> && std::is_move_assignable_v<Layer>);
  static_assert(!std::is_convertible_v<Eigen::Index, Layer>);  // explicit
  static_assert(!std::is_constructible_v<Layer, Eigen::Index, double, double>);
  static_assert(!std::is_constructible_v<Layer, Eigen::Index, double>);
  static_assert(!std::is_constructible_v<Layer, Eigen::Index, float>);
  static_assert(!std::is_constructible_v<Layer, Eigen::Index, int>);
  return true;
}
static_assert(has_the_promised_members<BatchNorm1d<float>>());
static_assert(has_the_promised_members<BatchNorm2d<double>>());
static_assert(has_the_promised_members<BatchNorm3d<Eigen::half>>());
static_assert(has_the_promised_members<BatchNorm2d<Eigen::bfloat16>>());

// Options are an aggregate, which a momentum alone must say which way it weighs.
static_assert(std::is_aggregate_v<Options>);
static_assert(!std::is_assignable_v<decltype((std::declval<Options&>().momentum)), double>);
static_assert(std::is_aggregate_v<batchnorm::ChannelAffine<float>>);

/// Every member once, the templates too.
template <class Layer, class X>
void use_all(X x) {
  x.setConstant(typename X::Scalar(1));
  x.data()[0] = typename X::Scalar(2);
  Layer layer(2);
  X y = layer.forward(x), dx = layer.backward(x, y);
  layer.forward(x, y);
  layer.backward(x, y, dx);
  const auto saved = layer.saved();
  dx = layer.backward(saved, x, y);
  layer.backward(saved, x, y, dx);
  CHECK(saved.count == x.size() / 2);
  CHECK(saved.mean.size() == 2);
  CHECK(saved.var.size() == 2);
  CHECK(saved.inv_std.size() == 2);
  layer.train();
  CHECK(layer.is_training());
  layer.train(false);
  CHECK_FALSE(layer.is_training());
  layer.train(true);
  CHECK(layer.is_training());
  layer.eval();
  CHECK_FALSE(layer.is_training());
  const Layer& shared = layer;
  y = shared.infer(x);
  shared.infer(x, y);
  CHECK(layer.num_batches_tracked() == 2);
  layer.set_momentum(batchnorm::Momentum::cumulative());
  layer.set_device(nullptr);
  CHECK(layer.folded().scale.size() == 2);
  layer.zero_grad();
  layer.reset_parameters();
  layer.reset_running_stats();
  CHECK(layer.num_batches_tracked() == 0);
  CHECK(layer.num_features() == 2);
  CHECK(layer.options().momentum.is_cumulative());
}

}  // namespace

TEMPLATE_TEST_CASE("every member of every layer works for every scalar", "[instantiate]", float,
                   double, Eigen::half, Eigen::bfloat16) {
  use_all<BatchNorm1d<TestType>>(Eigen::Matrix<TestType, Eigen::Dynamic, Eigen::Dynamic>(4, 2));
  use_all<BatchNorm1d<TestType>>(Eigen::Tensor<TestType, 3>(4, 2, 3));
  use_all<BatchNorm2d<TestType>>(Eigen::Tensor<TestType, 4, Eigen::RowMajor>(4, 2, 3, 2));
  use_all<BatchNorm3d<TestType>>(Eigen::Tensor<TestType, 5>(4, 2, 3, 2, 2));
}

TEST_CASE("a layer starts in training mode with gamma 1, beta 0, mean 0 and variance 1",
          "[instantiate]") {
  const BatchNorm2d<float> layer(3);
  const Eigen::Vector3f zeros = Eigen::Vector3f::Zero(), ones = Eigen::Vector3f::Ones();
  CHECK(layer.is_training());
  CHECK(layer.num_features() == 3);
  CHECK(layer.num_batches_tracked() == 0);
  CHECK(layer.gamma() == ones);
  CHECK(layer.beta() == zeros);
  CHECK(layer.grad_gamma() == zeros);
  CHECK(layer.grad_beta() == zeros);
  CHECK(layer.running_mean() == zeros);
  CHECK(layer.running_var() == ones);
}

TEST_CASE("{} in the place of options stands for the default options", "[instantiate]") {
  const BatchNorm2d<float> layer(64, {});
  CHECK(layer.num_features() == 64);
  CHECK(layer.options().eps == Options().eps);
  CHECK(layer.options().momentum == Options().momentum);
  CHECK(layer.gamma().size() == 64);
  CHECK(BatchNorm1d<double>(3, {}).running_var() == Eigen::Vector3d::Ones());
}

TEST_CASE("what an option switches off has length 0", "[instantiate]") {
  Options options;
  options.scale = options.shift = options.track_running_stats = false;
  const BatchNorm2d<float> layer(3, options);
  for (const auto* v : {&layer.gamma(), &layer.beta(), &layer.grad_gamma(), &layer.grad_beta(),
                        &layer.running_mean(), &layer.running_var()}) {
    CHECK(v->size() == 0);
  }
  options.shift = true;
  const BatchNorm2d<float> shifting(3, options);
  CHECK(shifting.gamma().size() == 0);
  CHECK(shifting.grad_gamma().size() == 0);
  CHECK(shifting.beta().size() == 3);
  CHECK(shifting.grad_beta().size() == 3);
}

TEST_CASE("empty braces stand for the default options", "[instantiate]") {
  const BatchNorm2d<float> layer(64, {});
  CHECK(layer.num_features() == 64);
  CHECK(layer.options().eps == 1e-5);
}

TEST_CASE("saved() holds the population variance, in eval mode the running variance",
          "[instantiate]") {
  Eigen::MatrixXd x(4, 2);
  x << 1, 10, 2, 10, 3, 10, 6, 10;
  BatchNorm1d<double> layer(2);
  static_cast<void>(layer.forward(x));
  CHECK(layer.saved().mean == Eigen::Vector2d(3, 10));
  CHECK(layer.saved().var == Eigen::Vector2d(3.5, 0));
  CHECK(layer.saved().batch_statistics);
  layer.eval();
  layer.running_var() << 4, 9;
  static_cast<void>(layer.forward(x));
  CHECK(layer.saved().var == Eigen::Vector2d(4, 9));
  CHECK(layer.saved().mean == layer.running_mean());
  CHECK_FALSE(layer.saved().batch_statistics);
}

TEST_CASE("with eps 0 a constant channel gives beta and no gradient, others are as ever",
          "[instantiate]") {
  Options options;
  options.eps = 0;
  BatchNorm1d<float> layer(2, options);
  layer.gamma() << 2, 3;
  layer.beta() << -1, 5;
  Eigen::MatrixXf x(2, 2), dy(2, 2);
  x << 1, 7, 3, 7;
  dy << 1, 2, 4, 3;
  const Eigen::MatrixXf y = layer.forward(x);
  CHECK(y.col(0) == Eigen::Vector2f(-3, 1));
  CHECK(y.col(1) == Eigen::Vector2f(5, 5));
  CHECK(layer.saved().inv_std == Eigen::Vector2d(1, 0));
  const Eigen::MatrixXf dx = layer.backward(x, dy);
  CHECK(dx == Eigen::MatrixXf::Zero(2, 2));  // two values determine x_hat: -1 and 1
  CHECK(layer.grad_gamma() == Eigen::Vector2f(3, 0));
  CHECK(layer.grad_beta() == Eigen::Vector2f(5, 5));
  layer.running_var() << 0, 4;
  layer.running_mean() << 1, 3;
  layer.eval();
  CHECK(layer.forward(x).col(0) == Eigen::Vector2f(-1, -1));
  CHECK(layer.infer(x).col(1) == Eigen::Vector2f(11, 11));
  CHECK(layer.folded().scale == Eigen::Vector2f(0, 1.5f));
}
