// SPDX-License-Identifier: MIT
// A layer's state by PyTorch's, Keras's and Flax's names, and what is refused.

#include <batchnorm/batchnorm.hpp>
#include <batchnorm/federated.hpp>
#include <batchnorm/state.hpp>
#include <limits>
#include <stdexcept>
#include <utility>

#include "support/catch.hpp"
#include "support/random.hpp"
#include "support/refused.hpp"

using batchnorm::BatchNorm1d;
using batchnorm::BatchNorm2d;
using batchnorm::BatchNorm3d;
using batchnorm::federated_average;
using batchnorm::load_state_dict;
using batchnorm::Momentum;
using batchnorm::Names;
using batchnorm::Options;
using batchnorm::state_dict;
using batchnorm::StateDict;
using batchnorm::SwitchedOff;
using testing::check_refused;
using testing::check_throws;

namespace {

Eigen::VectorXd vector(std::initializer_list<double> v) {
  return Eigen::Map<const Eigen::VectorXd>(v.begin(), static_cast<Eigen::Index>(v.size()));
}

/// A state that a layer of two channels takes.
StateDict state_of_two(const std::string& prefix = "") {
  return {{prefix + "weight", vector({1.5, -2})},
          {prefix + "bias", vector({0.25, 3})},
          {prefix + "running_mean", vector({-1, 7})},
          {prefix + "running_var", vector({0.5, 0})},
          {prefix + "num_batches_tracked", vector({12})}};
}

template <class Layer>
void check_loaded(const Layer& bn, std::int64_t counter) {
  using Vector = typename Layer::Vector;
  CHECK(bn.gamma() == (Vector(2) << 1.5f, -2).finished());
  CHECK(bn.beta() == (Vector(2) << 0.25f, 3).finished());
  CHECK(bn.running_mean() == (Vector(2) << -1, 7).finished());
  CHECK(bn.running_var() == (Vector(2) << 0.5f, 0).finished());
  CHECK(bn.num_batches_tracked() == counter);
}

/// The state is refused, with words that name the entry, and the layer is as before.
void check_refused_state(const StateDict& state, const std::string& words,
                         const Options& options = {}, const std::string& prefix = "") {
  BatchNorm1d<float> bn(2, options);
  bn.gamma().setConstant(options.scale ? 9.0f : 0.0f);
  bn.num_batches_tracked() = 4;
  check_refused<std::invalid_argument>(bn, {"[load_state_dict] " + words},
                                       [&] { load_state_dict(bn, state, prefix); });
}

StateDict with(const std::string& key, std::initializer_list<double> values) {
  StateDict state = state_of_two();
  state[key] = vector(values);
  return state;
}

}  // namespace

TEMPLATE_TEST_CASE("a layer takes PyTorch's names", "[state]", BatchNorm1d<float>,
                   BatchNorm2d<double>, BatchNorm3d<Eigen::half>, BatchNorm1d<Eigen::bfloat16>) {
  TestType bn(2);
  load_state_dict(bn, state_of_two());
  check_loaded(bn, 12);
}

TEST_CASE("a layer takes Keras's and Flax's names, and then counts from 0", "[state]") {
  BatchNorm1d<float> bn(2);
  bn.num_batches_tracked() = 5;
  load_state_dict(bn, {{"gamma", vector({1.5, -2})},
                       {"beta", vector({0.25, 3})},
                       {"moving_mean", vector({-1, 7})},
                       {"moving_variance", vector({0.5, 0})}});
  check_loaded(bn, 0);
  BatchNorm1d<float> other(2);
  load_state_dict(other, {{"scale", vector({1.5, -2})},
                          {"bias", vector({0.25, 3})},
                          {"mean", vector({-1, 7})},
                          {"var", vector({0.5, 0})}});
  check_loaded(other, 0);
}

