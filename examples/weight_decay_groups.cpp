// SPDX-License-Identifier: MIT
// Decays a net with batch norm in parameter groups, by SGD and Adam, as a penalty and in the step.
#include <algorithm>
#include <batchnorm/batchnorm.hpp>
#include <cmath>
#include <cstdio>
#include <random>

using Eigen::ArrayXXd, Eigen::MatrixXd, Eigen::VectorXd;

enum class Optimizer { sgd, adam };
enum class Decay {
  penalty,
  step
};  // lambda / 2 * |theta|^2 in the loss, or theta *= 1 - rate * lambda

struct Way {
  const char* name;
  Optimizer optimizer;
  Decay decay;
  double weights, others;  // lambda of the group of weights, and of that of gamma, beta and biases
};

/// Updates one array of parameters theta by its gradient d.
struct Update {
  Way way;
  double lambda;
  ArrayXXd m = {}, v = {};  // Adam's moments (Kingma and Ba, 2015)
  double beta1_t = 1, beta2_t = 1;

  template <class Dense>
  void operator()(Dense& theta, const MatrixXd& gradient) {
    const double rate = way.optimizer == Optimizer::sgd ? 0.003 : 0.0001;
    ArrayXXd d = gradient;
    if (way.decay == Decay::penalty) d += lambda * theta.array();
    if (way.decay == Decay::step) theta *= 1 - rate * lambda;
    if (way.optimizer == Optimizer::adam) {
      if (m.size() == 0) m = v = ArrayXXd::Zero(d.rows(), d.cols());
      m = 0.9 * m + 0.1 * d;
      v = 0.999 * v + 0.001 * d.square();
      beta1_t *= 0.9;
      beta2_t *= 0.999;
      d = m / (1 - beta1_t) / ((v / (1 - beta2_t)).sqrt() + 1e-8);
    }
    theta.array() -= rate * d;
  }
};

/// Normal numbers, the same on every machine, by Box and Muller's formula.
MatrixXd normal(int rows, int cols, std::mt19937_64& engine) {
  const auto uniform = [&] { return static_cast<double>(engine() >> 11) * 0x1p-53; };  // in [0, 1)
  return MatrixXd::NullaryExpr(rows, cols, [&] {
    const double radius = std::sqrt(-2 * std::log(1 - uniform()));
    return radius * std::cos(6.283185307179586 * uniform());
  });
}

struct Net {
  MatrixXd w1, w2;
  double loss;  // the mean squared error in training
};

/// Linear(200, 16), BN, ReLU, Linear(16, 1) on 20 samples of y = 0.05 + sum 0.01 x_i + N(0, 0.01^2).
Net train(const Way& way) {
  std::mt19937_64 engine(1);
  const MatrixXd x = normal(20, 200, engine), noise = normal(20, 1, engine);
  const VectorXd t = 0.05 + 0.01 * (x.rowwise().sum() + noise).array();
  MatrixXd w1 = normal(200, 16, engine) / std::sqrt(200.0), w2 = normal(16, 1, engine) / 4;
  MatrixXd b = MatrixXd::Zero(1, 1);
  batchnorm::BatchNorm1d<double> bn(16);
  Update of_w1{way, way.weights}, of_w2{way, way.weights};
  Update of_gamma{way, way.others}, of_beta{way, way.others}, of_b{way, way.others};
  double loss = 0;
  for (int step = 1; step <= 1000; ++step) {
    const MatrixXd h = x * w1, a = bn.forward(h).cwiseMax(0);
    const VectorXd difference = (a * w2 - t).array() + b(0), dp = 2 * difference / 20;
    loss = difference.squaredNorm() / 20;
    const MatrixXd dy = (dp * w2.transpose()).array() * (a.array() > 0).cast<double>();
    const MatrixXd dh = bn.backward(h, dy);
    of_w1(w1, x.transpose() * dh);
    of_w2(w2, a.transpose() * dp);
    of_gamma(bn.gamma(), bn.grad_gamma());
    of_beta(bn.beta(), bn.grad_beta());
    of_b(b, dp.colwise().sum());
    bn.zero_grad();
  }
  std::printf("%-23s %-8g %-7g %7.4f   %7.4f   %10.4f   %.4f\n", way.name, way.weights, way.others,
              w1.norm(), w2.norm(), bn.gamma().mean(), loss);
  return {w1, w2, loss};
}

/// The largest difference of two nets' weights.
double apart(const Net& a, const Net& b) {
  return std::max((a.w1 - b.w1).cwiseAbs().maxCoeff(), (a.w2 - b.w2).cwiseAbs().maxCoeff());
}

int main() {
  const auto sgd = Optimizer::sgd, adam = Optimizer::adam;
  const auto penalty = Decay::penalty, step = Decay::step;
  std::printf(
      "penalty: lambda / 2 * |theta|^2 in the loss; in the step: theta *= 1 - rate * lambda;\n"
      "others: gamma, beta and the bias\n\n"
      "lambda of            weights, others      |w1|      |w2|   mean gamma   loss\n");
  (void)train({"SGD, none", sgd, step, 0, 0});
  const Net all = train({"SGD, in the step", sgd, step, 1, 1});
  const Net sgd_step = train({"SGD, in the step", sgd, step, 1, 0});
  const Net sgd_penalty = train({"SGD, penalty", sgd, penalty, 1, 0});
  const Net adam_step = train({"Adam, in the step", adam, step, 1, 0});
  const Net adam_penalty = train({"Adam, penalty", adam, penalty, 1, 0});
  const double of_sgd = apart(sgd_step, sgd_penalty), of_adam = apart(adam_step, adam_penalty);
  std::printf("\nlargest difference of a weight between penalty and step: SGD %.0e, Adam %.4f\n",
              of_sgd, of_adam);
  std::printf(
      "\nVerdict: penalty and step are %s for SGD, %s for Adam; to leave gamma, beta and the bias "
      "without decay %s: loss %.4f instead of %.4f.\n",
      of_sgd < 1e-12 ? "the same" : "NOT the same", of_adam < 1e-12 ? "the SAME" : "not",
      sgd_step.loss < 0.5 * all.loss ? "helps" : "does NOT help", sgd_step.loss, all.loss);
}
