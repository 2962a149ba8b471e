// SPDX-License-Identifier: MIT
#include "dropout.hpp"
#include "gradient_check.hpp"

TEST_CASE("dropout zeroes its share of the values and scales the others up", "[nn]") {
  nn::Random random(1);
  nn::Dropout<double> dropout(0.4, random);
  nn::Tensor<double> x(100, 100, 1, 1), y(100, 100, 1, 1);
  x.setConstant(3.0);
  dropout.forward(x, y);
  int zeros = 0;
  for (nn::Index i = 0; i < y.size(); ++i) {
    const bool dropped = y.data()[i] == 0.0;
    REQUIRE((dropped || std::abs(y.data()[i] - 5.0) < 1e-14));  // 3 / 0.6
    zeros += dropped ? 1 : 0;
  }
  // Of 10000 values 4000 are expected, with a deviation of sqrt(10000 * 0.4 * 0.6) = 49.
  REQUIRE(std::abs(zeros - 4000) < 5 * 49);
  nn::Tensor<double> again(100, 100, 1, 1);
  dropout.forward(x, again);
  REQUIRE(testing::dot(y, again) < testing::dot(y, y));  // other values are dropped
}

TEST_CASE("dropout's gradient is the factor that forward gave each value", "[nn]") {
  // Differences of forward would see another mask each time; y = x * mask is linear instead.
  nn::Random random(2);
  nn::Dropout<double> dropout(0.5, random);
  const auto x = testing::random_tensor(nn::Shape(5, 4, 3, 2), random, 0.5, 1.0);
  const auto dy = testing::random_tensor(nn::Shape(5, 4, 3, 2), random);
  nn::Tensor<double> y(x.dimensions()), dx(x.dimensions());
  dropout.forward(x, y);
  dropout.backward(x, y, dy, &dx);
  for (nn::Index i = 0; i < x.size(); ++i) {
    testing::require_close(dx.data()[i], dy.data()[i] * y.data()[i] / x.data()[i]);
  }
}

TEST_CASE("dropout in eval mode and with probability 0 changes nothing", "[nn]") {
  nn::Random random(3);
  nn::Dropout<double> none(0.0, random), half(0.5, random);
  half.train(false);
  for (auto* layer : {&none, &half}) {
    const auto x = testing::random_tensor(nn::Shape(4, 3, 2, 2), random);
    nn::Tensor<double> y(x.dimensions());
    layer->forward(x, y);
    REQUIRE(std::equal(x.data(), x.data() + x.size(), y.data()));
    testing::check_gradients(*layer, x, random);
  }
  REQUIRE_THROWS_AS(nn::Dropout<double>(1.0, random), std::invalid_argument);
}
