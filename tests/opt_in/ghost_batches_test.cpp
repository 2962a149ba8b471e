// SPDX-License-Identifier: MIT
// Ghost batches: parts of a batch normalized each by itself, running statistics of the whole.

#include <batchnorm/moments.hpp>
#include <cmath>

#include "support/check_layer.hpp"
#include "support/in_steps.hpp"
#include "support/layer_gradient.hpp"
#include "support/refused.hpp"

using batchnorm::BatchNorm1d;
using batchnorm::BatchNorm2d;
using batchnorm::ChannelAxis;
using batchnorm::GhostBatches;
using batchnorm::Options;
using batchnorm::SingleValue;
using Eigen::MatrixXd;
using testing::at;
using testing::check_refused;
using testing::check_throws;
using testing::Index;
using testing::random_matrix;
using testing::Values;

namespace {

constexpr Index ghost_samples = 4;

template <class Form>
using GhostWrapper = GhostBatches<typename Form::Scalar, testing::spatial_of<Form>>;

template <class Form>
struct InGhostBatches : testing::WrappedLayer<Form, GhostWrapper<Form>> {
  InGhostBatches(Index channels, const Options& options)
      : InGhostBatches::WrappedLayer(channels, options, ghost_samples) {}
};

/// Each ghost batch against a reference layer of its own, statistics against one of the whole batch.
void check_ghosts(const testing::Kind& kind, const Options& options, const Values& any_x,
                  const Values& any_dy, const std::vector<Index>& sizes) {
  const Values x = kind.rounded(any_x), dy = kind.rounded(any_dy);
  const auto layer = kind.layer(x.channels, options);
  testing::Random random(99);
  testing::randomize(*layer, random);
  const testing::State before = layer->state();
  testing::ReferenceLayer whole(x.channels, options);
  testing::copy_state(before, whole);
  static_cast<void>(whole.forward(x));

  const auto xs = testing::cut(x, sizes), dys = testing::cut(dy, sizes);
  const auto ys = testing::cut(layer->forward(x), sizes);
  const auto dxs = testing::cut(layer->backward(x, dy), sizes);
  const testing::State after = layer->state();
  CHECK(error_of_statistics(kind, whole, after) <= 1);
  CHECK(after.counter == 1);

  std::vector<double> dgamma = before.grad_gamma, size_of_dgamma(dgamma.size(), 8);
  for (std::size_t g = 0; g < xs.size(); ++g) {
    testing::ReferenceLayer alone(x.channels, options);
    testing::copy_state(before, alone);
    const Values y = alone.forward(xs[g]), dx = alone.backward(xs[g], dys[g]);
    CHECK(error_of_y(kind, alone, xs[g], ys[g], y) <= 1);
    CHECK(errors_of_gradients(kind, alone, xs[g], dys[g], dxs[g], dx, {}).dx <= 1);
    for (std::size_t c = 0; c < dgamma.size(); ++c) {
      dgamma[c] += static_cast<double>(alone.grad_gamma[c]) - before.grad_gamma[c];
    }
    xs[g].each([&](Index n, Index c, Index p) {
      const double x_hat = static_cast<double>(alone.x_hat(xs[g], n, c, p));
      size_of_dgamma[at(c)] += std::abs(dys[g](n, c, p) * x_hat);
    });
  }
  for (std::size_t c = 0; c < dgamma.size(); ++c) {
    // The bound of the sums, and a rounding in float for each ghost batch's addition.
    const double allowed = kind.is_double ? 1e-12 : 5e-7 + 3 * 6e-8;
    CHECK(std::abs(after.grad_gamma[c] - dgamma[c]) <= allowed * size_of_dgamma[c]);
  }
}

}  // namespace

TEST_CASE("each ghost batch is normalized by itself, and running statistics take them all",
          "[ghost]") {
  for (const testing::Kind& kind : testing::some_kinds<InGhostBatches>()) {
    const auto spatial = testing::small_spatial(kind.rank);
    for (const ChannelAxis axis : {ChannelAxis::first, ChannelAxis::last}) {
      for (const Index channels : {1, 5}) {
        INFO(kind.name << (axis == ChannelAxis::first ? ", first" : ", last"));
        Options options;
        options.channel_axis = axis;
        check_ghosts(kind, options, testing::random_values(10, channels, spatial, 1),
                     testing::random_values(10, channels, spatial, 2), {4, 4, 2});
        check_ghosts(kind, options, testing::random_values(3, channels, spatial, 3),
                     testing::random_values(3, channels, spatial, 4), {3});
      }
    }
  }
}

TEST_CASE("the input gradient of ghost batches is that of dot(dy, y)", "[ghost]") {
  MatrixXd x = random_matrix(7, 3, 3);
  const MatrixXd dy = random_matrix(7, 3, 4);
  Options options;
  options.single_value = SingleValue::accept;  // the last sample is alone
  BatchNorm1d<double> bn(3, options);
  bn.gamma() << 1.5, -0.5, 2;
  GhostBatches steps(bn, 3);
  const auto loss = [&] { return dy.cwiseProduct(steps.forward(x)).sum(); };
  loss();
  const MatrixXd dx = steps.backward(x, dy);
  testing::check_gradients_of(loss, x, dx, bn);
}

