// SPDX-License-Identifier: MIT
#include "activation.hpp"
#include "batch_norm.hpp"
#include "gradient_check.hpp"
#include "linear.hpp"
#include "residual.hpp"

namespace {

nn::Residual<double> residual(nn::Random& random) {
  nn::Sequential<double> block;
  block.add<nn::BatchNorm1d<double>>(4);
  block.add<nn::Sigmoid<double>>();
  block.add<nn::Linear<double>>(4, 4, true, random);
  return nn::Residual<double>(std::move(block));
}

}  // namespace

TEST_CASE("a residual block of zero weights passes x on", "[nn]") {
  nn::Random random(1);
  auto layer = residual(random);
  REQUIRE(layer.parameters().size() == 4);  // gamma, beta, W, b
  for (auto& parameter : layer.parameters()) parameter.value.setZero();
  const auto x = testing::random_tensor(nn::Shape(3, 4, 1, 1), random);
  nn::Tensor<double> y(x.dimensions());
  layer.forward(x, y);
  REQUIRE(std::equal(x.data(), x.data() + x.size(), y.data()));
}

TEST_CASE("a residual block has the gradients of its function in both modes", "[nn]") {
  nn::Random random(2);
  auto layer = residual(random);
  for (const bool training : {true, false}) {
    layer.train(training);
    testing::check_gradients(layer, testing::random_tensor(nn::Shape(6, 4, 1, 1), random), random);
  }
}

TEST_CASE("a residual block refuses layers that change the shape", "[nn]") {
  nn::Random random(3);
  nn::Sequential<double> block;
  block.add<nn::Linear<double>>(4, 3, true, random);
  nn::Residual<double> layer(std::move(block));
  const auto x = testing::random_tensor(nn::Shape(2, 4, 1, 1), random);
  nn::Tensor<double> y(x.dimensions());
  REQUIRE_THROWS_AS(layer.forward(x, y), std::invalid_argument);
}
