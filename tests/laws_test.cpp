// SPDX-License-Identifier: MIT
// What holds for every scalar, rank, storage order, container and channel axis.

#include <cmath>
#include <cstdint>
#include <limits>

#include "support/check_layer.hpp"

using batchnorm::ChannelAxis;
using batchnorm::Momentum;
using batchnorm::Options;
using batchnorm::SingleValue;
using batchnorm::VarianceEstimate;
using testing::at;
using testing::Index;
using testing::Kind;
using testing::State;
using testing::Values;

namespace {

/// Every kind of layer. Halves round with 2^-11 and steps of 2^-24, bfloat16 with 2^-8.
const std::vector<Kind>& kinds() {
  static const std::vector<Kind> all = [] {
    std::vector<Kind> k;
    testing::add_kinds<float>(k, "float", 0, 0);
    testing::add_kinds<double>(k, "double", 0, 0);
    testing::add_kinds<Eigen::half>(k, "half", 0x1p-11, 0x1p-25);
    testing::add_kinds<Eigen::bfloat16>(k, "bfloat16", 0x1p-8, 0x1p-134);
    return k;
  }();
  return all;
}

constexpr ChannelAxis axes[] = {ChannelAxis::first, ChannelAxis::last};

/// Calls f(kind, axis) for every kind of layer and either place of the channel.
template <class F>
void for_all_kinds(const F& f) {
  REQUIRE(kinds().size() == 40);
  for (const Kind& kind : kinds()) {
    for (const ChannelAxis axis : axes) {
      INFO(kind.name << (axis == ChannelAxis::first ? ", channel first" : ", channel last"));
      f(kind, axis);
    }
  }
}

Options with_axis(ChannelAxis axis) {
  Options options;
  options.channel_axis = axis;
  return options;
}

/// Random values of a kind's scalar, in its spatial dimensions.
Values batch(const Kind& kind, Index n, Index c, std::uint64_t seed) {
  return kind.rounded(testing::random_values(n, c, testing::small_spatial(kind.rank), seed));
}

/// A layer and the reference layer through forward and backward, in training and in eval mode.
void check_against_reference(const Kind& kind, const Options& options, Index n, Index c,
                             const std::vector<Index>& spatial, std::uint64_t seed) {
  testing::Random random(seed);
  const auto layer = kind.layer(c, options);
  testing::randomize(*layer, random);
  testing::ReferenceLayer reference(c, options);
  for (const bool training : {true, true, false, true, false}) {
    INFO("n " << n << ", channels " << c << (training ? ", training" : ", eval"));
    const Values x = kind.rounded(testing::random_values(n, c, spatial, random.bits()));
    const Values dy = kind.rounded(testing::random_values(n, c, spatial, random.bits()));
    copy_state(layer->state(), reference);
    layer->train(training);
    reference.training = training;

    const Values y = layer->forward(x), expected_y = reference.forward(x);
    const State state = layer->state();
    CHECK(error_of_y(kind, reference, x, y, expected_y) <= 1);
    CHECK(error_of_statistics(kind, reference, state) <= 1);
    if (options.track_running_stats) CHECK(state.counter == reference.counter);

    const Values dx = layer->backward(x, dy);
    testing::check_backward(kind, reference, x, dy, dx, layer->state());
  }
}

/// mean and population variance of each channel, in long double.
testing::ReferenceLayer measured(const Values& v) {
  testing::ReferenceLayer layer(v.channels, {});
  layer.forward(v);
  return layer;
}

/// |a - b| at its largest.
double distance(const Values& a, const Values& b) {
  testing::Worst worst;
  REQUIRE(a.data.size() == b.data.size());
  for (std::size_t i = 0; i < a.data.size(); ++i) worst.see(a.data[i], b.data[i], 1);
  return worst.ratio();
}

/// What two results of size up to `size` may differ by, each within its promise.
double twice_the_error(const Kind& kind, double size) {
  return 2 * ((kind.is_double ? 1e-12 : 6e-7) + kind.unit) * size + 2 * kind.small;
}

double largest(const Values& v) {
  return distance(v, v.mapped([](double) { return 0.0; }));
}

}  // namespace