TEST_CASE("a prefix picks one layer out of a network", "[state]") {
  StateDict network = state_of_two("layer1.0.bn1.");
  network["layer1.0.bn10.weight"] = vector({8});
  network["layer1.0.conv1.weight"] = vector({1, 2, 3});
  network["layer2.bn.unknown"] = vector({});
  network["a"] = network["zz"] = vector({0});
  BatchNorm2d<float> bn(2);
  load_state_dict(bn, network, "layer1.0.bn1.");
  check_loaded(bn, 12);
  check_refused_state(network, "layer2.bn.unknown: expected an entry of a batch-norm layer", {},
                      "layer2.bn.");
  check_refused_state(network,
                      "nowhere.weight: expected entries with the prefix \"nowhere.\", got none; "
                      "the first entry is a",
                      {}, "nowhere.");
}

TEST_CASE("state_dict writes what load_state_dict reads", "[state]") {
  BatchNorm1d<float> bn(3), copy(3);
  testing::Random random(1);
  Eigen::MatrixXf x(10, 3);
  random.fill(x, 1, 2);
  for (int batch = 0; batch < 4; ++batch) static_cast<void>(bn.forward(x));
  random.fill(bn.gamma());
  random.fill(bn.beta());
  const StateDict state = state_dict(bn, "bn.");
  CHECK(state.size() == 5);
  CHECK(state.at("bn.running_mean") == bn.running_mean().cast<double>());
  CHECK(state.at("bn.num_batches_tracked") == vector({4}));
  load_state_dict(copy, state, "bn.");
  CHECK(copy.gamma() == bn.gamma());
  CHECK(copy.beta() == bn.beta());
  CHECK(copy.running_mean() == bn.running_mean());
  CHECK(copy.running_var() == bn.running_var());
  CHECK(copy.num_batches_tracked() == 4);

  const auto keys = [](const StateDict& s) {
    std::string all;
    for (const auto& [key, values] : s) all += key + " ";
    return all;
  };
  CHECK(keys(state_dict(bn)) == "bias num_batches_tracked running_mean running_var weight ");
  CHECK(keys(state_dict(bn, "", Names::keras)) == "beta gamma moving_mean moving_variance ");
  CHECK(keys(state_dict(bn, "p/", Names::flax)) == "p/bias p/mean p/scale p/var ");
  CHECK(state_dict(bn, "", Names::keras).at("gamma") == bn.gamma().cast<double>());
  CHECK(state_dict(bn, "", Names::flax).at("var") == bn.running_var().cast<double>());
}

TEST_CASE("entries that options switch off are neither written nor taken", "[state]") {
  Options options;
  options.scale = false;
  BatchNorm1d<float> shifting(2, options);
  CHECK(state_dict(shifting).count("weight") == 0);
  CHECK(state_dict(shifting).size() == 4);
  check_refused_state(state_of_two(), "weight: expected no such entry, for Options::scale is off",
                      options);
  StateDict state = state_of_two();
  state.erase("weight");
  load_state_dict(shifting, state);
  CHECK(shifting.beta() == Eigen::Vector2f(0.25f, 3));

  options.shift = options.track_running_stats = false;
  BatchNorm1d<float> bare(2, options);
  CHECK(state_dict(bare).empty());
  load_state_dict(bare, {});
  check_refused_state({{"num_batches_tracked", vector({1})}},
                      "num_batches_tracked: expected no counter", options);
  check_refused_state({{"running_var", vector({1, 1})}}, "running_var: expected no such entry",
                      options);
}

TEST_CASE("entries that options switch off are ignored, if asked to", "[state]") {
  Options options;
  options.scale = false;
  BatchNorm1d<float> shifting(2, options);
  load_state_dict(shifting, state_of_two(), "", SwitchedOff::ignore);
  CHECK(shifting.beta() == Eigen::Vector2f(0.25f, 3));
  CHECK(shifting.running_mean() == Eigen::Vector2f(-1, 7));
  CHECK(shifting.num_batches_tracked() == 12);

  options.shift = options.track_running_stats = false;
  BatchNorm1d<float> bare(2, options);
  load_state_dict(bare, state_of_two(), "", SwitchedOff::ignore);
  CHECK(state_dict(bare).empty());
}

