// SPDX-License-Identifier: MIT
#include <vector>

#include "gradient_check.hpp"
#include "loss.hpp"
#include "models.hpp"
#include "optimizer.hpp"

namespace {

nn::ModelOptions options(bool batch_norm, bool conv_bias = true) {
  nn::ModelOptions model;
  model.batch_norm = batch_norm;
  model.conv_bias = conv_bias;
  return model;
}

template <class Scalar>
nn::Index count_parameters(nn::Sequential<Scalar> model) {
  nn::Index count = 0;
  for (const auto& parameter : model.parameters()) count += parameter.value.size();
  return count;
}

}  // namespace

TEST_CASE("the networks have the parameters that their definitions count", "[nn]") {
  nn::Random random(1);
  // conv 6*25 + 6, 16*150 + 16; linear 400*120 + 120, 120*84 + 84, 84*10 + 10
  const nn::Index lenet = 156 + 2416 + 48120 + 10164 + 850;
  const nn::Index lenet_norms = 2 * (6 + 16 + 120 + 84);
  REQUIRE(count_parameters(nn::lenet<float>(options(false), random)) == lenet);
  REQUIRE(count_parameters(nn::lenet<float>(options(true), random)) == lenet + lenet_norms);
  REQUIRE(count_parameters(nn::lenet<float>(options(true, false), random)) ==
          lenet + lenet_norms - 22);
  // conv 32*9 + 32, 64*288 + 64; linear 3136*10 + 10
  const nn::Index conv = 320 + 18496 + 31370;
  REQUIRE(count_parameters(nn::conv_bn_net<float>(options(false), random)) == conv);
  REQUIRE(count_parameters(nn::conv_bn_net<float>(options(true), random)) == conv + 192);
  REQUIRE(count_parameters(nn::conv_bn_net<float>(options(true, false), random)) == conv + 96);
}

TEST_CASE("with and without batch norm a network starts from the same weights", "[nn]") {
  nn::Random random_with(7), random_without(7);
  auto with = nn::lenet<float>(options(true), random_with);
  auto without = nn::lenet<float>(options(false), random_without);
  std::vector<nn::Vector<float>> weights[2];
  for (auto& parameter : with.parameters()) {
    if (parameter.value.size() > 240) weights[0].push_back(parameter.value);
  }
  for (auto& parameter : without.parameters()) {
    if (parameter.value.size() > 240) weights[1].push_back(parameter.value);
  }
  REQUIRE(weights[0].size() == 4);  // all matrices but the first, of 150
  REQUIRE(weights[0] == weights[1]);
  REQUIRE(with.parameters().front().value == without.parameters().front().value);
}

TEST_CASE("batch norm layers have the gradients of their functions in both modes", "[nn]") {
  nn::Random random(2);
  nn::BatchNorm2d<double> norm2d(3);
  nn::BatchNorm1d<double> norm1d(5);
  for (const bool training : {true, false}) {
    norm2d.train(training);
    norm1d.train(training);
    testing::check_gradients(norm2d, testing::random_tensor(nn::Shape(4, 3, 2, 3), random), random);
    testing::check_gradients(norm1d, testing::random_tensor(nn::Shape(6, 5, 1, 1), random), random);
  }
}

TEST_CASE("whole networks have the gradients of their loss", "[nn]") {
  nn::Random random(3);
  for (const bool batch_norm : {true, false}) {
    // Sigmoids only: a network of ReLUs has corners everywhere that a difference may straddle.
    auto model = nn::lenet<double>(options(batch_norm), random);
    auto x = testing::random_tensor(nn::Shape(4, 1, 28, 28), random, 0.0, 1.0);
    const std::vector<std::uint8_t> labels{3, 1, 9, 1};
    const auto loss = [&] {
      return nn::softmax_cross_entropy<double>(model.forward(x), labels, nullptr).loss;
    };
    nn::Tensor<double> dlogits, dx;
    nn::softmax_cross_entropy(model.forward(x), labels, &dlogits);
    model.zero_grad();
    model.backward(x, dlogits, &dx);
    for (auto& parameter : model.parameters()) {
      for (int sample = 0; sample < 3; ++sample) {
        const auto i = static_cast<nn::Index>(random.next() %
                                              static_cast<std::uint64_t>(parameter.value.size()));
        testing::require_close(parameter.grad[i],
                               testing::central_difference(parameter.value[i], loss));
      }
    }
    for (nn::Index i = 0; i < x.size(); i += 997) {
      testing::require_close(dx.data()[i], testing::central_difference(x.data()[i], loss));
    }
  }
}

TEST_CASE("a network takes the same steps for any number of threads", "[nn]") {
  std::vector<double> losses[2];
  for (const int threads : {1, 3}) {
    Eigen::ThreadPool pool(threads);
    const Eigen::ThreadPoolDevice device(&pool, threads);
    nn::Random random(4);
    auto model = nn::lenet<float>(options(true), random);
    if (threads > 1) model.set_device(&device);
    nn::Tensor<float> x(50, 1, 28, 28), dlogits;
    std::generate_n(x.data(), x.size(), [&] { return static_cast<float>(random.uniform(0, 1)); });
    std::vector<std::uint8_t> labels(50);
    for (auto& label : labels) label = static_cast<std::uint8_t>(random.next() % 10);
    auto parameters = model.parameters();
    nn::Sgd<float> sgd;
    for (int step = 0; step < 5; ++step) {
      model.zero_grad();
      const auto result = nn::softmax_cross_entropy(model.forward(x), labels, &dlogits);
      losses[threads == 1 ? 0 : 1].push_back(result.loss);
      model.backward(x, dlogits);
      sgd.step(parameters, 1.0);
    }
    model.set_device(nullptr);
  }
  REQUIRE(losses[0] == losses[1]);
  REQUIRE(losses[0].back() < losses[0].front());
}
