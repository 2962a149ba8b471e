// SPDX-License-Identifier: MIT
// The parts that train: subsets, networks, one training.
#include <algorithm>
#include <set>

#include "../support/catch.hpp"
#include "close.hpp"
#include "layer_states.hpp"
#include "networks.hpp"
#include "study.hpp"
#include "subset.hpp"
#include "training.hpp"

namespace {

using claims::Form, claims::Pixels;

/// Image n is all of shade n, of class n modulo 10, but for its first pixel, 0.
fashion_mnist::Dataset shades(std::size_t count) {
  fashion_mnist::Dataset data;
  for (std::size_t n = 0; n < count; ++n) {
    data.labels.push_back(static_cast<std::uint8_t>(n % 10));
    data.pixels.insert(data.pixels.end(), fashion_mnist::kPixels, static_cast<std::uint8_t>(n));
    data.pixels[n * fashion_mnist::kPixels] = 0;
  }
  return data;
}

claims::Source source() { return {shades(200), shades(50)}; }

claims::Recipe small_recipe(bool batch_norm) {
  claims::Recipe recipe;
  recipe.network.batch_norm = batch_norm;
  recipe.network.width = 8;
  recipe.train_images = 100;
  recipe.test_images = 50;
  recipe.steps = 12;
  recipe.batch = 20;
  return recipe;
}

claims::Outcome train(const claims::Recipe& recipe, std::uint64_t seed = 1) {
  return claims::train(recipe, seed, source(), [](std::size_t) {});
}

}  // namespace

TEST_CASE("a subset holds each image once, with its label", "[claims]") {
  nn::Random random(1);
  const auto subset = claims::draw(shades(60), 40, Form::images, Pixels::raw, random);
  REQUIRE(subset.size() == 40);
  std::set<float> seen;
  for (nn::Index n = 0; n < 40; ++n) {
    const float shade = subset.x(n, 0, 5, 5);
    seen.insert(shade);
    REQUIRE(subset.x(n, 0, 0, 0) == 0.0F);
    REQUIRE(static_cast<int>(shade) % 10 == subset.labels[static_cast<std::size_t>(n)]);
  }
  REQUIRE(seen.size() == 40);
  REQUIRE(claims::draw(shades(60), 100, Form::images, Pixels::raw, random).size() == 60);
}

TEST_CASE("standardized pixels have Fashion-MNIST's mean at 0 and its deviation at 1", "[claims]") {
  nn::Random random(2);
  const auto subset = claims::draw(shades(164), 164, Form::images, Pixels::standardized, random);
  for (nn::Index n = 0; n < 164; ++n) {
    REQUIRE(std::abs(subset.x(n, 0, 0, 0) - -0.8102F) < 1e-4F);  // -0.2860 / 0.3530
  }
}

TEST_CASE("a volume stacks four images of its class at half their size", "[claims]") {
  nn::Random random(3);
  const auto subset = claims::draw(shades(100), 30, Form::volumes, Pixels::raw, random);
  REQUIRE(subset.x.dimensions() == nn::Shape(30, 1, 4, 14 * 14));
  for (nn::Index n = 0; n < 30; ++n) {
    for (nn::Index d = 0; d < 4; ++d) {
      const float shade = subset.x(n, 0, d, 50);
      REQUIRE(static_cast<int>(shade) % 10 == subset.labels[static_cast<std::size_t>(n)]);
      REQUIRE(testing::close(subset.x(n, 0, d, 0), 0.75 * static_cast<double>(shade), 1e-6));
    }
  }
}

