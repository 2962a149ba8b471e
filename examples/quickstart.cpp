// SPDX-License-Identifier: MIT
// Learns which points lie inside a circle: linear, batch norm, sigmoid, linear, sigmoid.
#include <batchnorm/batchnorm.hpp>
#include <cmath>
#include <cstdio>
using Eigen::MatrixXf;

MatrixXf sigmoid(const MatrixXf& z) { return 1 / (1 + (-z).array().exp()); }
int main() {
  const int n = 200, hidden = 16;
  MatrixXf x(n, 2), inside(n, 1), w1(2, hidden), w2(hidden, 1);
  for (int i = 0; i < n; ++i) {
    x.row(i) << std::sin(1.3f * float(i)), std::cos(2.9f * float(i));
    inside(i) = (x.row(i).array() - 0.2f).matrix().norm() < 0.8f;
  }
  for (int j = 0; j < hidden; ++j) {
    w1.col(j) << std::sin(5.f * float(j)), std::cos(7.f * float(j));
    w2(j) = std::sin(3.f * float(j));
  }
  batchnorm::BatchNorm1d<float> bn(hidden);  // gamma 1, beta 0, training mode
  for (int step = 0; step <= 400; ++step) {
    const MatrixXf h = x * w1;
    const MatrixXf a = sigmoid(bn.forward(h));  // by the batch's mean and variance
    const MatrixXf p = sigmoid(a * w2);
    const MatrixXf du = (p - inside) / n;  // of the cross entropy by u = a * w2
    const MatrixXf dz = (du * w2.transpose()).array() * a.array() * (1 - a.array());
    const MatrixXf dh = bn.backward(h, dz);  // adds to grad_gamma() and grad_beta()
    const float loss = -(1 - inside.array() - p.array()).abs().log().mean();
    if (step % 100 == 0) std::printf("step %3d  loss %.2f\n", step, loss);
    w2 -= 5 * a.transpose() * du;
    w1 -= 5 * x.transpose() * dh;
    bn.gamma() -= 5 * bn.grad_gamma();
    bn.beta() -= 5 * bn.grad_beta();
    bn.zero_grad();
  }
  bn.eval();  // from here on, by the running mean and variance
  const MatrixXf p = sigmoid(sigmoid(bn.forward(x * w1)) * w2);
  std::printf("right: %d of %d\n", int(((p - inside).array().abs() < 0.5f).count()), n);
}
