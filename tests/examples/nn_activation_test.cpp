// SPDX-License-Identifier: MIT
#include "activation.hpp"
#include "close.hpp"
#include "gradient_check.hpp"

TEST_CASE("sigmoid of 0 is a half, of ln 3 three quarters", "[nn]") {
  nn::Sigmoid<double> sigmoid;
  nn::Tensor<double> x(1, 3, 1, 1), y(1, 3, 1, 1);
  x.setValues({{{{0.0}}, {{std::log(3.0)}}, {{-std::log(3.0)}}}});
  sigmoid.forward(x, y);
  // 1 / (1 + e^-x): 1 / 2, 1 / (1 + 1/3), 1 / (1 + 3); a few roundings of double.
  REQUIRE(y(0, 0, 0, 0) == 0.5);
  REQUIRE(testing::close(y(0, 1, 0, 0), 0.75, 1e-14));
  REQUIRE(testing::close(y(0, 2, 0, 0), 0.25, 1e-14));
}

TEST_CASE("sigmoid in float is within a few roundings of the exact function", "[nn]") {
  nn::Sigmoid<float> sigmoid;
  nn::Tensor<float> x(1, 1, 1, 4001), y(1, 1, 1, 4001);
  for (int i = 0; i < 4001; ++i) x(0, 0, 0, i) = static_cast<float>(i - 2000) * 0.01F;
  sigmoid.forward(x, y);
  for (int i = 0; i < 4001; ++i) {
    const double exact = 1.0 / (1.0 + std::exp(-static_cast<double>(x(0, 0, 0, i))));
    REQUIRE(std::abs(static_cast<double>(y(0, 0, 0, i)) - exact) < 3e-7);  // 5 roundings at 1
  }
}

TEST_CASE("relu keeps what is positive and no more", "[nn]") {
  nn::Relu<float> relu;
  nn::Tensor<float> x(1, 1, 1, 4), y(1, 1, 1, 4), dy(1, 1, 1, 4), dx(1, 1, 1, 4);
  x.setValues({{{{-2.0F, 0.0F, 0.5F, 3.0F}}}});
  dy.setValues({{{{1.0F, 2.0F, 3.0F, 4.0F}}}});
  relu.forward(x, y);
  relu.backward(x, y, dy, &dx);
  const float expected_y[] = {0.0F, 0.0F, 0.5F, 3.0F};
  const float expected_dx[] = {0.0F, 0.0F, 3.0F, 4.0F};
  for (int i = 0; i < 4; ++i) {
    REQUIRE(y(0, 0, 0, i) == expected_y[i]);
    REQUIRE(dx(0, 0, 0, i) == expected_dx[i]);
  }
}

TEST_CASE("activations have the gradients of their functions", "[nn]") {
  nn::Random random(1);
  nn::Sigmoid<double> sigmoid;
  testing::check_gradients(
      sigmoid, testing::random_tensor(nn::Shape(3, 2, 4, 3), random, -3.0, 3.0), random);

  // No difference may straddle relu's corner.
  auto x = testing::random_tensor(nn::Shape(3, 2, 4, 3), random, 0.01, 1.0);
  for (nn::Index i = 0; i < x.size(); i += 2) x.data()[i] = -x.data()[i];
  nn::Relu<double> relu;
  testing::check_gradients(relu, x, random);
}
