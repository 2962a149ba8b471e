// SPDX-License-Identifier: MIT
// Follows the running statistics step by step, and tries momentum 0 and the paper's averages.
#include <batchnorm/batchnorm.hpp>
#include <cmath>
#include <cstdio>
#include <vector>

using batchnorm::BatchNorm1d, batchnorm::Momentum, batchnorm::Options;
using Eigen::Vector2d;  // a batch: two samples of one feature

BatchNorm1d<double> layer_with(Momentum momentum, bool affine) {
  Options options;
  options.momentum = momentum;
  options.scale = options.shift = affine;
  return BatchNorm1d<double>(1, options);
}

Vector2d in_eval_mode(BatchNorm1d<double> layer, const Vector2d& x) {  // a copy: training goes on
  layer.eval();
  return layer.forward(x);
}

/// One line for each training step; returns whether the steps gave {-1, 1}, and eval mode
/// (x - running_mean) / sqrt(running_var).
bool follow(const Vector2d& x) {
  BatchNorm1d<double> bn = layer_with(Momentum::weight_of_new(0.1), false);
  std::printf(
      "step   running mean  running var   y in training    y in eval, by hand and by the layer\n");
  Vector2d y = in_eval_mode(bn, x);
  std::printf("none   %12.0f  %11.1e   %-15s  %-15s  %.1f %.1f\n", bn.running_mean()(0),
              bn.running_var()(0), "", "", y(0), y(1));
  bool as_told = true;
  for (int step = 1; step <= 4; ++step) {
    const Vector2d trained = bn.forward(x);
    const double mean = bn.running_mean()(0), var = bn.running_var()(0);
    const Vector2d by_hand = (x.array() - mean) / std::sqrt(var);
    y = in_eval_mode(bn, x);
    std::printf("%d      %12.0f  %11.3e   %7.4f %7.4f  %7.4f %7.4f  %7.4f %7.4f\n", step, mean, var,
                trained(0), trained(1), by_hand(0), by_hand(1), y(0), y(1));
    as_told = as_told && trained.isApprox(Vector2d(-1, 1), 1e-6) && y.isApprox(by_hand, 1e-6);
  }
  return as_told;
}

/// A training step under momentum 0; returns whether training normalizes and eval mode does not.
bool momentum_0(const Vector2d& x) {
  BatchNorm1d<double> bn = layer_with(Momentum::weight_of_new(0), true);
  bn.gamma()(0) = 2;
  bn.beta()(0) = 3;
  const Vector2d trained = bn.forward(x), y = in_eval_mode(bn, x);
  const Vector2d by_hand = 2 * x.array() / std::sqrt(1 + 1e-5) + 3;
  std::printf("running mean %g, running var %g, counter %lld\n", bn.running_mean()(0),
              bn.running_var()(0), static_cast<long long>(bn.num_batches_tracked()));
  std::printf("y in training                          %.4f %.4f\n", trained(0), trained(1));
  std::printf("y in eval                              %.4f %.4f\n", y(0), y(1));
  std::printf("gamma * x / sqrt(1 + eps) + beta       %.4f %.4f\n", by_hand(0), by_hand(1));
  return trained.isApprox(Vector2d(1, 5), 1e-6) && y.isApprox(by_hand, 1e-12);
}

/// Training over all batches, several times; prints the running statistics and returns whether they
/// are the given ones.
bool record(const char* name, Momentum momentum, const std::vector<Vector2d>& batches, int passes,
            double mean, double var) {
  BatchNorm1d<double> bn = layer_with(momentum, false);
  for (int pass = 0; pass < passes; ++pass) {
    for (const Vector2d& batch : batches) (void)bn.forward(batch);
  }
  const double m = bn.running_mean()(0), v = bn.running_var()(0);
  std::printf("%-25s %6d   %7.4f   %7.4f\n", name, passes, m, v);
  return std::abs(m - mean) < 1e-9 && std::abs(v - var) < 1e-9;
}

int main() {
  const Vector2d x(100000, 200000);
  std::printf("Samples 100000 and 200000, momentum 0.1, without gamma and beta\n");
  const bool by_batch = follow(x);
  std::printf("\nMomentum 0, gamma 2, beta 3\n");
  const bool eval_is_raw = momentum_0(x);

  // Algorithm 2 of Ioffe and Szegedy: E[x] = E[mu_B], Var[x] = m / (m - 1) * E[var_B], m = 2 here.
  const std::vector<Vector2d> batches{{1, 3}, {5, 9}, {2, 10}}, reversed{{2, 10}, {5, 9}, {1, 3}};
  double mean = 0, var = 0;
  for (const Vector2d& batch : batches) {
    mean += batch.mean() / 3;
    var += 2.0 / (2 - 1) * (batch.array() - batch.mean()).square().mean() / 3;
  }
  std::printf("\nBatches {1, 3}, {5, 9}, {2, 10}\n%-25s passes      mean       var\n", "");
  std::printf("%-25s %6s   %7.4f   %7.4f\n", "the paper's Algorithm 2", "", mean, var);
  const Momentum average = Momentum::cumulative(), moving = Momentum::weight_of_new(0.1);
  bool average_is_paper = true, moving_is_paper = true, zero_is_paper = true;
  for (int passes : {1, 100}) {
    average_is_paper &= record("cumulative()", average, batches, passes, mean, var);
    average_is_paper &= record("cumulative(), reversed", average, reversed, passes, mean, var);
    moving_is_paper &= record("momentum 0.1", moving, batches, passes, mean, var);
    moving_is_paper &= record("momentum 0.1, reversed", moving, reversed, passes, mean, var);
    zero_is_paper &= record("momentum 0", Momentum::weight_of_new(0), batches, passes, mean, var);
  }
  std::printf(
      "\nVerdict: the claim that momentum 0 is the paper's batch norm is %s: with it, training %s "
      "and eval mode does not; the paper's averages are %s, %s momentum 0.1.\n",
      zero_is_paper ? "RIGHT" : "wrong",
      by_batch && eval_is_raw ? "normalizes" : "does NOT normalize",
      average_is_paper ? "cumulative()" : "NOT cumulative()", moving_is_paper ? "AND" : "not");
}
