// SPDX-License-Identifier: MIT
#include "gradient_check.hpp"
#include "linear.hpp"

TEST_CASE("linear layer on written numbers", "[nn]") {
  nn::Random random(1);
  nn::Linear<double> layer(2, 3, true, random);
  auto parameters = layer.parameters();
  parameters[0].value << 1.0, 2.0, 3.0, 4.0, 5.0, 6.0;  // rows of W, one for each output
  parameters[1].value << 10.0, 20.0, 30.0;
  nn::Tensor<double> x(1, 2, 1, 1), y(1, 3, 1, 1);
  x.setValues({{{{1.0}}, {{-1.0}}}});
  layer.forward(x, y);
  REQUIRE(y(0, 0, 0, 0) == 9.0);   // 1 - 2 + 10
  REQUIRE(y(0, 1, 0, 0) == 19.0);  // 3 - 4 + 20
  REQUIRE(y(0, 2, 0, 0) == 29.0);  // 5 - 6 + 30
}

TEST_CASE("linear layer has the gradients of its function", "[nn]") {
  nn::Random random(2);
  for (const bool bias : {true, false}) {
    nn::Linear<double> layer(12, 5, bias, random);
    testing::check_gradients(layer, testing::random_tensor(nn::Shape(19, 3, 2, 2), random), random);
  }
}

TEST_CASE("linear layer refuses another number of features", "[nn]") {
  nn::Random random(3);
  const nn::Linear<float> layer(12, 5, true, random);
  REQUIRE_THROWS_AS(layer.output_shape(nn::Shape(4, 11, 1, 1)), std::invalid_argument);
  REQUIRE(layer.output_shape(nn::Shape(4, 3, 2, 2)) == nn::Shape(4, 5, 1, 1));
}
