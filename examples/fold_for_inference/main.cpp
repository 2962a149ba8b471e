// SPDX-License-Identifier: MIT
// Trains LeNet on Fashion-MNIST and folds its batch norms away: the same predictions, faster.
// Debian packages: zlib1g-dev libcxxopts-dev dataset-fashion-mnist
// Time: about half a minute
#include <algorithm>
#include <batchnorm/fold.hpp>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <iostream>
#include <vector>

#include "models.hpp"
#include "options.hpp"
#include "tensors.hpp"
#include "train.hpp"

namespace {

using Model = nn::Sequential<float>;

/// Writes a layer's weights, with the batch norm that follows folded in where one does, into a layer of
/// the same shape. Convolutions need no rule of their own: (O, I, H, W) lies in memory as the matrix
/// (O, I * H * W), and it is the output channel that counts.
void fold(nn::Layer<float>& layer, nn::Layer<float>* next, nn::Layer<float>& to) {
  const auto from = layer.parameters();
  if (from.empty()) return;
  auto into = to.parameters();
  const nn::Index outputs = into[1].value.size();
  const nn::ConstMatrixMap<float> weight(from[0].value.data(), outputs,
                                         from[0].value.size() / outputs);
  nn::Vector<float> bias;
  if (from.size() > 1) bias = from[1].value;

  batchnorm::FoldedWeights<nn::Matrix<float>> folded{weight, bias};
  if (auto* images = dynamic_cast<nn::BatchNorm2d<float>*>(next)) {
    folded = batchnorm::fold_into_linear(weight, bias, images->norm());
  } else if (auto* samples = dynamic_cast<nn::BatchNorm1d<float>*>(next)) {
    folded = batchnorm::fold_into_linear(weight, bias, samples->norm());
  }
  into[0].value = Eigen::Map<const nn::Vector<float>>(folded.weight.data(), folded.weight.size());
  into[1].value = folded.bias;
}

bool is_batch_norm(nn::Layer<float>& layer) {
  return dynamic_cast<nn::BatchNorm2d<float>*>(&layer) != nullptr ||
         dynamic_cast<nn::BatchNorm1d<float>*>(&layer) != nullptr;
}

/// The same network without batch norms.
Model folded(Model& model, fashion_mnist::Model kind) {
  nn::ModelOptions options;
  options.batch_norm = false;
  nn::Random random(0);
  Model result = kind == fashion_mnist::Model::lenet ? nn::lenet<float>(options, random)
                                                     : nn::conv_bn_net<float>(options, random);
  for (std::size_t i = 0, j = 0; i < model.size(); ++i) {
    if (is_batch_norm(model.layer(i))) continue;
    fold(model.layer(i), i + 1 < model.size() ? &model.layer(i + 1) : nullptr, result.layer(j++));
  }
  return result;
}

double seconds(Model& model, const nn::Tensor<float>& x, nn::Tensor<float>& logits) {
  const auto start = std::chrono::steady_clock::now();
  const nn::Tensor<float>& y = model.forward(x);
  const std::chrono::duration<double> time = std::chrono::steady_clock::now() - start;
  logits = y;
  return time.count();
}

double median(std::vector<double> v) {
  std::nth_element(v.begin(), v.begin() + static_cast<std::ptrdiff_t>(v.size() / 2), v.end());
  return v[v.size() / 2];
}

void run(fashion_mnist::Options options) {
  options.bn = fashion_mnist::BatchNormRuns::on;
  const auto train_set = fashion_mnist::read_dataset(options.data, "train");
  const auto test_set = fashion_mnist::read_dataset(options.data, "t10k");
  Model model = std::move(fashion_mnist::train(options, train_set, test_set).at(0).model);
  model.eval();
  Model plain = folded(model, options.model);

  // Both networks see each batch in turn, so that a busy machine slows both.
  const std::size_t count =
      options.images == 0 ? test_set.size() : std::min(options.images, test_set.size());
  std::size_t right = 0, right_folded = 0, same = 0;
  float largest = 0, apart = 0;
  std::vector<double> times, times_folded, ratios;
  for (std::size_t begin = 0; begin < count; begin += options.batch) {
    const std::size_t end = std::min(begin + options.batch, count);
    const auto x = fashion_mnist::images(test_set, begin, end);
    nn::Tensor<float> logits, logits_folded;
    for (int round = 0; round < 5; ++round) {
      const double n = static_cast<double>(end - begin);
      times.push_back(seconds(model, x, logits) / n);
      times_folded.push_back(seconds(plain, x, logits_folded) / n);
      ratios.push_back(times.back() / times_folded.back());
    }
    for (nn::Index i = 0; i < logits.size(); ++i) {
      largest = std::max(largest, std::abs(logits.data()[i]));
      apart = std::max(apart, std::abs(logits.data()[i] - logits_folded.data()[i]));
    }
    const auto a = fashion_mnist::classes(logits), b = fashion_mnist::classes(logits_folded);
    for (std::size_t i = 0; i < a.size(); ++i) {
      right += a[i] == test_set.labels[begin + i];
      right_folded += b[i] == test_set.labels[begin + i];
      same += a[i] == b[i];
    }
  }
  const double n = static_cast<double>(count);
  std::printf("\n%20s %8s %10s %18s\n", "", "layers", "accuracy", "microseconds/image");
  std::printf("%20s %8zu %10.4f %18.1f\n", "with batch norms", model.size(),
              static_cast<double>(right) / n, 1e6 * median(times));
  std::printf("%20s %8zu %10.4f %18.1f\n", "folded", plain.size(),
              static_cast<double>(right_folded) / n, 1e6 * median(times_folded));
  std::printf(
      "\nVerdict: both give the same class for %zu of %zu images; their logits of up to %.1f "
      "differ by at most %.1e; folded, the network is %.2f times as fast.\n",
      same, count, static_cast<double>(largest), static_cast<double>(apart), median(ratios));
}

}  // namespace

int main(int argc, char** argv) try {
  if (const auto options = fashion_mnist::parse_options(argc, argv)) run(*options);
  return EXIT_SUCCESS;
} catch (const std::exception& error) {
  std::cerr << error.what() << std::endl;
  return EXIT_FAILURE;
}