TEST_CASE("a prefix without its dot is refused, and the message has the dot", "[state]") {
  BatchNorm1d<float> bn(2);
  check_refused<std::invalid_argument>(
      bn, {"net.1.bias: expected the prefix net.1., got net.1"},
      [&] { load_state_dict(bn, state_of_two("net.1."), "net.1"); });
  check_refused<std::invalid_argument>(bn, {"expected the prefix net/1/, got net/1"}, [&] {
    load_state_dict(bn, state_of_two("net/1/"), "net/1");
  });
}

TEST_CASE("a prefix that was forgotten, in all or in part, is named", "[state]") {
  const StateDict network = state_of_two("layer1.0.bn1.");
  const std::string expected = "layer1.0.bn1.bias: expected the prefix layer1.0.bn1., got ";
  check_refused_state(network, expected + "none");
  check_refused_state(network, expected + "layer1.", {}, "layer1.");
}

TEST_CASE("an entry whose name is the prefix alone is unknown", "[state]") {
  BatchNorm1d<float> bn(2);
  auto state = state_of_two("net.1.");
  state["net.1."] = vector({1, 2});
  check_refused<std::invalid_argument>(bn, {"net.1.: expected an entry of a batch-norm layer"},
                                       [&] { load_state_dict(bn, state, "net.1."); });
}

TEST_CASE("the federated average merges statistics, and a layer takes it", "[state]") {
  // Client a has 30 samples, b has 10: shares of 0.75 and 0.25.
  const StateDict a = {{"bn.weight", vector({1, 2})},           {"bn.bias", vector({0, 4})},
                       {"bn.running_mean", vector({0, 10})},    {"bn.running_var", vector({1, 2})},
                       {"bn.num_batches_tracked", vector({3})}, {"conv.weight", vector({8})}};
  const StateDict b = {{"bn.weight", vector({5, 2})},           {"bn.bias", vector({4, 0})},
                       {"bn.running_mean", vector({4, 10})},    {"bn.running_var", vector({5, 6})},
                       {"bn.num_batches_tracked", vector({4})}, {"conv.weight", vector({0})}};
  const StateDict average = federated_average({a, b}, {30, 10});
  CHECK(average.size() == 6);
  CHECK(average.at("bn.weight") == vector({2, 2}));
  CHECK(average.at("bn.bias") == vector({1, 3}));
  CHECK(average.at("bn.running_mean") == vector({1, 10}));
  // 0.75 * (1 + (0 - 1)^2) + 0.25 * (5 + (4 - 1)^2) = 5;  0.75 * 2 + 0.25 * 6 = 3
  CHECK(average.at("bn.running_var") == vector({5, 3}));
  CHECK(average.at("bn.num_batches_tracked") == vector({7}));
  CHECK(average.at("conv.weight") == vector({6}));
  BatchNorm1d<float> bn(2);
  load_state_dict(bn, average, "bn.");
  CHECK(bn.running_var() == Eigen::Vector2f(5, 3));
  CHECK(bn.num_batches_tracked() == 7);
}

TEST_CASE("the federated average knows Keras's and Flax's variances, and no others", "[state]") {
  const auto state = [&](double mean) {
    return StateDict{{"moving_mean", vector({mean})},
                     {"moving_variance", vector({1})},
                     {"bn/mean", vector({mean})},
                     {"bn/var", vector({1})},
                     {"other.var", vector({1})}};
  };
  const StateDict average = federated_average({state(-2), state(2)}, {1, 1});
  CHECK(average.at("moving_variance") == vector({5}));  // 1 + 2^2
  CHECK(average.at("bn/var") == vector({5}));
  CHECK(average.at("other.var") == vector({1}));  // no mean beside it
}

