// SPDX-License-Identifier: MIT
#include <numeric>
#include <vector>

#include "gradient_check.hpp"
#include "pool.hpp"

namespace {

/// Values 0, 0.1, 0.2, ... in random order: no two are near enough for a difference to swap them.
nn::Tensor<double> distinct(const nn::Shape& shape, nn::Random& random) {
  nn::Tensor<double> t(shape);
  std::vector<double> values(static_cast<std::size_t>(t.size()));
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = 0.1 * static_cast<double>(i);
  random.shuffle(values);
  std::copy(values.begin(), values.end(), t.data());
  return t;
}

struct Pooled {
  nn::Tensor<float> y{1, 1, 1, 2};
  nn::Tensor<float> dx{1, 1, 2, 4};
};

template <class Pool>
Pooled pool_written_numbers() {
  Pool pool;
  Pooled result;
  nn::Tensor<float> x(1, 1, 2, 4), dy(1, 1, 1, 2);
  x.setValues({{{{1.0F, 2.0F, 7.0F, 7.0F}, {5.0F, 6.0F, 3.0F, 7.0F}}}});
  dy.setValues({{{{4.0F, 8.0F}}}});
  pool.forward(x, result.y);
  pool.backward(x, result.y, dy, &result.dx);
  return result;
}

}  // namespace

TEST_CASE("average pooling on written numbers", "[nn]") {
  const auto [y, dx] = pool_written_numbers<nn::AvgPool2d<float>>();
  REQUIRE(y(0, 0, 0, 0) == 3.5F);                                             // (1 + 2 + 5 + 6) / 4
  REQUIRE(y(0, 0, 0, 1) == 6.0F);                                             // (7 + 7 + 3 + 7) / 4
  const float expected[] = {1.0F, 1.0F, 2.0F, 2.0F, 1.0F, 1.0F, 2.0F, 2.0F};  // dy / 4
  for (int i = 0; i < 8; ++i) REQUIRE(dx.data()[i] == expected[i]);
}

TEST_CASE("max pooling on written numbers, where the first of equals takes the gradient", "[nn]") {
  const auto [y, dx] = pool_written_numbers<nn::MaxPool2d<float>>();
  REQUIRE(y(0, 0, 0, 0) == 6.0F);
  REQUIRE(y(0, 0, 0, 1) == 7.0F);
  const float expected[] = {0.0F, 0.0F, 8.0F, 0.0F, 0.0F, 4.0F, 0.0F, 0.0F};
  for (int i = 0; i < 8; ++i) REQUIRE(dx.data()[i] == expected[i]);
}

TEST_CASE("pooling has the gradients of its function, odd sizes included", "[nn]") {
  nn::Random random(1);
  nn::AvgPool2d<double> average;
  nn::MaxPool2d<double> max;
  for (const auto& shape : {nn::Shape(2, 3, 4, 6), nn::Shape(2, 3, 5, 4), nn::Shape(1, 2, 4, 3)}) {
    testing::check_gradients(average, distinct(shape, random), random);
    testing::check_gradients(max, distinct(shape, random), random);
  }
}

TEST_CASE("pooling refuses images smaller than its window", "[nn]") {
  const nn::MaxPool2d<float> pool;
  REQUIRE_THROWS_AS(pool.output_shape(nn::Shape(1, 1, 1, 4)), std::invalid_argument);
  REQUIRE(pool.output_shape(nn::Shape(1, 1, 3, 5)) == nn::Shape(1, 1, 1, 2));
}