TEST_CASE("every kind of layer computes what the definition says, forward and backward", "[laws]") {
  for_all_kinds([](const Kind& kind, ChannelAxis axis) {
    check_against_reference(kind, with_axis(axis), 4, 3, testing::small_spatial(kind.rank), 1);
    check_against_reference(kind, with_axis(axis), 37, 5, testing::small_spatial(kind.rank), 2);
  });
}

TEST_CASE("every option changes what the definition says it changes", "[laws]") {
  for_all_kinds([](const Kind& kind, ChannelAxis axis) {
    std::vector<Options> variants(9, with_axis(axis));
    variants[0].eps = 0.5;
    variants[1].momentum = Momentum::weight_of_old(0.7);
    variants[2].momentum = Momentum::cumulative();
    variants[3].running_variance = VarianceEstimate::population;
    variants[4].scale = false;
    variants[5].shift = false;
    variants[6].scale = variants[6].shift = false;
    variants[7].track_running_stats = false;
    variants[8].momentum = Momentum::weight_of_new(1);
    for (const Options& options : variants) {
      check_against_reference(kind, options, 6, 4, testing::small_spatial(kind.rank), 3);
    }
  });
}

TEST_CASE("any number of channels and positions is right, whatever the width of a vector",
          "[laws]") {
  const std::vector<std::pair<Index, std::vector<Index>>> shapes = {
      {1, {7, 7}},  {2, {1, 1}},  {2, {49, 41}}, {19, {7, 7}},   {19, {1, 1}},  {23, {3, 5}},
      {33, {3, 5}}, {33, {1, 1}}, {130, {7, 7}}, {1030, {1, 1}}, {1030, {1, 3}}};
  for (const Kind& kind : kinds()) {
    if (kind.rank != 4) continue;
    for (const ChannelAxis axis : axes) {
      INFO(kind.name << (axis == ChannelAxis::first ? ", channel first" : ", channel last"));
      for (const auto& [channels, spatial] : shapes) {
        check_against_reference(kind, with_axis(axis), 3, channels, spatial, 4);
      }
    }
  }
}

TEST_CASE("large batches of few and many channels are right", "[laws]") {
  for (const Kind& kind : kinds()) {
    if (kind.rank != 2) continue;
    INFO(kind.name);
    check_against_reference(kind, {}, 4099, 3, {}, 5);
    check_against_reference(kind, {}, 70, 1030, {}, 6);
  }
}

TEST_CASE("a bfloat16 y halfway between two goes to the even one", "[laws]") {
  Options options;
  options.eps = 0.25;
  batchnorm::BatchNorm1d<Eigen::bfloat16> layer(3, options);
  layer.running_var().setConstant(0.75f);  // y = x + beta
  layer.beta().setConstant(0x1p-8f);       // half of bfloat16's step from 1 on
  layer.eval();
  Eigen::Matrix<Eigen::bfloat16, Eigen::Dynamic, Eigen::Dynamic> x(66, 3);  // more than vectors
  for (Index n = 0; n < 66; ++n) x.row(n).setConstant(Eigen::bfloat16(n % 2 ? 1 + 0x1p-7f : 1.f));
  const auto y = layer.forward(x);
  for (Index n = 0; n < 66; ++n) {
    for (Index c = 0; c < 3; ++c) {
      CHECK(static_cast<float>(y(n, c)) == (n % 2 ? 1 + 0x1p-6f : 1.f));
    }
  }
}

TEST_CASE("training output has mean 0 and variance var / (var + eps)", "[laws]") {
  for_all_kinds([](const Kind& kind, ChannelAxis axis) {
    const Values x = batch(kind, 64, 3, 7);
    const Values y = kind.layer(3, with_axis(axis))->forward(x);
    const auto of_x = measured(x), of_y = measured(y);
    for (std::size_t c = 0; c < 3; ++c) {
      const long double var = of_x.var[c];
      // |y| stays below 8: so does the error of the mean in units of a value's, and the variance's
      // in those of 2 |y|.
      const double error = twice_the_error(kind, 8) / 2;
      CHECK(std::abs(static_cast<double>(of_y.mean[c])) <= error);
      CHECK(std::abs(static_cast<double>(of_y.var[c] - var / (var + 1e-5L))) <= 2 * error);
    }
  });
}

