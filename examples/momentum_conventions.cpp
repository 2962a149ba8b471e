// SPDX-License-Identifier: MIT
// Shows what momentum 0.1 and 0.99 mean: the same batches through the presets of four libraries.
#include <batchnorm/batchnorm.hpp>
#include <cmath>
#include <cstdio>

using batchnorm::BatchNorm1d, batchnorm::Momentum, batchnorm::Options;

// Every batch: mean 10, population variance 4, unbiased variance 16 / 3.
const Eigen::Vector4d batch(8, 8, 12, 12);

struct Row {
  double mean_1, mean_10, mean_100;  // running means after so many batches
  int close;                         // batches until the running mean is within 5 % of the batch's
};

Row follow(const char* name, const Options& options) {
  BatchNorm1d<double> bn(1, options);
  Row row{};
  std::printf("%-27s  %.2f", name, options.momentum.weight_of_new());
  for (int k = 1; k <= 100 || row.close == 0; ++k) {
    (void)bn.forward(batch);
    const double mean = bn.running_mean()(0);
    if (k == 1) row.mean_1 = mean;
    if (k == 10) row.mean_10 = mean;
    if (k == 100) row.mean_100 = mean;
    if (k == 1 || k == 10 || k == 100) std::printf("  %7.4f %6.4f", mean, bn.running_var()(0));
    if (row.close == 0 && std::abs(mean - batch.mean()) < 0.05 * batch.mean()) row.close = k;
  }
  std::printf("  %5d\n", row.close);
  return row;
}

bool same_means(const Row& a, const Row& b) {
  return std::abs(a.mean_1 - b.mean_1) < 1e-9 && std::abs(a.mean_10 - b.mean_10) < 1e-9 &&
         std::abs(a.mean_100 - b.mean_100) < 1e-9;
}

int main() {
  Options pytorch_001 = Options::pytorch(), pytorch_099 = Options::pytorch();
  pytorch_001.momentum = Momentum::weight_of_new(0.01);
  pytorch_099.momentum = Momentum::weight_of_new(0.99);
  std::printf(
      "Every batch has mean 10, variance 4, unbiased variance 5.3333. The last column counts the\n"
      "batches until the running mean is within 5 %% of 10.\n\n");
  std::printf("%27sweight  running mean and variance after                 batches\n", "");
  std::printf("%-27sof new  1 batch         10 batches      100 batches     to 5 %%\n", "preset");
  const Row pytorch = follow("PyTorch, momentum 0.1", Options::pytorch());
  const Row keras = follow("Keras, momentum 0.99", Options::keras());
  const Row flax = follow("Flax, momentum 0.99", Options::flax());
  const Row onnx = follow("ONNX, momentum 0.9", Options::onnx());
  const Row right = follow("PyTorch, momentum 0.01", pytorch_001);
  const Row wrong = follow("PyTorch, momentum 0.99", pytorch_099);
  const bool onnx_is = same_means(pytorch, onnx);
  const bool keras_is = same_means(right, keras) && same_means(right, flax);
  std::printf(
      "\nVerdict: PyTorch's 0.1 %s ONNX's 0.9, PyTorch's 0.01 %s Keras's and Flax's 0.99; to come "
      "within 5 %% takes %d batches or %d. Where PyTorch is given 0.99, %d is "
      "enough, and the running statistics are nearly those of the last batch.\n",
      onnx_is ? "is" : "is NOT", keras_is ? "is" : "is NOT", pytorch.close, keras.close,
      wrong.close);
}
