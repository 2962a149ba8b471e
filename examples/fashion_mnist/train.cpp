// SPDX-License-Identifier: MIT
#include "train.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <memory>
#include <numeric>
#include <optional>
#include <string>
#include <utility>

#include "loss.hpp"
#include "optimizer.hpp"
#include "progress.hpp"

namespace fashion_mnist {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

struct Batch {
  nn::Tensor<float> images;
  std::vector<std::uint8_t> labels;
};

/// The images order[begin, end) with pixels in [0, 1].
void gather(const Dataset& data, const std::vector<std::size_t>& order, std::size_t begin,
            std::size_t end, Batch& batch) {
  batch.images.resize(static_cast<nn::Index>(end - begin), 1, kSide, kSide);
  batch.labels.resize(end - begin);
  float* to = batch.images.data();
  for (std::size_t i = begin; i < end; ++i, to += kPixels) {
    const std::uint8_t* from = data.pixels.data() + order[i] * kPixels;
    std::transform(from, from + kPixels, to,
                   [](std::uint8_t pixel) { return static_cast<float>(pixel) * (1.0F / 255.0F); });
    batch.labels[i - begin] = data.labels[order[i]];
  }
}

/// Loss and hits over a number of images.
struct Tally {
  double loss = 0.0;
  double correct = 0.0;
  double images = 0.0;

  void add(const nn::LossResult& result, std::size_t batch) {
    const auto n = static_cast<double>(batch);
    loss += result.loss * n;
    correct += static_cast<double>(result.correct);
    images += n;
  }
  [[nodiscard]] double mean_loss() const { return loss / images; }
  [[nodiscard]] double accuracy() const { return correct / images; }
};

/// A network that is being trained.
class Learner {
 public:
  Learner(const Options& options, bool batch_norm, nn::Device device) {
    run_.history.network = batch_norm ? "with BN" : "without BN";
    nn::ModelOptions model;
    model.batch_norm = batch_norm;
    model.conv_bias = options.conv_bias;
    nn::Random random(options.seed);  // its own, so that all start from the same weights
    run_.model = options.model == Model::lenet ? nn::lenet<float>(model, random)
                                               : nn::conv_bn_net<float>(model, random);
    run_.model.set_device(device);
    parameters_ = run_.model.parameters();
    if (options.optimizer == OptimizerKind::sgd) {
      optimizer_ = std::make_unique<nn::Sgd<float>>(options.momentum);
    } else {
      optimizer_ = std::make_unique<nn::Adam<float>>();
    }
  }

  void step(const Batch& batch, double learning_rate) {
    const auto start = Clock::now();
    for (auto& parameter : parameters_) parameter.grad.setZero();
    const auto& logits = run_.model.forward(batch.images);
    const auto result = nn::softmax_cross_entropy(logits, batch.labels, &dlogits_);
    run_.model.backward(batch.images, dlogits_);
    optimizer_->step(parameters_, learning_rate);
    seconds_ += seconds_since(start);
    epoch_.add(result, batch.labels.size());
    stretch_.add(result, batch.labels.size());
  }

  /// A stretch of the curve ends; middle is in epochs.
  void end_stretch(double middle) {
    run_.history.curve.push_back({middle, stretch_.mean_loss(), stretch_.accuracy()});
    stretch_ = {};
  }

  /// gather_seconds: what preparing the batches took, which each network alone would need too.
  void end_epoch(const Dataset& test_set, const std::vector<std::size_t>& test_order,
                 std::size_t batch_size, double gather_seconds) {
    run_.history.epochs.push_back({epoch_.mean_loss(), epoch_.accuracy(),
                                   test(test_set, test_order, batch_size),
                                   seconds_ + gather_seconds});
    epoch_ = {};
    seconds_ = 0.0;
  }

  /// "with BN 0.832", the training accuracy since the epoch began.
  [[nodiscard]] std::string status() const { return with_number(epoch_.accuracy()); }

  /// "with BN 0.785", the test accuracy after the last epoch.
  [[nodiscard]] std::string tested() const {
    return with_number(run_.history.epochs.back().test_accuracy);
  }

  /// The network and its history, no longer on any device.
  [[nodiscard]] Run take() {
    run_.model.set_device(nullptr);
    return std::move(run_);
  }

 private:
  [[nodiscard]] std::string with_number(double accuracy) const {
    char number[32];
    std::snprintf(number, sizeof number, " %.3f", accuracy);
    return run_.history.network + number;
  }