TEST_CASE("training output does not depend on the input's offset and scale", "[laws]") {
  for_all_kinds([](const Kind& kind, ChannelAxis axis) {
    // Multiples of 1/8 that every scalar holds, shifted and scaled ones too.
    const Values x =
        testing::random_values(64, 3, testing::small_spatial(kind.rank), 8).mapped([](double v) {
          return std::round(4 * v) / 8;
        });
    const Values shifted = x.mapped([](double v) { return v - 4; });
    const Values scaled = x.mapped([](double v) { return v * 4; });
    REQUIRE(kind.rounded(shifted).data == shifted.data);
    Options options = with_axis(axis);
    const Values y = kind.layer(3, options)->forward(x);
    const double allowed = twice_the_error(kind, largest(y));
    CHECK(distance(kind.layer(3, options)->forward(shifted), y) <= allowed);
    options.eps = 16 * 1e-5;
    CHECK(distance(kind.layer(3, options)->forward(scaled), y) <= allowed);
    const Values negated = kind.layer(3, with_axis(axis))->forward(x.mapped(std::negate<>()));
    CHECK(distance(negated.mapped(std::negate<>()), y) <= allowed);
  });
}

TEST_CASE("the order of samples and positions does not matter", "[laws]") {
  for_all_kinds([](const Kind& kind, ChannelAxis axis) {
    const Values x = batch(kind, 8, 3, 9);
    Values turned = x, expected = x;
    const auto turn = [](const Values& from, Values& to) {
      from.each([&](Index n, Index c, Index p) {
        to(from.samples - 1 - n, c, from.positions - 1 - p) = from(n, c, p);
      });
    };
    turn(x, turned);
    turn(kind.layer(3, with_axis(axis))->forward(x), expected);
    const Values y = kind.layer(3, with_axis(axis))->forward(turned);
    CHECK(distance(y, expected) <= twice_the_error(kind, largest(y)));
  });
}

TEST_CASE("channels do not see each other", "[laws]") {
  for_all_kinds([](const Kind& kind, ChannelAxis axis) {
    const Values x = batch(kind, 5, 9, 10);
    Values changed = x;
    x.each([&](Index n, Index c, Index p) {
      if (c != 4) changed(n, c, p) = -3 * changed(n, c, p) + 1;
    });
    const Values y = kind.layer(9, with_axis(axis))->forward(x);
    const Values z = kind.layer(9, with_axis(axis))->forward(kind.rounded(changed));
    bool same = true;
    y.each([&](Index n, Index c, Index p) { same = same && (c != 4 || y(n, c, p) == z(n, c, p)); });
    CHECK(same);
  });
}

TEST_CASE("eval mode is affine in x, repeats itself and changes nothing", "[laws]") {
  for_all_kinds([](const Kind& kind, ChannelAxis axis) {
    const auto spatial = testing::small_spatial(kind.rank);
    const auto layer = kind.layer(3, with_axis(axis));
    testing::Random random(11);
    testing::randomize(*layer, random);
    layer->train(false);
    const State before = layer->state();
    const auto on_eighths = [](double v) { return std::round(4 * v) / 8; };
    const Values a = testing::random_values(6, 3, spatial, 12).mapped(on_eighths);
    const Values b = testing::random_values(6, 3, spatial, 13).mapped(on_eighths);
    Values middle = a;
    for (std::size_t i = 0; i < middle.data.size(); ++i) {
      middle.data[i] = (a.data[i] + b.data[i]) / 2;
    }
    REQUIRE(kind.rounded(middle).data == middle.data);

    const Values ya = layer->forward(a), yb = layer->forward(b);
    Values expected = ya;
    for (std::size_t i = 0; i < expected.data.size(); ++i) {
      expected.data[i] = (ya.data[i] + yb.data[i]) / 2;
    }
    const Values y = layer->forward(middle);
    CHECK(distance(y, expected) <= twice_the_error(kind, std::max(largest(ya), largest(yb)) + 1));
    CHECK(layer->forward(middle).data == y.data);
    CHECK(layer->state() == before);
  });
}

