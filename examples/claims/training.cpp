// SPDX-License-Identifier: MIT
#include "training.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "layer_states.hpp"
#include "loss.hpp"
#include "networks.hpp"
#include "optimizer.hpp"
#include "subset.hpp"

namespace claims {
namespace {

double cut(double loss) { return loss < kHighestLoss ? loss : kHighestLoss; }  // NaN too

std::vector<std::size_t> in_order(std::size_t count) {
  std::vector<std::size_t> order(count);
  std::iota(order.begin(), order.end(), std::size_t{0});
  return order;
}

Score score(Model& model, const Subset& data) {
  constexpr std::size_t kBatch = 250;
  const auto order = in_order(data.size());
  Subset batch;
  double loss = 0.0, correct = 0.0;
  for (std::size_t begin = 0; begin < data.size(); begin += kBatch) {
    gather(data, order, begin, std::min(begin + kBatch, data.size()), batch);
    const auto result =
        nn::softmax_cross_entropy<float>(model.forward(batch.x), batch.labels, nullptr);
    loss += result.loss * static_cast<double>(batch.size());
    correct += static_cast<double>(result.correct);
  }
  const auto n = static_cast<double>(data.size());
  return {cut(loss / n), correct / n};
}

/// Endless batches, in a new order each time round.
class Batches {
 public:
  Batches(const Subset& data, std::size_t size, std::uint64_t seed)
      : data_(data),
        size_(std::min(size, data.size())),
        random_(seed),
        order_(in_order(data.size())) {}

  void next(Subset& batch) {
    if (begin_ + size_ > order_.size()) begin_ = 0;
    if (begin_ == 0) random_.shuffle(order_);
    gather(data_, order_, begin_, begin_ + size_, batch);
    begin_ += size_;
  }

 private:
  const Subset& data_;
  std::size_t size_;
  nn::Random random_;
  std::vector<std::size_t> order_;
  std::size_t begin_ = 0;
};

double rate_at(int step, const Recipe& recipe) {
  return recipe.schedule == Schedule::constant
             ? recipe.rate
             : recipe.rate * (1.0 - static_cast<double>(step) / recipe.steps);
}

void add_penalties(std::vector<nn::Parameter<float>>& weights, const Recipe& recipe) {
  for (auto& weight : weights) {
    if (recipe.l2 > 0.0) weight.grad += static_cast<float>(recipe.l2) * weight.value;
    if (recipe.l1 > 0.0) {
      weight.grad.array() += static_cast<float>(recipe.l1) * weight.value.array().sign();
    }
  }
}

/// Statistics of the whole training set for the steps to come, which then take them as constants.
void renew_statistics(Model& model, const Subset& whole_set) {
  model.train();
  model.forward(whole_set.x);
  model.eval();
}

}  // namespace

double Outcome::final_loss() const {
  const std::size_t count = std::max<std::size_t>(1, loss.size() / 10);
  const auto last = static_cast<std::ptrdiff_t>(std::min(count, loss.size()));
  return std::accumulate(loss.end() - last, loss.end(), 0.0) / static_cast<double>(last);
}

Outcome train(const Recipe& recipe, std::uint64_t seed, const Source& source,
              const std::function<void(std::size_t)>& stepped) {
  nn::Random drawing(3 * seed), starting(3 * seed + 1);
  const Pixels pixels = recipe.raw_pixels ? Pixels::raw : Pixels::standardized;
  const Form form = recipe.network.kind == Kind::volume_conv ? Form::volumes : Form::images;
  const Subset train_set = draw(source.train, recipe.train_images, form, pixels, drawing);
  const Subset test_set = draw(source.test, recipe.test_images, form, pixels, drawing);
  Model model = build(recipe.network, starting);
  auto parameters = model.parameters();
  auto weights = weights_of(model);
  nn::Sgd<float> sgd;
  nn::Tensor<float> dlogits;
  Subset batch;
  Outcome outcome;

  if (recipe.look_inside) {
    Subset seen;
    gather(train_set, in_order(train_set.size()), 0, std::min<std::size_t>(256, train_set.size()),
           seen);
    outcome.before = layer_states(model, seen);
  }

  const bool whole_set = recipe.network.statistics == Statistics::whole_set;
  nn::Random distorting(3 * seed + 2);
  Batches batches(train_set, recipe.batch, 3 * seed + 2);
  for (int step = 0; step < recipe.steps; ++step) {
    if (whole_set && step % recipe.renew_every == 0) renew_statistics(model, train_set);
    batches.next(batch);
    if (recipe.distort) distort(batch, distorting);
    model.zero_grad();
    const auto result = nn::softmax_cross_entropy(model.forward(batch.x), batch.labels, &dlogits);
    model.backward(batch.x, dlogits);
    add_penalties(weights, recipe);
    sgd.step(parameters, rate_at(step, recipe));
    outcome.loss.push_back(cut(result.loss));
    stepped(batch.size());
  }
  if (whole_set) renew_statistics(model, train_set);
  model.eval();
  outcome.train = score(model, train_set);
  outcome.test = score(model, test_set);
  return outcome;
}

}  // namespace claims