  double test(const Dataset& data, const std::vector<std::size_t>& order, std::size_t batch_size) {
    Batch batch;
    Tally tally;
    run_.model.eval();
    for (std::size_t begin = 0; begin < order.size(); begin += batch_size) {
      gather(data, order, begin, std::min(begin + batch_size, order.size()), batch);
      const auto& logits = run_.model.forward(batch.images);
      tally.add(nn::softmax_cross_entropy<float>(logits, batch.labels, nullptr),
                batch.labels.size());
    }
    run_.model.train();
    return tally.accuracy();
  }

  Run run_;
  std::vector<nn::Parameter<float>> parameters_;
  std::unique_ptr<nn::Optimizer<float>> optimizer_;
  nn::Tensor<float> dlogits_;
  Tally epoch_;
  Tally stretch_;
  double seconds_ = 0.0;  // of this epoch's steps
};

/// The first count images of data, or all.
std::vector<std::size_t> first(const Dataset& data, std::size_t count) {
  std::vector<std::size_t> order(count == 0 ? data.size() : std::min(count, data.size()));
  std::iota(order.begin(), order.end(), std::size_t{0});
  return order;
}

/// done: the part of all training that lies behind, in [0, 1).
double learning_rate(const Options& options, double done) {
  constexpr double kPi = 3.14159265358979323846;
  return options.schedule == Schedule::constant
             ? options.learning_rate
             : options.learning_rate * 0.5 * (1.0 + std::cos(kPi * done));
}

/// What the function says of each network, with commas between: "with BN 0.832, without BN 0.452".
std::string of_each(const std::vector<Learner>& learners, std::string (Learner::*say)() const) {
  std::string text;
  for (const auto& learner : learners) text += (text.empty() ? "" : ", ") + (learner.*say)();
  return text;
}

}  // namespace

std::vector<Run> train(const Options& options, const Dataset& train_set, const Dataset& test_set) {
  std::optional<Eigen::ThreadPool> pool;
  std::optional<Eigen::ThreadPoolDevice> device;
  if (options.threads > 1) {
    pool.emplace(options.threads);
    device.emplace(&*pool, options.threads);
  }
  std::vector<Learner> learners;
  for (const bool batch_norm : {true, false}) {
    const auto only = batch_norm ? BatchNormRuns::on : BatchNormRuns::off;
    if (options.bn == BatchNormRuns::both || options.bn == only) {
      learners.emplace_back(options, batch_norm, device ? &*device : nullptr);
    }
  }

  std::vector<std::size_t> order = first(train_set, options.images);
  const std::vector<std::size_t> test_order = first(test_set, options.images);
  nn::Random random(options.seed + 1);  // of the order
  Batch batch;
  const std::size_t batches = (order.size() + options.batch - 1) / options.batch;
  constexpr std::size_t kStretches = 20;  // of an epoch
  Progress progress(order.size() * learners.size() * static_cast<std::size_t>(options.epochs));
  for (int epoch = 0; epoch < options.epochs; ++epoch) {
    const std::string label =
        "epoch " + std::to_string(epoch + 1) + "/" + std::to_string(options.epochs);
    double gather_seconds = 0.0;
    std::size_t stretch_begin = 0;
    random.shuffle(order);
    for (std::size_t b = 0; b < batches; ++b) {
      const std::size_t begin = b * options.batch;
      const std::size_t end = std::min(begin + options.batch, order.size());
      if (end - begin < 2) break;  // one image alone has no variance to normalize by
      const auto start = Clock::now();
      gather(train_set, order, begin, end, batch);
      gather_seconds += seconds_since(start);
      const double part = static_cast<double>(b) / static_cast<double>(batches);
      const double rate = learning_rate(options, (epoch + part) / options.epochs);
      for (auto& learner : learners) learner.step(batch, rate);
      progress.advance((end - begin) * learners.size(), label, of_each(learners, &Learner::status),
                       "accuracy");
      if ((b + 1) * kStretches / batches > stretch_begin * kStretches / batches) {
        const double middle = 0.5 * static_cast<double>(stretch_begin + b + 1);
        for (auto& learner : learners) {
          learner.end_stretch(epoch + middle / static_cast<double>(batches));
        }
        stretch_begin = b + 1;
      }
    }
    for (auto& learner : learners) {
      learner.end_epoch(test_set, test_order, options.batch, gather_seconds);
    }
    progress.line(label + " done  test accuracy " + of_each(learners, &Learner::tested));
  }

  std::vector<Run> runs;
  for (auto& learner : learners) runs.push_back(learner.take());
  return runs;
}

}  // namespace fashion_mnist