TEST_CASE("gamma 1 and beta 0 give what a layer without them gives", "[laws]") {
  for_all_kinds([](const Kind& kind, ChannelAxis axis) {
    const Values x = batch(kind, 5, 3, 14), dy = batch(kind, 5, 3, 15);
    Options bare = with_axis(axis);
    bare.scale = bare.shift = false;
    const auto layer = kind.layer(3, with_axis(axis)), without = kind.layer(3, bare);
    CHECK(layer->forward(x).data == without->forward(x).data);
    CHECK(layer->backward(x, dy).data == without->backward(x, dy).data);
  });
}

TEST_CASE("a layer without running statistics gives the same in both modes", "[laws]") {
  for_all_kinds([](const Kind& kind, ChannelAxis axis) {
    const Values x = batch(kind, 5, 3, 16), dy = batch(kind, 5, 3, 17);
    Options untracked = with_axis(axis);
    untracked.track_running_stats = false;
    const auto layer = kind.layer(3, untracked), tracked = kind.layer(3, with_axis(axis));
    const Values y = layer->forward(x), dx = layer->backward(x, dy);
    CHECK(y.data == tracked->forward(x).data);
    layer->train(false);
    CHECK(layer->forward(x).data == y.data);
    CHECK(layer->backward(x, dy).data == dx.data);
    CHECK(layer->state().counter == 0);
    CHECK(layer->state().running_mean.empty());
    CHECK(layer->state().running_var.empty());
  });
}

TEST_CASE("all layouts of the same values give the same result", "[laws]") {
  for (const int rank : {2, 3, 4, 5}) {
    const auto spatial = testing::small_spatial(rank);
    // Exact in every scalar, so that all see the same values.
    const auto on_eighths = [](double v) { return std::round(4 * v) / 8; };
    const Values x = testing::random_values(9, 5, spatial, 18).mapped(on_eighths);
    const Values dy = testing::random_values(9, 5, spatial, 19).mapped(on_eighths);
    Values y = x, dx = x;  // the first layout's, in float and in double
    const Kind* first = nullptr;
    for (const Kind& kind : kinds()) {
      if (kind.rank != rank) continue;
      for (const ChannelAxis axis : axes) {
        INFO(kind.name << (axis == ChannelAxis::first ? ", channel first" : ", channel last"));
        const auto layer = kind.layer(5, with_axis(axis));
        const Values this_y = layer->forward(x), this_dx = layer->backward(x, dy);
        if (!first) {
          first = &kind;
          y = this_y;
          dx = this_dx;
        }
        const Kind& coarser = kind.is_double ? *first : kind;
        CHECK(distance(this_y, y) <= twice_the_error(coarser, largest(y)));
        CHECK(distance(this_dx, dx) <= 4 * twice_the_error(coarser, largest(dx)));
      }
    }
  }
}

TEST_CASE("one value per channel, accepted, gives beta and no gradient but dbeta", "[laws]") {
  for_all_kinds([](const Kind& kind, ChannelAxis axis) {
    const std::vector<Index> one(at(kind.rank - 2), 1);
    for (const auto variance : {VarianceEstimate::unbiased, VarianceEstimate::population}) {
      Options options = with_axis(axis);
      options.single_value = SingleValue::accept;
      options.running_variance = variance;
      const auto layer = kind.layer(5, options);
      testing::Random random(20);
      testing::randomize(*layer, random);
      const State before = layer->state();
      const Values x = kind.rounded(testing::random_values(1, 5, one, 21));
      const Values dy = kind.rounded(testing::random_values(1, 5, one, 22));
      Values beta = x, zero = x;
      x.each([&](Index n, Index c, Index p) {
        beta(n, c, p) = before.beta[at(c)];
        zero(n, c, p) = 0;
      });
      CHECK(layer->forward(x).data == kind.rounded(beta).data);
      CHECK(layer->backward(x, dy).data == zero.data);
      const State after = layer->state();
      CHECK(after.counter == 1);
      CHECK(after.grad_gamma == before.grad_gamma);
      for (std::size_t c = 0; c < 5; ++c) {
        CHECK(after.grad_beta[c] == Approx(9 + dy.data[c]));
        CHECK(after.running_mean[c] == Approx(0.9 * before.running_mean[c] + 0.1 * x.data[c]));
        if (variance == VarianceEstimate::unbiased) {
          CHECK(after.running_var[c] == before.running_var[c]);
        } else {
          CHECK(after.running_var[c] == Approx(0.9 * before.running_var[c]));
        }
      }
    }
  });
}

