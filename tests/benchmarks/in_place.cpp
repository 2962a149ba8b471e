// SPDX-License-Identifier: MIT
// What training in place saves on ConvBNNet, the examples' network; feature.sh builds and runs it.
// Prints a Markdown table of what lies on the heap after a training step, and of a step's time.
#define EIGEN_USE_THREADS
#include <malloc.h>

#include <batchnorm/extras/in_place.hpp>
#include <cstdio>
#include <functional>

#include "in_turn.hpp"
#include "models.hpp"

namespace {

using nn::Index;
using nn::Shape;
using Tensor = nn::Tensor<float>;

/// Convolution, batch norm and leaky ReLU as one layer with one output.
class ConvInPlace final : public nn::Layer<float> {
 public:
  ConvInPlace(const nn::Conv2dOptions& options, nn::Random& random)
      : conv_(options, random), norm_(options.out_channels), in_place_(norm_, {0.01}) {}
  ConvInPlace(const ConvInPlace&) = delete;
  ConvInPlace& operator=(const ConvInPlace&) = delete;

  [[nodiscard]] Shape output_shape(const Shape& x) const override { return conv_.output_shape(x); }

  void forward(const Tensor& x, Tensor& y) override {
    conv_.forward(x, y);
    in_place_.forward(y);
  }
  void backward(const Tensor& x, const Tensor& y, const Tensor& dy, Tensor* dx) override {
    auto& mine = const_cast<Tensor&>(y);  // this layer's own output, which nobody reads after it
    auto& dz = const_cast<Tensor&>(dy);   // and whose gradient nobody does
    in_place_.backward(mine, dz, dz);
    conv_.backward(x, mine, dz, dx);
  }

 private:
  nn::Conv2d<float> conv_;
  batchnorm::BatchNorm2d<float> norm_;
  batchnorm::InPlace<batchnorm::LeakyRelu, float, 2> in_place_;
};

nn::Sequential<float> in_place_net(nn::Random& random) {
  nn::Sequential<float> model;
  nn::Conv2dOptions conv1;
  conv1.out_channels = 32, conv1.kernel = 3, conv1.padding = 1;
  model.add<ConvInPlace>(conv1, random);
  model.add<nn::MaxPool2d<float>>();
  nn::Conv2dOptions conv2;
  conv2.in_channels = 32, conv2.out_channels = 64, conv2.kernel = 3, conv2.padding = 1;
  model.add<ConvInPlace>(conv2, random);
  model.add<nn::MaxPool2d<float>>();
  model.add<nn::Linear<float>>(3136, 10, true, random);
  return model;
}

double megabytes_in_use() {
  const auto info = mallinfo2();
  return static_cast<double>(info.uordblks + info.hblkhd) / 1e6;
}

struct Memory {
  double after_forward, after_backward;
};
Memory measure(nn::Sequential<float>& model, const Tensor& x, const Tensor& dy) {
  const double before = megabytes_in_use();
  model.forward(x);
  const double after_forward = megabytes_in_use() - before;
  model.backward(x, dy);
  return {after_forward, megabytes_in_use() - before};
}

}  // namespace

int main() {
  std::printf(
      "| batch | activations kept | in place | with gradients | in place | a step, in place |\n"
      "|---|---|---|---|---|---|\n");
  for (const Index batch : {16, 64, 256}) {
    nn::Random random(1);
    Tensor x(batch, 1, 28, 28), dy(batch, 10, 1, 1);
    x.setRandom();
    dy.setRandom();
    auto plain = nn::conv_bn_net<float>({}, random), in_place = in_place_net(random);
    const Memory a = measure(plain, x, dy), b = measure(in_place, x, dy);
    const auto step = [&](nn::Sequential<float>& model) {
      return [&] {
        model.forward(x);
        model.backward(x, dy);
      };
    };
    const auto times = bench::in_turn({step(plain), step(in_place)}, {11, 5e-2, {}});
    std::printf("| %td | %.1f MB | %.1f MB | %.1f MB | %.1f MB | %.2f x |\n", batch,
                a.after_forward, b.after_forward, a.after_backward, b.after_backward,
                bench::median(bench::ratios(times[1], times[0])));
  }
}