TEST_CASE("the federated average knows names of several words after any character", "[state]") {
  const auto state = [&](double mean, double counter) {
    return StateDict{{"bn1_running_mean", vector({mean})},
                     {"bn1_running_var", vector({1})},
                     {"bn1_num_batches_tracked", vector({counter})},
                     {"a.parameter.of.another.kind", vector({counter})},
                     {"n.mean", vector({mean, mean})},
                     {"n.var", vector({1})},
                     {"co_mean", vector({mean})},
                     {"co_var", vector({1})}};
  };
  const StateDict average = federated_average({state(-2, 3), state(2, 4)}, {1, 1});
  CHECK(average.at("bn1_running_var") == vector({5}));  // 1 + 2^2
  CHECK(average.at("bn1_num_batches_tracked") == vector({7}));
  CHECK(average.at("a.parameter.of.another.kind") == vector({3.5}));
  CHECK(average.at("n.var") == vector({1}));  // of another length than the mean beside it
  CHECK(average.at("co_var") == vector({1}));  // "var" follows a dot or a slash
}

TEST_CASE("the numbers of a client without samples do not count", "[state]") {
  const auto state = [&](double number) {
    return StateDict{{"running_mean", vector({number})},
                     {"running_var", vector({number})},
                     {"num_batches_tracked", vector({10})}};
  };
  const StateDict average = federated_average({state(2), state(std::nan(""))}, {0.5, 0});
  CHECK(average.at("num_batches_tracked") == vector({10}));
  CHECK(average.at("running_mean") == vector({2}));
  CHECK(average.at("running_var") == vector({2}));
}

TEST_CASE("states that do not match are not averaged", "[state]") {
  const StateDict a = state_of_two();
  StateDict longer = a, renamed = a, fewer = a;
  longer.at("weight") = vector({1, 2, 3});
  renamed.erase("bias");
  renamed["gamma"] = vector({1, 2});
  fewer.erase("bias");
  const auto check = [](const std::vector<StateDict>& states, const std::vector<double>& samples,
                        const std::string& expected) {
    const auto call = [&] { static_cast<void>(federated_average(states, samples)); };
    check_throws<std::invalid_argument>({"[federated_average] expected " + expected}, call);
  };
  check({a, longer}, {1, 1}, "2 numbers in weight, got 3 in state 1");
  check({a, renamed}, {1, 1}, "the same entries in all states");
  check({a, fewer}, {1, 1}, "the same entries in all states");
  check({fewer, a}, {1, 1}, "the same entries in all states");
  check({{}, a}, {1, 1}, "the same entries in all states, got 0 in state 0 and 5 in state 1");
  check({}, {}, "samples for each of at least 1 state");
  check({a, a}, {1}, "samples for each of at least 1 state, got 1 for 2 states");
  check({a, a}, {0, 0}, "a finite number of samples");
  check({a, a}, {2, -1}, "samples of at least 0, got -1");
  check({a}, {std::numeric_limits<double>::quiet_NaN()}, "samples of at least 0, got nan");
}

TEST_CASE("a missing entry is refused by its name, but for the counter", "[state]") {
  for (const char* name : {"weight", "bias", "running_mean", "running_var"}) {
    StateDict state = state_of_two();
    state.erase(name);
    check_refused_state(state, std::string(name) + ": expected it (or ");
  }
  StateDict no_gamma = state_of_two();
  no_gamma.erase("weight");
  check_refused_state(no_gamma,
                      "weight: expected it (or gamma, or scale), got no such entry: switch "
                      "Options::scale off if the model has none");
  StateDict no_statistics = state_of_two();
  no_statistics.erase("running_var");
  check_refused_state(no_statistics,
                      "running_var: expected it (or moving_variance, or var), got no such entry: "
                      "switch Options::track_running_stats off");
  StateDict state = state_of_two();
  state.erase("num_batches_tracked");
  BatchNorm1d<float> bn(2);
  load_state_dict(bn, state);
  check_loaded(bn, 0);
}