TEST_CASE("one value per channel may use the running statistics and leave them alone", "[laws]") {
  for_all_kinds([](const Kind& kind, ChannelAxis axis) {
    const std::vector<Index> one(at(kind.rank - 2), 1);
    Options options = with_axis(axis);
    options.single_value = SingleValue::use_running;
    const auto layer = kind.layer(5, options), evaluating = kind.layer(5, options);
    testing::Random random(23), again(23);
    testing::randomize(*layer, random);
    testing::randomize(*evaluating, again);
    evaluating->train(false);
    const State before = layer->state();
    const Values x = kind.rounded(testing::random_values(1, 5, one, 24));
    const Values dy = kind.rounded(testing::random_values(1, 5, one, 25));
    CHECK(layer->forward(x).data == evaluating->forward(x).data);
    CHECK(layer->state() == before);
    CHECK(layer->backward(x, dy).data == evaluating->backward(x, dy).data);
    CHECK(layer->state() == evaluating->state());
  });
}

TEST_CASE("momentum weighs the new batch, the old value, or all batches alike", "[laws]") {
  for_all_kinds([](const Kind& kind, ChannelAxis axis) {
    const auto spatial = testing::small_spatial(kind.rank);
    std::vector<Values> batches;
    for (std::uint64_t seed = 0; seed < 3; ++seed) {
      batches.push_back(kind.rounded(testing::random_values(6, 2, spatial, 30 + seed)));
    }
    Options options = with_axis(axis);
    options.running_variance = VarianceEstimate::population;
    const auto after_all = [&](Momentum momentum) {
      options.momentum = momentum;
      const auto layer = kind.layer(2, options);
      for (const Values& batch : batches) layer->forward(batch);
      CHECK(layer->state().counter == 3);
      return layer->state();
    };
    const State frozen = after_all(Momentum::weight_of_new(0));
    CHECK(frozen.running_mean == std::vector<double>{0, 0});
    CHECK(frozen.running_var == std::vector<double>{1, 1});
    const State newest = after_all(Momentum::weight_of_new(1));
    const State quarter = after_all(Momentum::weight_of_new(0.25));
    const State also_quarter = after_all(Momentum::weight_of_old(0.75));
    const State average = after_all(Momentum::cumulative());
    CHECK(quarter == also_quarter);
    for (std::size_t c = 0; c < 2; ++c) {
      std::vector<double> mean, var;
      for (const Values& batch : batches) {
        mean.push_back(static_cast<double>(measured(batch).mean[c]));
        var.push_back(static_cast<double>(measured(batch).var[c]));
      }
      // Float statistics, with some roundings each.
      const auto near = [](double v) { return Approx(v).epsilon(2e-6).margin(2e-6); };
      CHECK(newest.running_mean[c] == near(mean[2]));
      CHECK(newest.running_var[c] == near(var[2]));
      CHECK(average.running_mean[c] == near((mean[0] + mean[1] + mean[2]) / 3));
      CHECK(average.running_var[c] == near((var[0] + var[1] + var[2]) / 3));
      // 3/4 to the power of what came after, times 1/4
      CHECK(quarter.running_mean[c] ==
            near(0.140625 * mean[0] + 0.1875 * mean[1] + 0.25 * mean[2]));
      CHECK(quarter.running_var[c] ==
            near(0.421875 + 0.140625 * var[0] + 0.1875 * var[1] + 0.25 * var[2]));
    }
  });
}

