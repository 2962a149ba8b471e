// SPDX-License-Identifier: MIT
// Measures how straight a sigmoid is after batch norm, and what gamma and beta are good for.
#include <batchnorm/batchnorm.hpp>
#include <cmath>
#include <cstdio>

using Eigen::ArrayXd, Eigen::ArrayXXd, Eigen::MatrixXd;

MatrixXd sigmoid(const MatrixXd& z) { return 1 / (1 + (-z).array().exp()); }

/// The share of y's variance that the best line in x explains, where points weigh p.
double r_squared(const ArrayXd& x, const ArrayXd& y, const ArrayXd& p) {
  const auto mean = [&](const ArrayXd& v) { return (p * v).sum() / p.sum(); };
  const ArrayXd dx = x - mean(x), dy = y - mean(y);
  return std::pow(mean(dx * dy), 2) / (mean(dx * dx) * mean(dy * dy));
}

batchnorm::Options with_affine(bool affine) {
  batchnorm::Options options;
  options.scale = options.shift = affine;
  options.eps = 1e-12;  // at 1e-5 a weight near 0 could scale x_hat a little
  return options;
}

/// Adam (Kingma and Ba, 2015) for one array of parameters theta with gradient g.
struct Adam {
  ArrayXXd m, v;
  double beta1_t = 1, beta2_t = 1;

  template <class Dense>
  void step(Dense& theta, const Dense& g, double rate = 0.003) {
    if (m.size() == 0) m = v = ArrayXXd::Zero(g.rows(), g.cols());
    m = 0.9 * m + 0.1 * g.array();
    v = 0.999 * v + 0.001 * g.array().square();
    beta1_t *= 0.9;
    beta2_t *= 0.999;
    theta.array() -= rate * m / (1 - beta1_t) / ((v / (1 - beta2_t)).sqrt() + 1e-8);
  }
};

/// Linear, batch norm, sigmoid.
struct Layer {
  MatrixXd w;  // (inputs, outputs)
  batchnorm::BatchNorm1d<double> bn;
  MatrixXd x, h, a;  // what the last forward was given, x * w, and what it returned
  Adam of_w, of_gamma, of_beta;

  Layer(int inputs, int outputs, bool affine)
      : w(inputs, outputs), bn(outputs, with_affine(affine)) {
    for (int i = 0; i < inputs * outputs; ++i) w(i) = std::sin(5.0 * i + inputs);
  }
  MatrixXd forward(const MatrixXd& input) {
    x = input;
    h = x * w;
    return a = sigmoid(bn.forward(h));
  }
  MatrixXd backward(const MatrixXd& da) {
    const MatrixXd dy = da.array() * a.array() * (1 - a.array());
    const MatrixXd dh = bn.backward(h, dy), dx = dh * w.transpose(), dw = x.transpose() * dh;
    of_w.step(w, dw);
    of_gamma.step(bn.gamma(), bn.grad_gamma());
    of_beta.step(bn.beta(), bn.grad_beta());
    bn.zero_grad();
    return dx;
  }
};

/// Fits t(x) with two such layers of 8 units and a linear one; returns R^2, the share of t's
/// variance that the net explains.
double fit(const MatrixXd& x, const MatrixXd& t, bool affine) {
  Layer first(1, 8, affine), second(8, 8, affine);
  MatrixXd w = MatrixXd::Zero(8, 1), c = MatrixXd::Zero(1, 1);
  Adam of_w, of_c;
  const double n = static_cast<double>(x.rows()), var = (t.array() - t.mean()).square().mean();
  double explained = 0;
  for (int step = 0; step <= 1000; ++step) {
    const MatrixXd a = second.forward(first.forward(x));
    const MatrixXd difference = (a * w).array() + c(0) - t.array();
    explained = 1 - difference.squaredNorm() / n / var;
    if (step == 10 || step == 100 || step == 1000)
      std::printf("%-7s gamma and beta, step %-5d         R^2 %.3f\n", affine ? "with" : "without",
                  step, explained);
    const MatrixXd dp = 2 * difference / n, dw = a.transpose() * dp;
    const MatrixXd dc = dp.colwise().sum(), da = dp * w.transpose();
    of_w.step(w, dw);
    of_c.step(c, dc);
    (void)first.backward(second.backward(da));
  }
  return explained;
}

int main() {
  const ArrayXd z = ArrayXd::LinSpaced(4001, -10, 10), p = (-z.square() / 2).exp();  // N(0, 1)
  double straight = 0;
  std::printf("R^2: the share of the variance that the best straight line, or the net, explains\n");
  std::printf("\na line through sigmoid(g * z), z ~ N(0, 1)\n");
  for (const double g : {1.0, 2.0, 4.0}) {
    const double r2 = r_squared(z, sigmoid(g * z).array(), p);
    if (g == 1) straight = r2;
    std::printf("g = %.0f        R^2 %.3f\n", g, r2);
  }
  std::printf("\na line through k layers of batch norm and sigmoid, without gamma and beta\n");
  ArrayXd a = z;
  double stacked = 0;
  for (int k = 1; k <= 8; ++k) {
    const double mu = (p * a).sum() / p.sum(), var = (p * (a - mu).square()).sum() / p.sum();
    a = sigmoid((a - mu) / std::sqrt(var + 1e-5)).array();
    stacked = r_squared(z, a, p);
    if (k == 1 || k == 2 || k == 4 || k == 8) std::printf("k = %d        R^2 %.3f\n", k, stacked);
  }

  // With one input, each unit of the first layer without gamma and beta is sigmoid(x_hat) or
  // 1 - sigmoid(x_hat), whatever its weight; so each of the second is one curve or its mirror image,
  // and the net is a line through that curve.
  const MatrixXd x = Eigen::VectorXd::LinSpaced(200, 0, 4), t = (3 * x.array()).sin();
  MatrixXd curve = x;
  for (int layer = 0; layer < 2; ++layer) {
    batchnorm::BatchNorm1d<double> bn(1, with_affine(false));
    curve = sigmoid(bn.forward(curve));
  }
  const double bound = r_squared(curve.array(), t.array(), ArrayXd::Ones(200));
  std::printf(
      "\nthe net linear, BN, sigmoid, linear, BN, sigmoid, linear is trained to fit sin(3 x)\n");
  const double off = fit(x, t, false), on = fit(x, t, true);
  std::printf("without gamma and beta, the best possible  R^2 %.3f\n", bound);
  std::printf(
      "\nVerdict: a line explains %.1f %% of a normalized sigmoid and %.1f %% of eight in a row, "
      "which are %s linear; without gamma and beta the net %s sin(3 x), with them it %s.\n",
      100 * straight, 100 * stacked, stacked > 0.95 ? "nearly" : "not nearly",
      off < bound + 1e-3 ? "cannot fit" : "CAN fit", on > 0.95 ? "can" : "CANNOT");
}