TEST_CASE("a reference to a column-major tensor settles the order of ghost batches", "[ghost]") {
  using Rows = Eigen::Tensor<double, 4, Eigen::RowMajor>;
  using Cols = Eigen::Tensor<double, 4>;
  Rows x(4, 2, 3, 2);
  testing::Random(5).fill(x);
  batchnorm::BatchNorm2d<double> bn(2);
  GhostBatches ghost(bn, 2);
  const Rows expected = ghost.forward(x);
  Cols memory(4, 2, 3, 2);
  Eigen::TensorRef<Cols> y(memory);
  ghost.forward(x * 1.0, y);
  for (Index n = 0; n < 4; ++n) {
    for (Index c = 0; c < 2; ++c) CHECK(memory(n, c, 2, 1) == Approx(expected(n, c, 2, 1)));
  }
}

TEST_CASE("ghost batches leave inference as it is, to the bit", "[ghost]") {
  testing::Random random(5);
  Eigen::Tensor<float, 4, Eigen::RowMajor> x(9, 3, 4, 5), dy(9, 3, 4, 5);
  random.fill(x, 2, 3);
  random.fill(dy);
  for (const bool tracked : {true, false}) {
    Options options;
    options.track_running_stats = tracked;
    batchnorm::BatchNorm2d<float> bn(3, options);
    GhostBatches ghost(bn, 2);
    static_cast<void>(bn.forward(x));
    bn.eval();
    BatchNorm2d<float> plain = bn;
    CHECK(testing::same_bits(ghost.forward(x), plain.forward(x)));
    CHECK(testing::same_bits(ghost.backward(x, dy), plain.backward(x, dy)));
    CHECK(testing::same_state(bn, plain));
  }
}

TEST_CASE("after a forward in eval mode, backward of ghost batches is the layer's", "[ghost]") {
  const MatrixXd x = random_matrix(6, 2, 6), dy = random_matrix(6, 2, 8);
  BatchNorm1d<double> bn(2);
  GhostBatches ghost(bn, 3);
  static_cast<void>(ghost.forward(x));  // its two ghost batches are not differentiated any more
  bn.eval();
  BatchNorm1d<double> plain = bn;
  CHECK(testing::same_bits(ghost.forward(x), plain.forward(x)));
  CHECK(testing::same_bits(ghost.backward(x, dy), plain.backward(x, dy)));
  CHECK(testing::same_state(bn, plain));
  // That of this object, whatever else the layer has normalized since.
  static_cast<void>(ghost.forward(x)), static_cast<void>(plain.forward(x));
  const batchnorm::Saved by_running = plain.saved();
  bn.train();
  static_cast<void>(bn.forward(dy));
  CHECK(testing::same_bits(ghost.backward(x, dy), plain.backward(by_running, x, dy)));
  check_throws<std::logic_error>({"call forward(x) first"},
                                 [&] { static_cast<void>(GhostBatches(bn, 3).backward(dy, dy)); });
}

TEST_CASE("a ghost batch of one value is judged as a batch of one value", "[ghost]") {
  const MatrixXd x = random_matrix(5, 2, 6), four = x.topRows(4);
  {
    BatchNorm1d<double> bn(2);
    GhostBatches ghost(bn, 2);
    MatrixXd y = MatrixXd::Constant(5, 2, 7);
    check_refused<std::invalid_argument>(
        bn, {"[GhostBatches::forward]", "more than one value per channel, got 1"},
        [&] { ghost.forward(x, y); });
    CHECK(y == MatrixXd::Constant(5, 2, 7));  // the first two ghost batches neither
  }
  Options options;
  options.single_value = SingleValue::use_running;
  BatchNorm1d<double> bn(2, options), whole(2, options);
  GhostBatches ghost(bn, 2);
  const MatrixXd y = ghost.forward(x);
  CHECK(y.row(4).isApprox(x.row(4) / std::sqrt(1 + 1e-5)));  // by running 0 and 1
  static_cast<void>(whole.forward(four));
  CHECK(bn.running_mean().isApprox(whole.running_mean()));
  CHECK(bn.running_var().isApprox(whole.running_var()));
}

TEST_CASE("an empty batch is one empty ghost batch, which changes nothing", "[ghost]") {
  Options options;
  options.single_value = SingleValue::accept;
  BatchNorm2d<double> bn(2, options);
  const auto before = bn;
  GhostBatches ghost(bn, 2);
  for (const Eigen::Index samples : {0, 3}) {
    const Eigen::Tensor<double, 4> none(samples, 2, 4, 0);
    const auto y = ghost.forward(none);
    CHECK(y.dimensions() == none.dimensions());
    CHECK(ghost.backward(none, none).dimensions() == none.dimensions());
    CHECK(testing::same_state(bn, before));
  }
}

TEST_CASE("ghost batches name what is wrong", "[ghost]") {
  BatchNorm1d<double> bn(2);
  testing::check_throws<std::invalid_argument>(
      {"[GhostBatches::GhostBatches]", "at least 1 sample", "got 0"}, [&] { GhostBatches(bn, 0); });
  GhostBatches ghost(bn, 3);
  const MatrixXd x = random_matrix(6, 2, 7);
  check_refused<std::logic_error>(bn, {"expected a forward before backward"},
                                  [&] { static_cast<void>(ghost.backward(x, x)); });
  static_cast<void>(ghost.forward(x));
  check_refused<std::invalid_argument>(bn, {"[GhostBatches::backward]", "(6, 2)", "(5, 2)"}, [&] {
    static_cast<void>(ghost.backward(x.topRows(5), x.topRows(5)));
  });
  check_refused<std::invalid_argument>(
      bn, {"[GhostBatches::forward]", "expected 2 channels, got 3 in (4, 3)"},
      [&] { static_cast<void>(ghost.forward(MatrixXd(4, 3))); });
}
