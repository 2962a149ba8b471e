// SPDX-License-Identifier: MIT
// infer: the y of eval mode on a const layer, from any number of threads.

#include <array>
#include <atomic>
#include <batchnorm/batchnorm.hpp>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <thread>
#include <unsupported/Eigen/CXX11/Tensor>
#include <utility>
#include <vector>

#include "support/allocations.hpp"
#include "support/catch.hpp"
#include "support/random.hpp"
#include "support/refused.hpp"

using batchnorm::BatchNorm1d, batchnorm::BatchNorm2d, batchnorm::BatchNorm3d;
using batchnorm::ChannelAxis, batchnorm::Options;
using Eigen::Index;
using testing::check_refused, testing::check_throws, testing::filled;
using testing::same_bits, testing::same_state;

using Tensor4 = Eigen::Tensor<float, 4, Eigen::RowMajor>;

namespace {

/// A layer in training mode with parameters and running statistics other than the first ones.
template <class Layer, class X>
Layer trained(const X& x, Index channels, Options options = {}) {
  Layer layer(channels, options);
  testing::Random random(7);
  random.fill(layer.gamma());
  random.fill(layer.beta());
  layer.forward(x, X(x));
  return layer;
}

/// infer(x) has the bits of forward(x) in eval mode, in both forms and over x. It changes nothing.
template <class Layer, class X>
void check_infer(const X& x, Index channels, Options options = {}) {
  const Layer layer = trained<Layer>(x, channels, options);
  Layer in_eval = layer;
  in_eval.eval();
  const X expected = in_eval.forward(x);
  CHECK(same_bits(X(layer.infer(x)), expected));
  X y = x;
  y.setZero();
  layer.infer(x, y);
  CHECK(same_bits(y, expected));
  X over = x;
  layer.infer(over, over);
  CHECK(same_bits(over, expected));
  CHECK(layer.is_training());
  CHECK(same_state(layer, trained<Layer>(x, channels, options)));
  CHECK(same_bits(X(in_eval.infer(x)), expected));
}

}  // namespace

TEMPLATE_TEST_CASE("infer has the bits of forward in eval mode, in every layout", "[infer]", float,
                   double, Eigen::half, Eigen::bfloat16) {
  using Eigen::ColMajor, Eigen::RowMajor;
  Options last;
  last.channel_axis = ChannelAxis::last;
  // 19 channels and 35 positions: neither fills the vectors of the loops.
  const auto row = filled(Eigen::Tensor<TestType, 4, RowMajor>(3, 19, 5, 7), 1);
  const auto column = filled(Eigen::Tensor<TestType, 4, ColMajor>(3, 19, 5, 7), 2);
  check_infer<BatchNorm2d<TestType>>(row, 19);
  check_infer<BatchNorm2d<TestType>>(column, 19);
  check_infer<BatchNorm2d<TestType>>(row, 7, last);
  check_infer<BatchNorm2d<TestType>>(column, 7, last);
  using Matrix = Eigen::Matrix<TestType, Eigen::Dynamic, Eigen::Dynamic>;
  check_infer<BatchNorm1d<TestType>>(filled(Matrix(33, 19), 3), 19);
  check_infer<BatchNorm1d<TestType>>(filled(Eigen::Tensor<TestType, 3>(4, 5, 6), 4), 5);
  check_infer<BatchNorm3d<TestType>>(filled(Eigen::Tensor<TestType, 5>(2, 3, 4, 2, 3), 5), 3);
}

TEST_CASE("infer has the bits of forward without gamma and beta, and with eps 0", "[infer]") {
  const Tensor4 x = filled(Tensor4(4, 3, 5, 2), 6);
  Options bare;
  bare.scale = bare.shift = false;
  check_infer<BatchNorm2d<float>>(x, 3, bare);
  Options exact;
  exact.eps = 0;
  check_infer<BatchNorm2d<float>>(x, 3, exact);
}

