// SPDX-License-Identifier: MIT
// Explains why two samples give other outputs in eval mode than in training: the factor is sqrt(2).
#include <batchnorm/batchnorm.hpp>
#include <cmath>
#include <cstdio>

using batchnorm::BatchNorm1d, batchnorm::VarianceEstimate;
using Eigen::VectorXd;

/// Adam (Kingma and Ba, 2015) for one parameter theta with gradient g.
struct Adam {
  double m = 0, v = 0, beta1_t = 1, beta2_t = 1;

  void step(double& theta, double g, double rate = 0.04) {
    m = 0.9 * m + 0.1 * g;
    v = 0.999 * v + 0.001 * g * g;
    beta1_t *= 0.9;
    beta2_t *= 0.999;
    const double m_hat = m / (1 - beta1_t), v_hat = v / (1 - beta2_t);
    theta -= rate * m_hat / (std::sqrt(v_hat) + 1e-8);
  }
};

enum class Mode { training, eval };

VectorXd forward_in(Mode mode, BatchNorm1d<double> bn, const VectorXd& h) {  // a copy: bn stays
  bn.train(mode == Mode::training);
  return bn.forward(h);
}

VectorXd sigmoid(const VectorXd& y) { return 1 / (1 + (-y.array()).exp()); }

/// A layer with bn's gamma and beta, and the statistics of h, taken in one pass.
BatchNorm1d<double> with_statistics_of(const VectorXd& h, const BatchNorm1d<double>& bn,
                                       VarianceEstimate estimate) {
  batchnorm::Options options = bn.options();
  options.momentum = batchnorm::Momentum::cumulative();  // the plain average of all batches
  options.running_variance = estimate;
  BatchNorm1d<double> again(1, options);  // one that exists: reset_running_stats()
  again.gamma() = bn.gamma();
  again.beta() = bn.beta();
  (void)again.forward(h);
  return again;
}

/// Prints y in both modes and returns the ratio of its spread in training to that in eval mode.
double compare(const char* what, const BatchNorm1d<double>& bn, const VectorXd& h) {
  const VectorXd train = forward_in(Mode::training, bn, h), eval = forward_in(Mode::eval, bn, h);
  const Eigen::Index last = h.size() - 1;
  const double ratio = (train(last) - train(0)) / (eval(last) - eval(0));
  std::printf("%-30s %8.4f %8.4f   %8.4f %8.4f   %8.6f\n", what, train(0), train(last), eval(0),
              eval(last), ratio);
  return ratio;
}

int main() {
  // Linear(1, 1), BatchNorm1d(1), sigmoid; the loss is the sum of the squared errors to {0, 1}.
  const Eigen::Vector2d x(100000, 200000), target(0, 1);
  double w = 0.5, b = 0.5;
  BatchNorm1d<double> bn(1);
  Adam of_w, of_b, of_gamma, of_beta;
  double late = 0;  // the ratio at the last step
  char what[40];
  std::printf("y of the two samples; ratio: their distance in training / their distance in eval\n");
  std::printf("step      loss                   y in training         y in eval       ratio\n");
  for (int step = 1; step <= 5000; ++step) {
    const VectorXd h = w * x.array() + b, p = sigmoid(bn.forward(h));
    const VectorXd dy = 2 * (p - target).array() * p.array() * (1 - p.array());
    const VectorXd dh = bn.backward(h, dy);
    if (step == 1 || step == 300 || step == 1000 || step == 5000) {
      std::snprintf(what, sizeof what, "%-9d %.2e", step, (p - target).squaredNorm());
      late = compare(what, bn, h);
    }
    of_w.step(w, dh.dot(x));
    of_b.step(b, dh.sum());
    of_gamma.step(bn.gamma()(0), bn.grad_gamma()(0));
    of_beta.step(bn.beta()(0), bn.grad_beta()(0));
    bn.zero_grad();
  }

  std::printf("%-30s %8.4f %8.4f   %8.4f %8.4f   %8.6f\n", "published, another start", -8.2226,
              8.2226, -5.8143, 5.8143, 8.2226 / 5.8143);
  std::printf(
      "Step 1: a tenth of running_var is from the batch, so the ratio is sqrt(2 / 10) = %.6f.\n",
      std::sqrt(0.2));

  std::printf("\nthe net after training, its running statistics computed anew with the\n");
  const VectorXd h = w * x.array() + b;
  const auto population = with_statistics_of(h, bn, VarianceEstimate::population);
  const auto unbiased = with_statistics_of(h, bn, VarianceEstimate::unbiased);
  (void)compare("population variance, / n", population, h);
  const double ratio_unbiased = compare("unbiased variance, / (n - 1)", unbiased, h);

  std::printf(
      "\nn samples, unbiased variance: sqrt(n / (n - 1)); y of the first and the last sample\n");
  bool as_sqrt = true;
  for (const int n : {2, 4, 16, 64, 256, 1024}) {
    const VectorXd many = w * VectorXd::LinSpaced(n, 100000, 200000).array() + b;
    const double expected = std::sqrt(n / (n - 1.0));
    std::snprintf(what, sizeof what, "n = %-9d %.6f", n, expected);
    const double ratio =
        compare(what, with_statistics_of(many, bn, VarianceEstimate::unbiased), many);
    as_sqrt = as_sqrt && std::abs(ratio - expected) < 1e-5;
  }

  std::printf(
      "\noutput of the net for         in training           in eval, population variance\n");
  for (const Eigen::Vector2d& samples : {x, Eigen::Vector2d(150000, 300000)}) {
    const VectorXd h_samples = w * samples.array() + b;
    const VectorXd train = sigmoid(forward_in(Mode::training, population, h_samples));
    const VectorXd eval = sigmoid(forward_in(Mode::eval, population, h_samples));
    std::printf("%s %.0f and %-14.0f %.4f %.4f         %.4f %.4f\n",
                samples == x ? "seen  " : "unseen", samples(0), samples(1), train(0), train(1),
                eval(0), eval(1));
  }

  const bool agree = forward_in(Mode::training, population, h)
                         .isApprox(forward_in(Mode::eval, population, h), 1e-6);
  const bool is_sqrt_2 =
      std::abs(late - std::sqrt(2.0)) < 1e-3 && std::abs(ratio_unbiased - std::sqrt(2.0)) < 1e-5;
  std::printf(
      "\nVerdict: for two samples the two modes %s by the factor sqrt(2), because running_var is "
      "the unbiased variance; with the population variance they %s; for n samples the factor %s.\n",
      is_sqrt_2 ? "differ" : "do NOT differ", agree ? "agree" : "do NOT agree",
      as_sqrt ? "is sqrt(n / (n - 1))" : "is NOT sqrt(n / (n - 1))");
}