TEST_CASE("distortion moves and flips a pixel by at most two, and keeps the rest black",
          "[claims]") {
  nn::Random random(4);
  std::set<std::pair<int, int>> places;
  for (int trial = 0; trial < 400; ++trial) {
    claims::Subset batch;
    batch.x.resize(1, 1, 28, 28);
    batch.x.setConstant(-0.5F);
    batch.x(0, 0, 10, 7) = 1.0F;
    batch.labels = {0};
    claims::distort(batch, random);
    REQUIRE(std::count(batch.x.data(), batch.x.data() + 784, -0.5F) == 783);
    const auto at = std::find(batch.x.data(), batch.x.data() + 784, 1.0F) - batch.x.data();
    places.insert({static_cast<int>(at / 28), static_cast<int>(at % 28)});
  }
  // Rows 8 to 12; columns 5 to 9, or flipped 27 - 9 to 27 - 5. Each of the 50 places has a chance
  // of 1 / 50, so that 400 trials miss one of them with a probability of 50 * 0.98^400 = 1.5 %.
  for (const auto& [row, column] : places) {
    REQUIRE((row >= 8 && row <= 12));
    REQUIRE(((column >= 5 && column <= 9) || (column >= 18 && column <= 22)));
  }
  REQUIRE(places.size() >= 48);
}

TEST_CASE("networks with and without batch norm, and with dropout, start alike", "[claims]") {
  using claims::Kind;
  for (const Kind kind : {Kind::perceptron, Kind::lenet, Kind::small_conv, Kind::volume_conv}) {
    claims::Network with, without, dropped;
    with.kind = without.kind = dropped.kind = kind;
    without.batch_norm = false;
    dropped.dropout = 0.5;
    nn::Random randoms[] = {nn::Random(5), nn::Random(5), nn::Random(5)};
    claims::Model models[] = {claims::build(with, randoms[0]), claims::build(without, randoms[1]),
                              claims::build(dropped, randoms[2])};
    const auto weights = claims::weights_of(models[0]);
    REQUIRE(weights.size() >= 3);
    for (int i = 1; i < 3; ++i) {
      const auto others = claims::weights_of(models[i]);
      REQUIRE(others.size() == weights.size());
      for (std::size_t w = 0; w < weights.size(); ++w) {
        REQUIRE(others[w].value == weights[w].value);
      }
    }
  }
}

TEST_CASE("weights are scaled but for the last layer's, which have their own factor", "[claims]") {
  claims::Network network;
  nn::Random first(6), second(6);
  claims::Model plain = claims::build(network, first);
  network.hidden_scale = 4.0;
  network.last_scale = 0.5;
  claims::Model scaled = claims::build(network, second);
  const auto before = claims::weights_of(plain), after = claims::weights_of(scaled);
  REQUIRE(before.size() == 3);
  REQUIRE(after[0].value == 4.0F * before[0].value);
  REQUIRE(after[1].value == 4.0F * before[1].value);
  REQUIRE(after[2].value == 0.5F * before[2].value);
}

TEST_CASE("a network of 100 layers has that many, with bridges and without", "[claims]") {
  claims::Network network;
  network.hidden = 99;
  network.width = 4;
  for (const bool residual : {false, true}) {
    network.residual = residual;
    nn::Random random(7);
    claims::Model model = claims::build(network, random);
    REQUIRE(claims::weights_of(model).size() == 100);
  }
}

TEST_CASE("layers are looked into: mean, variance, gradient", "[claims]") {
  claims::Network network;
  network.function = claims::Function::sigmoid;
  network.batch_norm = false;
  network.width = 4;
  network.hidden_scale = 0.0;  // every sigmoid is 0.5, no gradient passes the second layer
  nn::Random random(8);
  claims::Model model = claims::build(network, random);
  const auto batch = claims::draw(shades(20), 20, Form::images, Pixels::raw, random);
  const auto states = claims::layer_states(model, batch);
  REQUIRE(states.size() == 2);
  REQUIRE(states[0].mean == 0.5);
  REQUIRE(states[0].variance == 0.0);
  REQUIRE(states[0].gradient == 0.0);
  REQUIRE(states[1].gradient > 0.0);
}