TEST_CASE("eps 0 and a running variance of 0 give beta in eval mode, in any number of channels",
          "[infer]") {
  for (const Eigen::Index channels : {1, 3, 4, 9, 20}) {
    Options exact;
    exact.eps = 0;
    BatchNorm2d<float> layer(channels, exact);
    layer.running_var().setZero();
    layer.beta().setConstant(7);
    layer.eval();
    const Tensor4 x = filled(Tensor4(2, channels, 3, 3), 7);
    for (const Tensor4& y : {Tensor4(layer.forward(x)), Tensor4(layer.infer(x))}) {
      for (Eigen::Index i = 0; i < y.size(); ++i) CHECK(y.data()[i] == 7);
    }
  }
}

TEST_CASE("infer takes expressions and strided views, and writes a TensorRef", "[infer]") {
  const Eigen::MatrixXf memory = filled(Eigen::MatrixXf(3, 20), 7);
  const auto layer = trained<BatchNorm1d<float>>(Eigen::MatrixXf(memory.transpose()), 3);
  const Eigen::MatrixXf expected = layer.infer(Eigen::MatrixXf(memory.transpose()));
  CHECK(same_bits(Eigen::MatrixXf(layer.infer(memory.transpose())), expected));
  CHECK(same_bits(layer.infer(Eigen::MatrixXf(memory.transpose()) * 1.f), expected));
  Eigen::MatrixXf y = Eigen::MatrixXf::Zero(3, 20);
  layer.infer(memory.transpose(), y.transpose());
  CHECK(same_bits(Eigen::MatrixXf(y.transpose()), expected));

  const Tensor4 x = filled(Tensor4(2, 3, 4, 2), 8);
  const auto layer2 = trained<BatchNorm2d<float>>(x, 3);
  Tensor4 z = x;
  Eigen::TensorRef<Tensor4> ref = z;
  layer2.infer(ref, ref);
  CHECK(same_bits(z, Tensor4(layer2.infer(x))));
}

TEST_CASE("infer allocates nothing for a y that is there", "[infer]") {
  const Tensor4 x = filled(Tensor4(2, 300, 4, 2), 9);
  const auto layer = trained<BatchNorm2d<float>>(x, 300);
  Tensor4 y = x;
  CHECK(testing::allocations([&] { layer.infer(x, y); }) == 0);
}

TEST_CASE("infer gives an empty batch back", "[infer]") {
  const auto layer = trained<BatchNorm2d<float>>(filled(Tensor4(2, 3, 4, 2), 10), 3);
  CHECK(layer.infer(Tensor4(0, 3, 4, 2)).size() == 0);
  CHECK(layer.infer(Tensor4(2, 3, 0, 2)).dimension(2) == 0);
}

TEST_CASE("infer refuses what forward refuses, and a layer without running statistics", "[infer]") {
  const Tensor4 x = filled(Tensor4(2, 3, 4, 2), 11);
  const auto layer = trained<BatchNorm2d<float>>(x, 3);
  Tensor4 y(2, 3, 2, 4);
  check_refused<std::invalid_argument>(
      layer, {"[BatchNorm2d::infer] expected 3 channels, got 4 in (2, 4, 3, 2)"},
      [&] { static_cast<void>(layer.infer(Tensor4(2, 4, 3, 2))); });
  check_refused<std::invalid_argument>(layer, {"[BatchNorm2d::infer]", "y", "(2, 3, 4, 2)"},
                                       [&] { layer.infer(x, y); });
  std::vector<float> memory(2 * static_cast<std::size_t>(x.size()));
  Eigen::TensorMap<Tensor4> from(memory.data(), 2, 3, 4, 2), to(memory.data() + 1, 2, 3, 4, 2);
  check_refused<std::invalid_argument>(
      layer, {"[BatchNorm2d::infer]", "y to be x itself or apart from it"},
      [&] { layer.infer(from, to); });

  Options untracked;
  untracked.track_running_stats = false;
  const BatchNorm2d<float> by_batch(3, untracked);
  check_refused<std::logic_error>(by_batch, {"[BatchNorm2d::infer]", "running statistics"},
                                  [&] { static_cast<void>(by_batch.infer(x)); });

  auto moved = layer;
  const auto target = std::move(moved);
  check_throws<std::logic_error>({"[BatchNorm2d::infer]", "moved"},
                                 [&] { static_cast<void>(moved.infer(x)); });
  moved = layer;
  moved.gamma().resize(2);
  check_refused<std::logic_error>(moved, {"[BatchNorm2d::infer]", "gamma", "3", "2"},
                                  [&] { static_cast<void>(moved.infer(x)); });
}