TEST_CASE("a cumulative average goes on from the number of batches that a user sets", "[laws]") {
  Options options;
  options.momentum = Momentum::cumulative();
  batchnorm::BatchNorm1d<double> bn(1, options);
  const auto skip_three = [&] {
    for (int batch = 0; batch < 3; ++batch) {
      static_cast<void>(bn.forward(Eigen::Vector2d(std::nan(""), 1)));
    }
  };
  const auto averages = [&](double expected = 2.5) {
    static_cast<void>(bn.forward(Eigen::Vector2d(0, 2)));
    static_cast<void>(bn.forward(Eigen::Vector2d(3, 5)));
    CHECK(bn.running_mean()[0] == Approx(expected).epsilon(1e-15));
  };
  skip_three();
  averages();
  for (const int count : {0, -1}) {
    bn.num_batches_tracked() = count;
    averages();
    CHECK(bn.num_batches_tracked() == 2);
  }
  skip_three();
  bn.num_batches_tracked() = 0;
  bn.set_momentum(Momentum::weight_of_new(0.5));
  averages(2.875);  // 2.5, then 1.75, then 2.875
  bn.set_momentum(Momentum::cumulative());
  averages((2 * 2.875 + 1 + 4) / 4);  // all four batches count
}

TEST_CASE("the counter of batches stops at 2^53, the most that a state can say", "[laws]") {
  batchnorm::BatchNorm1d<double> bn(1);
  bn.num_batches_tracked() = (std::numeric_limits<std::int64_t>::max)();
  static_cast<void>(bn.forward(Eigen::Vector2d(0, 2)));
  CHECK(bn.num_batches_tracked() == std::int64_t{1} << 53);
}

TEST_CASE("backward may be called again, and later changes of mode or statistics do not reach it",
          "[laws]") {
  for_all_kinds([](const Kind& kind, ChannelAxis axis) {
    const Values x = batch(kind, 5, 3, 40), dy = batch(kind, 5, 3, 41);
    for (const bool training : {true, false}) {
      const auto layer = kind.layer(3, with_axis(axis));
      testing::Random random(42);
      testing::randomize(*layer, random);
      layer->train(training);
      layer->forward(x);
      const State before = layer->state();
      const Values dx = layer->backward(x, dy);
      const State once = layer->state();
      layer->train(!training);
      State changed = before;
      for (double& v : changed.running_mean) v += 3;
      for (double& v : changed.running_var) v *= 5;
      layer->set(changed);
      CHECK(layer->backward(x, dy).data == dx.data);
      CHECK(layer->state().grad_gamma == once.grad_gamma);
      CHECK(layer->state().grad_beta == once.grad_beta);
    }
  });
}

TEST_CASE("presets have the numbers of the libraries they are named for", "[laws]") {
  const auto check = [](const Options& o, double eps, Momentum momentum, VarianceEstimate variance,
                        SingleValue single_value) {
    CHECK(o.eps == eps);
    CHECK(o.momentum == momentum);
    CHECK_FALSE(o.momentum.is_cumulative());
    CHECK(o.running_variance == variance);
    CHECK(o.single_value == single_value);
    CHECK(o.scale);
    CHECK(o.shift);
    CHECK(o.track_running_stats);
    CHECK(o.channel_axis == ChannelAxis::first);
    CHECK(o.non_finite == batchnorm::NonFinite::skip_update);
  };
  const auto unbiased = VarianceEstimate::unbiased, population = VarianceEstimate::population;
  const auto new_tenth = Momentum::weight_of_new(0.1), old_99 = Momentum::weight_of_old(0.99);
  check({}, 1e-5, new_tenth, unbiased, SingleValue::reject);
  check(Options::pytorch(), 1e-5, new_tenth, unbiased, SingleValue::reject);
  check(Options::keras(), 1e-3, old_99, population, SingleValue::accept);
  check(Options::flax(), 1e-5, old_99, population, SingleValue::accept);
  check(Options::onnx(), 1e-5, Momentum::weight_of_old(0.9), population, SingleValue::accept);
}

TEST_CASE("momentum can be compared and read", "[laws]") {
  CHECK(Momentum::weight_of_new(0.25).weight_of_new() == 0.25);
  CHECK(Momentum::weight_of_old(0.25).weight_of_new() == 0.75);
  CHECK(Momentum::weight_of_old(0.75) == Momentum::weight_of_new(0.25));
  CHECK(Momentum::weight_of_old(0.75) != Momentum::weight_of_new(0.75));
  CHECK(Momentum::cumulative() == Momentum::cumulative());
  CHECK(Momentum::cumulative() != Momentum::weight_of_new(0));
  CHECK(Momentum::cumulative().is_cumulative());
  CHECK_FALSE(Momentum::weight_of_new(1).is_cumulative());
}
