// SPDX-License-Identifier: MIT
#include "train.hpp"

#include <algorithm>
#include <chrono>
#include <numeric>

#include "loss.hpp"
#include "models.hpp"
#include "optimizer.hpp"
#include "synchronized.hpp"

namespace data_parallel {
namespace {

using fashion_mnist::Dataset;
using fashion_mnist::kPixels;
using fashion_mnist::kSide;
using Order = std::vector<std::size_t>;

struct Batch {
  nn::Tensor<double> images;
  std::vector<std::uint8_t> labels;

  /// The images order[begin, end) with pixels in [0, 1].
  void gather(const Dataset& data, const Order& order, std::size_t begin, std::size_t end) {
    images.resize(static_cast<nn::Index>(end - begin), 1, kSide, kSide);
    labels.resize(end - begin);
    double* to = images.data();
    for (std::size_t i = begin; i < end; ++i, to += kPixels) {
      const std::uint8_t* from = data.pixels.data() + order[i] * kPixels;
      std::transform(from, from + kPixels, to, [](std::uint8_t pixel) { return pixel / 255.0; });
      labels[i - begin] = data.labels[order[i]];
    }
  }
};

Order first(const Dataset& data, std::size_t count) {
  Order order(std::min(count, data.size()));
  std::iota(order.begin(), order.end(), std::size_t{0});
  return order;
}

/// The gradients of all parameters, and one number more, summed over the ranks in one exchange.
double sum_over_ranks(std::vector<nn::Parameter<double>>& parameters, double number,
                      batchnorm::Communicator& world) {
  nn::Index size = 1;
  for (const auto& parameter : parameters) size += parameter.grad.size();
  Eigen::VectorXd all(size);
  all[0] = number;
  nn::Index at = 1;
  for (const auto& parameter : parameters) {
    all.segment(at, parameter.grad.size()) = parameter.grad;
    at += parameter.grad.size();
  }
  all = world.all_reduce(all);
  at = 1;
  for (auto& parameter : parameters) {
    parameter.grad = all.segment(at, parameter.grad.size());
    at += parameter.grad.size();
  }
  return all[0];
}

double test_accuracy(nn::Sequential<double>& model, const Dataset& data, std::size_t images) {
  const Order order = first(data, images);
  Batch batch;
  double correct = 0;
  model.eval();
  for (std::size_t begin = 0; begin < order.size(); begin += 256) {
    batch.gather(data, order, begin, std::min(begin + 256, order.size()));
    const auto& logits = model.forward(batch.images);
    correct += static_cast<double>(
        nn::softmax_cross_entropy<double>(logits, batch.labels, nullptr).correct);
  }
  model.train();
  return correct / static_cast<double>(order.size());
}

}  // namespace

Run train(const Options& options, std::size_t batch_size, Statistics statistics,
          const Dataset& train_set, const Dataset& test_set, batchnorm::Communicator& world,
          const std::function<void(std::size_t)>& progress) {
  using Clock = std::chrono::steady_clock;
  const auto start = Clock::now();
  const auto ranks = static_cast<std::size_t>(world.size());
  const std::size_t share = batch_size / ranks;
  nn::Random weights(options.seed), shuffling(options.seed + 1);
  auto model = nn::lenet<double>({}, weights);
  if (statistics == Statistics::of_all_ranks) synchronize(model, world);
  auto parameters = model.parameters();
  nn::Sgd<double> sgd;
  Order order = first(train_set, options.images);
  Batch mine;
  nn::Tensor<double> dlogits;
  Run run;
  for (int epoch = 0; epoch < options.epochs; ++epoch) {
    shuffling.shuffle(order);
    for (std::size_t begin = 0; begin + batch_size <= order.size(); begin += batch_size) {
      const std::size_t my_begin = begin + static_cast<std::size_t>(world.rank()) * share;
      mine.gather(train_set, order, my_begin, my_begin + share);
      for (auto& parameter : parameters) parameter.grad.setZero();
      const auto& logits = model.forward(mine.images);
      const auto result = nn::softmax_cross_entropy(logits, mine.labels, &dlogits);
      model.backward(mine.images, dlogits);
      const double loss = sum_over_ranks(parameters, result.loss, world);
      for (auto& parameter : parameters) parameter.grad /= static_cast<double>(ranks);
      sgd.step(parameters, options.rate);
      run.losses.push_back(loss / static_cast<double>(ranks));
      progress(batch_size);
    }
  }
  run.seconds = std::chrono::duration<double>(Clock::now() - start).count();
  if (world.rank() == 0) run.test_accuracy = test_accuracy(model, test_set, options.images);
  return run;
}

}  // namespace data_parallel