TEST_CASE("threads infer on one layer, and each gets the bits of its own batch", "[infer]") {
  constexpr std::size_t threads = 4;
  std::array<Tensor4, threads> x, expected;
  for (std::size_t t = 0; t < threads; ++t) {
    const Index samples = static_cast<Index>(t) + 1;
    x[t] = filled(Tensor4(samples, 17, 6, 5), 20 + t);
  }
  const auto layer = trained<BatchNorm2d<float>>(x[0], 17);
  for (std::size_t t = 0; t < threads; ++t) expected[t] = layer.infer(x[t]);
  std::atomic<int> wrong{0};
  std::vector<std::thread> running;
  for (std::size_t t = 0; t < threads; ++t) {
    running.emplace_back([&, t] {
      Tensor4 y = x[t];
      for (int k = 0; k < 200; ++k) {
        layer.infer(x[t], y);
        if (!same_bits(y, expected[t])) ++wrong;
      }
    });
  }
  for (std::thread& thread : running) thread.join();
  CHECK(wrong == 0);
}

TEST_CASE("two threads in forward: a call is done, or throws an error that names infer",
          "[infer]") {
  const Tensor4 x = filled(Tensor4(8, 16, 20, 20), 30);
  BatchNorm2d<float> layer(16);
  layer.eval();
  const Tensor4 expected = layer.infer(x);
  std::atomic<int> refused{0}, wrong{0}, ready{0};
  const auto work = [&] {
    Tensor4 y = x;
    ++ready;
    while (ready < 2) std::this_thread::yield();
    for (int k = 0; k < 100000 && refused == 0; ++k) {
      try {
        layer.forward(x, y);
        if (!same_bits(y, expected)) ++wrong;
      } catch (const std::logic_error& e) {
        const std::string message = e.what();
        if (message.find("[BatchNorm2d::forward]") == std::string::npos) ++wrong;
        if (message.find("infer") == std::string::npos) ++wrong;
        ++refused;
      }
    }
  };
  std::thread other(work);
  work();
  other.join();
  CHECK(wrong == 0);
  CHECK(refused > 0);
  layer.forward(x, Tensor4(x));  // the layer is free again
  CHECK_NOTHROW(layer.backward(x, x));
}

TEST_CASE("a copy of a layer that a thread is inside is free, and so is one after an error",
          "[infer]") {
  Tensor4 x = filled(Tensor4(2, 3, 4, 2), 31);
  BatchNorm2d<float> layer(3);
  {
    const batchnorm::detail::Entered inside(layer.core().in_use, {"a", "test"});
    check_throws<std::logic_error>({"[BatchNorm2d::forward]", "infer"},
                                   [&] { static_cast<void>(layer.forward(x)); });
    check_throws<std::logic_error>({"[BatchNorm2d::backward]", "infer"},
                                   [&] { static_cast<void>(layer.backward(x, x)); });
    CHECK_NOTHROW(layer.infer(x));
    BatchNorm2d<float> copy = layer;
    CHECK_NOTHROW(copy.forward(x));
    copy = layer;
    CHECK_NOTHROW(copy.forward(x));
  }
  CHECK_THROWS(layer.backward(x, x));  // no forward came before
  CHECK_NOTHROW(layer.forward(x));
  CHECK_THROWS(layer.forward(x, x));  // y over x in training
  CHECK_NOTHROW(layer.backward(x, x));
}
