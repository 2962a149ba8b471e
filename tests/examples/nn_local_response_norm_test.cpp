// SPDX-License-Identifier: MIT
#include "close.hpp"
#include "gradient_check.hpp"
#include "local_response_norm.hpp"

namespace {

/// Strong enough that every term of the gradient counts.
nn::LocalResponseNormOptions strong() {
  nn::LocalResponseNormOptions options;
  options.window = 3;
  options.k = 1.0;
  options.alpha = 0.5;
  options.beta = 1.0;
  return options;
}

}  // namespace

TEST_CASE("local response norm divides by the neighbours' squares", "[nn]") {
  nn::LocalResponseNorm<double> layer(strong());
  nn::Tensor<double> x(1, 4, 1, 1), y(1, 4, 1, 1);
  x.setValues({{{{1.0}}, {{2.0}}, {{3.0}}, {{4.0}}}});
  layer.forward(x, y);
  // 1 / (1 + (1 + 4) / 2), 2 / (1 + (1 + 4 + 9) / 2), 3 / (1 + (4 + 9 + 16) / 2), 4 / (1 + 25 / 2)
  const double expected[] = {1.0 / 3.5, 2.0 / 8.0, 3.0 / 15.5, 4.0 / 13.5};
  for (int c = 0; c < 4; ++c) REQUIRE(testing::close(y(0, c, 0, 0), expected[c], 1e-14));
}

TEST_CASE("local response norm has AlexNet's constants by default", "[nn]") {
  nn::LocalResponseNorm<double> layer;
  nn::Tensor<double> x(1, 1, 1, 1), y(1, 1, 1, 1);
  x.setConstant(100.0);
  layer.forward(x, y);
  REQUIRE(testing::close(y(0, 0, 0, 0), 100.0 * std::pow(3.0, -0.75), 1e-13));  // 2 + 1e-4 * 1e4
}

TEST_CASE("local response norm has the gradient of its function", "[nn]") {
  nn::Random random(1);
  nn::LocalResponseNorm<double> layer(strong());
  testing::check_gradients(layer, testing::random_tensor(nn::Shape(3, 6, 2, 2), random, -2.0, 2.0),
                           random);
}
