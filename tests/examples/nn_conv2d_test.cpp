// SPDX-License-Identifier: MIT
#include "conv2d.hpp"
#include "gradient_check.hpp"

namespace {

nn::Conv2dOptions conv(nn::Index in, nn::Index out, nn::Index kernel, nn::Index padding,
                       bool bias = true) {
  nn::Conv2dOptions options;
  options.in_channels = in;
  options.out_channels = out;
  options.kernel = kernel;
  options.padding = padding;
  options.bias = bias;
  return options;
}

/// The definition, pixel by pixel. Weights in PyTorch's order (out, in, row, column).
double direct(const nn::Tensor<double>& x, const nn::Conv2dOptions& options,
              std::vector<nn::Parameter<double>>& parameters, nn::Index n, nn::Index out,
              nn::Index i, nn::Index j) {
  double sum = options.bias ? parameters[1].value[out] : 0.0;
  for (nn::Index c = 0; c < options.in_channels; ++c) {
    for (nn::Index ki = 0; ki < options.kernel; ++ki) {
      for (nn::Index kj = 0; kj < options.kernel; ++kj) {
        const nn::Index row = i + ki - options.padding;
        const nn::Index column = j + kj - options.padding;
        if (row < 0 || row >= x.dimension(2) || column < 0 || column >= x.dimension(3)) continue;
        const nn::Index w =
            ((out * options.in_channels + c) * options.kernel + ki) * options.kernel + kj;
        sum += parameters[0].value[w] * x(n, c, row, column);
      }
    }
  }
  return sum;
}

}  // namespace

TEST_CASE("convolution equals its definition for any kernel, padding and shape", "[nn]") {
  nn::Random random(1);
  const nn::Conv2dOptions cases[] = {conv(1, 6, 5, 2), conv(6, 16, 5, 0), conv(3, 4, 3, 1, false),
                                     conv(2, 3, 1, 0), conv(2, 1, 2, 1),  conv(1, 2, 3, 4)};
  for (const auto& options : cases) {
    nn::Conv2d<double> layer(options, random);
    auto parameters = layer.parameters();
    for (auto& parameter : parameters) {
      for (auto& value : parameter.value) value = random.uniform(-1.0, 1.0);
    }
    const auto x = testing::random_tensor(nn::Shape(3, options.in_channels, 7, 9), random);
    nn::Tensor<double> y(layer.output_shape(x.dimensions()));
    REQUIRE(y.dimension(2) == 7 + 2 * options.padding - options.kernel + 1);
    REQUIRE(y.dimension(3) == 9 + 2 * options.padding - options.kernel + 1);
    layer.forward(x, y);
    for (nn::Index n = 0; n < 3; ++n) {
      for (nn::Index out = 0; out < options.out_channels; ++out) {
        for (nn::Index i = 0; i < y.dimension(2); ++i) {
          for (nn::Index j = 0; j < y.dimension(3); ++j) {
            // Sums of up to 150 terms below 1: 150 roundings of 1e-16 at values up to about 10.
            const double expected = direct(x, options, parameters, n, out, i, j);
            REQUIRE(std::abs(y(n, out, i, j) - expected) < 1e-12);
          }
        }
      }
    }
  }
}

TEST_CASE("convolution of a written image by a written kernel", "[nn]") {
  nn::Random random(1);
  nn::Conv2d<float> layer(conv(1, 1, 2, 0), random);
  auto parameters = layer.parameters();
  parameters[0].value << 1.0F, 2.0F, 3.0F, 4.0F;
  parameters[1].value << 0.5F;
  nn::Tensor<float> x(1, 1, 2, 3), y(1, 1, 1, 2);
  x.setValues({{{{1.0F, 0.0F, 2.0F}, {0.0F, 3.0F, 1.0F}}}});
  layer.forward(x, y);
  REQUIRE(y(0, 0, 0, 0) == 13.5F);  // 1*1 + 2*0 + 3*0 + 4*3 + .5
  REQUIRE(y(0, 0, 0, 1) == 17.5F);  // 1*0 + 2*2 + 3*3 + 4*1 + .5
}

TEST_CASE("convolution has the gradients of its function", "[nn]") {
  nn::Random random(2);
  for (const auto& options : {conv(2, 3, 3, 1), conv(2, 3, 3, 0, false), conv(1, 2, 2, 2)}) {
    nn::Conv2d<double> layer(options, random);
    testing::check_gradients(
        layer, testing::random_tensor(nn::Shape(3, options.in_channels, 5, 4), random), random);
  }
}

TEST_CASE("convolution gives the same bits for any number of threads", "[nn]") {
  nn::Random random(3);
  nn::Conv2d<float> layer(conv(6, 16, 5, 0), random);
  nn::Tensor<float> x(37, 6, 14, 14);
  std::generate_n(x.data(), x.size(), [&] { return static_cast<float>(random.uniform(-1, 1)); });
  nn::Tensor<float> y(layer.output_shape(x.dimensions())), dx(x.dimensions());
  std::vector<nn::Vector<float>> first;
  for (const int threads : {1, 2, 3, 7}) {
    Eigen::ThreadPool pool(threads);
    const Eigen::ThreadPoolDevice device(&pool, threads);
    layer.set_device(threads == 1 ? nullptr : &device);
    auto parameters = layer.parameters();
    for (auto& parameter : parameters) parameter.grad.setZero();
    layer.forward(x, y);
    layer.backward(x, y, y, &dx);
    const std::vector<nn::Vector<float>> now{
        parameters[0].grad, parameters[1].grad,
        Eigen::Map<const nn::Vector<float>>(y.data(), y.size()),
        Eigen::Map<const nn::Vector<float>>(dx.data(), dx.size())};
    if (first.empty()) first = now;
    for (std::size_t i = 0; i < now.size(); ++i) REQUIRE(now[i] == first[i]);
  }
  layer.set_device(nullptr);
}

TEST_CASE("convolution refuses what does not fit", "[nn]") {
  nn::Random random(4);
  const nn::Conv2d<float> layer(conv(2, 3, 5, 1), random);
  REQUIRE_THROWS_AS(layer.output_shape(nn::Shape(1, 3, 8, 8)), std::invalid_argument);
  REQUIRE_THROWS_AS(layer.output_shape(nn::Shape(1, 2, 2, 8)), std::invalid_argument);
  REQUIRE(layer.output_shape(nn::Shape(1, 2, 3, 8)) == nn::Shape(1, 3, 1, 6));
}