TEST_CASE("a training learns, is the same again, and differs by its seed", "[claims]") {
  for (const bool batch_norm : {true, false}) {
    auto recipe = small_recipe(batch_norm);
    const auto once = train(recipe), again = train(recipe), other = train(recipe, 2);
    REQUIRE(once.loss.size() == 12);
    REQUIRE(once.loss == again.loss);
    REQUIRE(once.test.accuracy == again.test.accuracy);
    REQUIRE(once.loss != other.loss);
    recipe.steps = 300;
    REQUIRE(train(recipe).final_loss() < once.loss.front());
  }
}

TEST_CASE("a loss that diverges counts as 3", "[claims]") {
  auto recipe = small_recipe(false);
  recipe.raw_pixels = true;
  recipe.rate = 1e20;
  const auto outcome = train(recipe);
  REQUIRE(outcome.loss.back() == 3.0);
  REQUIRE(outcome.train.loss == 3.0);
}

TEST_CASE("decay pulls the weights, where the recipe asks for it", "[claims]") {
  auto recipe = small_recipe(false);
  recipe.train_images = 10;  // easily learned by heart
  recipe.batch = 10;
  recipe.steps = 300;
  const double without = train(recipe).train.loss;
  for (double claims::Recipe::*decay : {&claims::Recipe::l2, &claims::Recipe::l1}) {
    auto decayed = recipe;
    decayed.*decay = 0.5;  // so much that it costs more to be right than to guess
    REQUIRE(train(decayed).train.loss > without + 0.25);
  }
}

TEST_CASE("a linear schedule takes smaller and smaller steps", "[claims]") {
  auto recipe = small_recipe(false);
  const auto constant = train(recipe);
  recipe.schedule = claims::Schedule::linear;
  const auto linear = train(recipe);
  REQUIRE(linear.loss[0] == constant.loss[0]);
  REQUIRE(linear.loss[1] == constant.loss[1]);  // the first step is of the full rate
  REQUIRE(linear.loss[2] != constant.loss[2]);
}

TEST_CASE("statistics of the whole set are those of one forward over it", "[claims]") {
  auto recipe = small_recipe(true);
  recipe.rate = 0.0;  // nothing is learned: every step sees the same function
  recipe.steps = 1;
  recipe.batch = 100;               // the whole set
  recipe.network.last_scale = 0.1;  // no loss above 3, where it would be cut
  const double expected = train(recipe).loss[0];
  recipe.network.statistics = claims::Statistics::whole_set;
  recipe.batch = 2;
  recipe.steps = 50;  // each image once
  for (const int period : {1, 7, 50}) {
    recipe.renew_every = period;
    const auto outcome = train(recipe);
    double mean = 0.0;
    for (const double loss : outcome.loss) mean += loss / 50.0;
    REQUIRE(testing::close(mean, expected, 1e-5));  // roundings of float, through three layers
    REQUIRE(testing::close(outcome.train.loss, expected, 1e-5));
  }
}

TEST_CASE("a study gives the same numbers for any number of threads", "[claims]") {
  const auto data = source();
  const std::vector<claims::Recipe> recipes{small_recipe(true), small_recipe(false)};
  std::vector<claims::Outcomes> all;
  for (const int threads : {1, 3}) {
    claims::Effort effort;
    effort.seeds = 2;
    effort.threads = threads;
    all.push_back(claims::Study(data, effort).run("test", recipes));
  }
  for (std::size_t recipe = 0; recipe < 2; ++recipe) {
    for (std::size_t seed = 0; seed < 2; ++seed) {
      REQUIRE(all[0][recipe][seed].loss == all[1][recipe][seed].loss);
    }
  }
  REQUIRE(all[0][0][1].loss == train(recipes[0], 1).loss);
}

TEST_CASE("a study tells what went wrong in one of its threads", "[claims]") {
  const auto data = source();
  auto bad = small_recipe(true);
  bad.network.dropout = 2.0;
  claims::Effort effort;
  effort.threads = 2;
  REQUIRE_THROWS_AS(claims::Study(data, effort).run("test", {small_recipe(true), bad}),
                    std::invalid_argument);
}
