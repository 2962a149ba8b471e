// SPDX-License-Identifier: MIT
// Shows what a batch of one sample learns, and why one image of 10 x 10 pixels is not such a batch.
#include <batchnorm/batchnorm.hpp>
#include <cmath>
#include <cstdio>
#include <exception>
#include <unsupported/Eigen/CXX11/Tensor>

using batchnorm::BatchNorm1d, batchnorm::BatchNorm2d, batchnorm::Options, batchnorm::SingleValue;
using Eigen::MatrixXd, Eigen::RowVector3d;
using Pixels = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

void print(const char* what, const MatrixXd& v) {
  std::printf("%-28s %8.4f %8.4f %8.4f\n", what, v(0), v(1), v(2));
}

BatchNorm1d<double> layer_that(SingleValue single_value) {
  Options options;
  options.single_value = single_value;
  BatchNorm1d<double> bn(3, options);
  bn.gamma() << 2, 3, 4;
  bn.beta() << 0.1, 0.2, 0.3;
  return bn;
}

/// One sample with three features, under SingleValue::accept: is y = beta, are dx and dgamma 0?
bool learns_nothing(const RowVector3d& x, const RowVector3d& dy) {
  BatchNorm1d<double> bn = layer_that(SingleValue::accept);
  const RowVector3d y = bn.forward(x), dx = bn.backward(x, dy);
  print("accept: x - mean", x - bn.saved().mean.transpose());
  print("  y", y);
  print("  beta", bn.beta());
  print("  dx", dx);
  print("  dgamma", bn.grad_gamma());
  print("  dbeta, which is dy", bn.grad_beta());
  return y == bn.beta().transpose() && dx.isZero(0) && bn.grad_gamma().isZero(0);
}

/// The default; returns whether it refuses the sample.
bool refuses(const RowVector3d& x) {
  BatchNorm1d<double> bn = layer_that(SingleValue::reject);
  try {
    print("reject: y", bn.forward(x));
    return false;
  } catch (const std::exception& error) {
    std::printf("reject: %s\n", error.what());
    return true;
  }
}

/// Normalizes with what an earlier batch left.
void use_running(const RowVector3d& x, const RowVector3d& dy) {
  BatchNorm1d<double> bn = layer_that(SingleValue::use_running);
  (void)bn.forward(MatrixXd{{0, 0, 0}, {2, 4, 6}});
  print("use_running: y", bn.forward(x));
  print("  by hand", (bn.gamma().array() * (x.transpose() - bn.running_mean()).array() /
                          (bn.running_var().array() + 1e-5).sqrt() +
                      bn.beta().array())
                         .matrix());
  print("  dx", bn.backward(x, dy));
}

MatrixXd sigmoid(const MatrixXd& z) { return 1 / (1 + (-z).array().exp()); }

/// Learns which pixels of one image lie in a circle: a 1 x 1 convolution of their coordinates to 128
/// channels, BN of (1, 128, 10, 10), sigmoid, a 1 x 1 convolution to one channel, sigmoid. Returns
/// how many of the 100 pixels are right.
int pixels_right_after_training() {
  const int channels = 128, n = 100;  // n = H * W values per channel
  MatrixXd position(2, n), inside(1, n), w1(channels, 2), w2(1, channels);
  for (int i = 0; i < n; ++i) {
    position.col(i) << i % 10 - 4.5, i / 10 - 4.5;
    inside(i) = position.col(i).norm() < 3.6 ? 1 : 0;
  }
  for (int c = 0; c < channels; ++c) {
    w1.row(c) << std::sin(5.0 * c), std::cos(7.0 * c);
    w2(c) = std::sin(3.0 * c);
  }
  BatchNorm2d<double> bn(channels);  // by default: it would refuse one value per channel
  Eigen::Tensor<double, 4, Eigen::RowMajor> h(1, channels, 10, 10), y = h, dy = h, dh = h;
  const auto matrix = [](auto& image) { return Eigen::Map<Pixels>(image.data(), channels, n); };
  int right = 0;
  std::printf("\none image, (1, 128, 10, 10)\nstep      loss   pixels right\n");
  for (int step = 0; step <= 1000; ++step) {
    matrix(h) = w1 * position;
    bn.forward(h, y);
    const MatrixXd a = sigmoid(matrix(y)), p = sigmoid(w2 * a);
    const MatrixXd dp = (p - inside) / n;  // of the cross entropy
    matrix(dy) = (w2.transpose() * dp).array() * a.array() * (1 - a.array());
    bn.backward(h, dy, dh);
    const double loss = -(1 - inside.array() - p.array()).abs().log().mean();
    right = static_cast<int>(((p - inside).array().abs() < 0.5).count());
    if (step % 200 == 0) std::printf("%-6d %7.3f   %d of %d\n", step, loss, right, n);
    const double rate = 0.2;
    w2 -= rate * dp * a.transpose();
    w1 -= rate * matrix(dh) * position.transpose();
    bn.gamma() -= rate * bn.grad_gamma();
    bn.beta() -= rate * bn.grad_beta();
    bn.zero_grad();
  }
  return right;
}

int main() {
  const RowVector3d x(5, -7, 1000), dy(1, 2, 3);
  std::printf("one sample of three features, under each value of Options::single_value\n");
  print("x", x);
  print("dy", dy);
  const bool nothing = learns_nothing(x, dy), refused = refuses(x);
  use_running(x, dy);
  const int right = pixels_right_after_training();
  std::printf(
      "\nVerdict: from a batch of one, the layers before batch norm %s, and by default batch norm "
      "%s it; one image of 100 pixels %s: %d of 100 pixels right.\n",
      nothing ? "learn nothing" : "DO learn", refused ? "refuses" : "ACCEPTS",
      right > 95 ? "trains well" : "does NOT train well", right);
}
