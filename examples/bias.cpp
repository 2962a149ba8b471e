// SPDX-License-Identifier: MIT
// Asks what a bias before batch norm does: nothing in training, something in eval mode, for a while.
#include <batchnorm/batchnorm.hpp>
#include <cmath>
#include <cstdio>
#include <random>

using batchnorm::BatchNorm1d;
using Eigen::Index, Eigen::MatrixXd, Eigen::RowVector3d;

/// Numbers in [-1, 1), the same on every machine.
MatrixXd random(Index rows, Index cols, unsigned seed) {
  std::mt19937_64 engine(seed);
  return MatrixXd::NullaryExpr(rows, cols,
                               [&] { return static_cast<double>(engine() >> 11) * 0x1p-52 - 1; });
}

MatrixXd in_eval_mode(BatchNorm1d<double> bn, const MatrixXd& x) {  // a copy: training goes on
  bn.eval();
  return bn.forward(x);
}

void print(const char* what, const RowVector3d& v) {  // a number for each channel
  std::printf("%-34s %9.4f %9.4f %9.4f\n", what, v(0), v(1), v(2));
}

RowVector3d largest(const MatrixXd& m) { return m.cwiseAbs().colwise().maxCoeff(); }

int main() {
  const MatrixXd x = random(32, 4, 1), w = random(4, 3, 2), dy = random(32, 3, 3);
  const RowVector3d b(0.5, -1, 20);
  const MatrixXd h = x * w, h_b = h.rowwise() + b;  // what BN is given, without b and with it
  BatchNorm1d<double> bn(3);
  bn.gamma() << 1, 2, 3;
  bn.beta() << 0.1, 0.2, 0.3;
  std::printf("h = x * w has three channels; each row has a number for each of them.\n");
  print("b", b);

  std::printf("\nin training: y of h + b beside y of h\n");
  BatchNorm1d<double> bn_b = bn;
  const MatrixXd y = bn.forward(h), y_b = bn_b.forward(h_b);
  const RowVector3d moved = largest(y_b - y);
  const RowVector3d db = bn_b.backward(h_b, dy).colwise().sum(), dbeta = bn_b.grad_beta();
  print("largest |y|", largest(y));
  print("b moves y by at most", moved);
  print("|gradient of b|, |sum of dx|", largest(db));
  print("gradient of beta, sum of dy", dbeta);
  const bool useless_in_training = moved.isZero(1e-9) && db.isZero(1e-9);

  // Eval: the running statistics know h alone. b moves y by gamma * b / sqrt(running_var + eps),
  // and after k training batches with b, at momentum 0.1, by 0.9^k of that.
  std::printf("\nin eval mode, after 500 training batches without b and k with it\n");
  for (int step = 0; step < 500; ++step) (void)bn.forward(h);
  const MatrixXd y_eval = in_eval_mode(bn, h);
  const RowVector3d at_once =
      b.array() * (bn.gamma().array() / (bn.running_var().array() + 1e-5).sqrt()).transpose();
  bn_b = bn;
  bool as_told = true;
  for (int k = 0; k <= 100; ++k) {
    const RowVector3d shift = (in_eval_mode(bn_b, h_b) - y_eval).colwise().mean();
    const RowVector3d by_hand = std::pow(0.9, k) * at_once;
    as_told = as_told && (shift - by_hand).isZero(1e-9);
    if (k == 0 || k == 1 || k == 10 || k == 100) {
      char what[60];
      std::snprintf(what, sizeof what, "k = %-3d  b moves y by", k);
      print(what, shift);
      print("         by hand, 0.9^k of k = 0", by_hand);
    }
    (void)bn_b.forward(h_b);
  }

  std::printf("\nwithout b, but with beta + gamma * b / sqrt(running_var + eps) as the new beta\n");
  const MatrixXd y_eval_b = in_eval_mode(bn, h_b);  // k = 0
  bn_b = bn;
  bn_b.beta() += at_once.transpose();
  const RowVector3d missed = largest(in_eval_mode(bn_b, h) - y_eval_b);
  print("new beta", bn_b.beta());
  print("y in eval mode differs by at most", missed);
  print("it moves y in training by", largest(bn_b.forward(h) - y));

  const bool beta_replaces_b = missed.isZero(1e-9);
  std::printf(
      "\nVerdict: before batch norm a bias %s in training; in eval mode it %s; beta %s replace "
      "it.\n",
      useless_in_training ? "does nothing" : "DOES something",
      as_told ? "acts until the running mean has caught up" : "does NOT act as by hand",
      beta_replaces_b ? "can" : "can NOT");
}
