// SPDX-License-Identifier: MIT
#include "batch_norm.hpp"
#include "conv3d.hpp"
#include "gradient_check.hpp"

namespace {

nn::Conv3dOptions options(nn::Index in, nn::Index out, nn::Index padding, nn::Index stride,
                          nn::Extent extent) {
  nn::Conv3dOptions result;
  result.in_channels = in;
  result.out_channels = out;
  result.kernel = 2;
  result.padding = padding;
  result.stride = stride;
  result.extent = extent;
  return result;
}

}  // namespace

TEST_CASE("a 3-D convolution sums weighted voxels", "[nn]") {
  nn::Random random(1);
  nn::Conv3d<double> conv(options(1, 1, 0, 1, {2, 2, 3}), random);
  auto parameters = conv.parameters();
  parameters[0].value << 1, 10, 100, 1000, 2, 20, 200, 2000;  // W(d, i, j)
  parameters[1].value << 0.5;
  nn::Tensor<double> x(1, 1, 2, 6), y(1, 1, 1, 2);
  x.setValues({{{{1, 2, 3, 4, 5, 6}, {7, 8, 9, 1, 2, 3}}}});
  REQUIRE(conv.output_shape(x.dimensions()) == nn::Shape(1, 1, 1, 2));
  conv.forward(x, y);
  // 1 * 1 + 2 * 10 + 4 * 100 + 5 * 1000 + 7 * 2 + 8 * 20 + 1 * 200 + 2 * 2000 + 0.5
  REQUIRE(y(0, 0, 0, 0) == 9795.5);
  // 2 * 1 + 3 * 10 + 5 * 100 + 6 * 1000 + 8 * 2 + 9 * 20 + 2 * 200 + 3 * 2000 + 0.5
  REQUIRE(y(0, 0, 0, 1) == 13128.5);
}

TEST_CASE("stride and padding place the kernel as they should", "[nn]") {
  nn::Random random(2);
  nn::Conv3d<double> conv(options(1, 1, 1, 2, {2, 2, 2}), random);
  auto parameters = conv.parameters();
  parameters[0].value.setOnes();
  nn::Tensor<double> x(1, 1, 2, 4), y(1, 1, 2, 4);
  x.setValues({{{{1, 2, 3, 4}, {5, 6, 7, 8}}}});
  REQUIRE(conv.output_shape(x.dimensions()) == y.dimensions());
  conv.forward(x, y);
  // With padding 1 and stride 2 each of the 8 windows of 2 x 2 x 2 sees one corner of the volume.
  for (int i = 0; i < 8; ++i) REQUIRE(y.data()[i] == x.data()[i]);
}

TEST_CASE("a 3-D convolution has the gradients of its function", "[nn]") {
  nn::Random random(3);
  for (const nn::Index stride : {1, 2}) {
    nn::Conv3d<double> conv(options(2, 3, 1, stride, {3, 2, 4}), random);
    testing::check_gradients(conv, testing::random_tensor(nn::Shape(3, 2, 3, 8), random), random);
  }
}

TEST_CASE("a 3-D convolution refuses volumes of another extent", "[nn]") {
  nn::Random random(4);
  const nn::Conv3d<double> conv(options(2, 3, 1, 1, {3, 2, 4}), random);
  REQUIRE_THROWS_AS(conv.output_shape(nn::Shape(1, 2, 3, 9)), std::invalid_argument);
  REQUIRE_THROWS_AS(conv.output_shape(nn::Shape(1, 1, 3, 8)), std::invalid_argument);
  REQUIRE_THROWS_AS(nn::Conv3d<double>(options(1, 1, 0, 1, {1, 4, 4}), random),
                    std::invalid_argument);
}

TEST_CASE("batch norm over volumes has the gradients of its function in both modes", "[nn]") {
  nn::Random random(5);
  nn::BatchNorm3d<double> norm(3);
  for (const bool training : {true, false}) {
    norm.train(training);
    testing::check_gradients(norm, testing::random_tensor(nn::Shape(4, 3, 2, 4), random), random);
  }
  const auto x = testing::random_tensor(nn::Shape(4, 3, 2, 4), random);
  nn::Tensor<double> y(x.dimensions());
  norm.train(true);
  norm.forward(x, y);
  for (int c = 0; c < 3; ++c) {
    double sum = 0.0;
    for (int n = 0; n < 4; ++n) {
      for (int i = 0; i < 8; ++i) sum += y(n, c, i / 4, i % 4);
    }
    REQUIRE(std::abs(sum) < 1e-13);  // 32 values of about 1, each with a few roundings
  }
}