TEST_CASE("a counter is loaded up to where doubles count exactly", "[state]") {
  StateDict state = state_of_two();
  state.at("num_batches_tracked") = vector({0x1p53});
  BatchNorm1d<float> bn(2);
  load_state_dict(bn, state);
  check_loaded(bn, std::int64_t{1} << 53);
}

TEST_CASE("what cannot be a layer's state is refused by its name", "[state]") {
  const double infinity = std::numeric_limits<double>::infinity();
  const double nan = std::numeric_limits<double>::quiet_NaN();
  check_refused_state(with("weights", {1, 2}), "weights: expected an entry of a batch-norm layer");
  check_refused_state(with("gamma", {1, 2}), "weight: expected it once, got it by another name");
  check_refused_state(with("bias", {1, 2, 3}), "bias: expected 2 numbers, got 3");
  check_refused_state(with("running_mean", {}), "running_mean: expected 2 numbers, got 0");
  check_refused_state(with("weight", {1, nan}),
                      "weight: expected numbers in the layer's range, got nan in channel 1");
  check_refused_state(with("bias", {-infinity, 0}), "bias: expected numbers in the layer's range");
  check_refused_state(
      with("running_mean", {0, 1e39}),
      "running_mean: expected numbers in the layer's range, got 1e+39 in channel 1");
  check_refused_state(
      with("running_var", {1, -0.5}),
      "running_var: expected variances in the layer's range, got -0.5 in channel 1");
  check_refused_state(with("num_batches_tracked", {-1}), "num_batches_tracked: expected a count");
  check_refused_state(with("num_batches_tracked", {0.5}),
                      "num_batches_tracked: expected a count of batches, got 0.5: federated.hpp");
  check_refused_state(with("num_batches_tracked", {1e300}),
                      "num_batches_tracked: expected a count");
  check_refused_state(with("num_batches_tracked", {nan}), "num_batches_tracked: expected a count");
  check_refused_state(with("num_batches_tracked", {1, 2}),
                      "num_batches_tracked: expected one number, got 2");
}

TEST_CASE("a layer with a vector of a wrong length, or that was moved from, has no state",
          "[state]") {
  BatchNorm1d<float> bn(2);
  bn.beta().resize(3);
  testing::check_throws<std::logic_error>(
      {"[batchnorm::state_dict] expected beta of length 2, got 3"},
      [&] { static_cast<void>(state_dict(bn, "p.")); });
  Options options;
  options.scale = false;
  BatchNorm1d<float> shifting(2, options);
  shifting.gamma().resize(2);
  testing::check_throws<std::logic_error>(
      {"[batchnorm::state_dict] expected gamma of length 0, got 2"},
      [&] { static_cast<void>(state_dict(shifting)); });
  BatchNorm1d<float> from(2);
  const BatchNorm1d<float> to = std::move(from);
  testing::check_throws<std::logic_error>(
      {"[batchnorm::state_dict] expected a layer, got one that was moved from"},
      [&] { static_cast<void>(state_dict(from)); });
  CHECK(state_dict(to).size() == 5);
}

TEST_CASE("under a cumulative average a loaded layer goes on from the loaded count", "[state]") {
  Options options;
  options.momentum = Momentum::cumulative();
  BatchNorm1d<double> bn(2, options);
  Eigen::MatrixXd broken(2, 2), x(2, 2);
  broken << 1, std::numeric_limits<double>::infinity(), 3, 2;
  x << 4, 10, 6, 12;                      // of mean 5 and 11
  static_cast<void>(bn.forward(broken));  // channel 1 skips a batch
  load_state_dict(bn, {{"weight", vector({1, 1})},
                       {"bias", vector({0, 0})},
                       {"running_mean", vector({1, 3})},
                       {"running_var", vector({1, 1})},
                       {"num_batches_tracked", vector({3})}});
  static_cast<void>(bn.forward(x));
  CHECK(bn.running_mean()[0] == Approx(1 * 0.75 + 5 * 0.25));
  CHECK(bn.running_mean()[1] == Approx(3 * 0.75 + 11 * 0.25));
}
