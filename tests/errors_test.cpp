// SPDX-License-Identifier: MIT
// Every call that is refused: what it throws, what it says, and that nothing has changed.

#include <batchnorm/batchnorm.hpp>
#include <stdexcept>
#include <string>
#include <unsupported/Eigen/CXX11/Tensor>
#include <utility>

#include "support/catch.hpp"
#include "support/random.hpp"
#include "support/refused.hpp"

using batchnorm::BatchNorm1d;
using batchnorm::BatchNorm2d;
using batchnorm::BatchNorm3d;
using batchnorm::ChannelAxis;
using batchnorm::Options;
using batchnorm::SingleValue;
using Eigen::Index;
using testing::check_refused;
using testing::check_throws;
using testing::filled;
using testing::same_bits;
using testing::same_state;

using Matrix = Eigen::MatrixXf;
using Tensor2 = Eigen::Tensor<float, 2, Eigen::RowMajor>;
using Tensor3 = Eigen::Tensor<float, 3, Eigen::RowMajor>;
using Tensor4 = Eigen::Tensor<float, 4, Eigen::RowMajor>;
using Tensor5 = Eigen::Tensor<float, 5>;
using Map4 = Eigen::TensorMap<Tensor4>;

namespace {

/// A layer of 3 channels that has seen a batch and has gradients, so that changes would show.
template <class Layer, class X>
Layer used_layer(const X& x, Options options = {}) {
  Layer layer(3, options);
  layer.gamma().setConstant(1.5f);
  static_cast<void>(layer.forward(x));
  static_cast<void>(layer.backward(x, x));
  return layer;
}

/// What the layer's next backward gives is a part of its state that no member shows.
template <class Layer, class X>
X gradient_of(Layer layer, const X& x) {
  return layer.backward(x, x);
}

const Tensor4 x4 = filled(Tensor4(2, 3, 2, 5), 1), dy4 = filled(Tensor4(2, 3, 2, 5), 2);

}  // namespace

TEST_CASE("a layer of no channels is refused", "[errors]") {
  check_throws<std::invalid_argument>({"BatchNorm1d", "channel", "0"},
                                      [] { BatchNorm1d<float>{0}; });
  check_throws<std::invalid_argument>({"BatchNorm2d", "channel", "-3"},
                                      [] { BatchNorm2d<double>{-3}; });
  check_throws<std::invalid_argument>({"BatchNorm3d", "channel", "0"},
                                      [] { BatchNorm3d<Eigen::half>{0}; });
}

TEST_CASE("a wrong number of channels is refused by forward", "[errors]") {
  BatchNorm2d<float> wide(64);
  const Tensor4 x = filled(Tensor4(8, 32, 7, 7), 3);
  check_refused<std::invalid_argument>(
      wide, {"[BatchNorm2d::forward] expected 64 channels, got 32 in (8, 32, 7, 7)"},
      [&] { static_cast<void>(wide.forward(x)); });

  auto layer = used_layer<BatchNorm2d<float>>(x4);
  for (const bool training : {true, false}) {
    layer.train(training);
    for (const Index channels : {1, 2, 4}) {
      const Tensor4 other = filled(Tensor4(2, channels, 2, 5), 4);
      const std::string got = std::to_string(channels);
      Tensor4 y = other;
      const auto refused = [&](const auto& call) {
        check_refused<std::invalid_argument>(layer,
                                             {"[BatchNorm2d::forward]", "expected 3 channels",
                                              "got " + got, "(2, " + got + ", 2, 5)"},
                                             call);
      };
      refused([&] { static_cast<void>(layer.forward(other)); });
      refused([&] { layer.forward(other, y); });
      refused([&] { static_cast<void>(layer.forward(other * 2.f)); });
      CHECK(same_bits(y, other));
    }
  }
  CHECK(same_bits(gradient_of(layer, x4), gradient_of(used_layer<BatchNorm2d<float>>(x4), x4)));
}

TEST_CASE("a wrong number of channels is refused for every rank, matrix and channel axis",
          "[errors]") {
  BatchNorm1d<float> one(3);
  check_refused<std::invalid_argument>(
      one, {"[BatchNorm1d::forward] expected 3 channels, got 4 in (5, 4)"},
      [&] { static_cast<void>(one.forward(Matrix(Matrix::Ones(5, 4)))); });
  check_refused<std::invalid_argument>(
      one, {"[BatchNorm1d::forward] expected 3 channels, got 5 in (4, 5)"},
      [&] { static_cast<void>(one.forward(Matrix::Ones(5, 4).transpose())); });
  check_refused<std::invalid_argument>(
      one, {"[BatchNorm1d::forward] expected 3 channels, got 2 in (5, 2)"},
      [&] { static_cast<void>(one.forward(filled(Tensor2(5, 2), 5))); });
  check_refused<std::invalid_argument>(
      one, {"[BatchNorm1d::forward] expected 3 channels, got 4 in (5, 4, 3)"},
      [&] { static_cast<void>(one.forward(filled(Tensor3(5, 4, 3), 6))); });

  BatchNorm3d<float> three(3);
  check_refused<std::invalid_argument>(
      three, {"[BatchNorm3d::forward] expected 3 channels, got 2 in (3, 2, 3, 3, 3)"},
      [&] { static_cast<void>(three.forward(filled(Tensor5(3, 2, 3, 3, 3), 7))); });

  Options last;
  last.channel_axis = ChannelAxis::last;
  BatchNorm2d<float> channels_last(3, last);
  check_refused<std::invalid_argument>(
      channels_last, {"[BatchNorm2d::forward] expected 3 channels, got 4 in (3, 3, 3, 4)"},
      [&] { static_cast<void>(channels_last.forward(filled(Tensor4(3, 3, 3, 4), 8))); });
}

TEST_CASE("a wrong number of channels that looks like a known mistake says which", "[errors]") {
  BatchNorm1d<float> one(3);
  const auto says = [](auto& layer, const char* message, const auto& x) {
    check_refused<std::invalid_argument>(layer, {message},
                                         [&] { static_cast<void>(layer.forward(x)); });
  };
  says(one, "got 100 in (3, 100): samples in columns? Transpose x", Matrix(Matrix::Ones(3, 100)));
  says(one, "got 1 in (3, 1): one sample? Transpose x", Eigen::VectorXf(Eigen::VectorXf::Ones(3)));
  BatchNorm2d<float> first(3);
  says(first, "got 5 in (4, 5, 5, 3): channels last? See ChannelAxis",
       filled(Tensor4(4, 5, 5, 3), 14));
  says(first, "got 5 in (6, 5, 3, 4): dimensions in reverse? x is (N, C, ...)",
       filled(Tensor4(6, 5, 3, 4), 14));
  Options options;
  options.channel_axis = ChannelAxis::last;
  BatchNorm2d<float> last(3, options);
  says(last, "got 5 in (4, 3, 5, 5): channels first? See ChannelAxis",
       filled(Tensor4(4, 3, 5, 5), 15));
  try {
    static_cast<void>(first.forward(filled(Tensor4(3, 4, 5, 5), 16)));
  } catch (const std::invalid_argument& e) {
    CHECK(e.what() ==
          std::string("[BatchNorm2d::forward] expected 3 channels, got 4 in (3, 4, 5, 5)"));
  }
}

TEST_CASE("y of another shape than x is refused, and not written", "[errors]") {
  auto layer = used_layer<BatchNorm2d<float>>(x4);
  for (const bool training : {true, false}) {
    layer.train(training);
    for (Tensor4 y : {Tensor4(1, 3, 2, 5), Tensor4(2, 3, 5, 2), Tensor4(2, 2, 2, 5), Tensor4()}) {
      y.setConstant(7);
      const Tensor4 before = y;
      check_refused<std::invalid_argument>(layer, {"[BatchNorm2d::forward]", "y", "(2, 3, 2, 5)"},
                                           [&] { layer.forward(x4, y); });
      CHECK(same_bits(y, before));
    }
  }
  auto flat = used_layer<BatchNorm1d<float>>(Matrix(filled(Matrix(4, 3), 9)));
  Matrix y = Matrix::Constant(3, 4, 7);
  check_refused<std::invalid_argument>(flat, {"[BatchNorm1d::forward]", "y", "(4, 3)", "(3, 4)"},
                                       [&] { flat.forward(filled(Matrix(4, 3), 9), y); });
  CHECK(y == Matrix::Constant(3, 4, 7));
}

TEST_CASE("y may not overlap x, but in eval mode it may be x itself", "[errors]") {
  auto layer = used_layer<BatchNorm2d<float>>(x4);
  Eigen::VectorXf memory(2 * x4.size());
  memory.setLinSpaced(-1, 1);
  const Eigen::VectorXf before = memory;
  const Map4 x(memory.data(), x4.dimensions());
  Map4 same(memory.data(), x4.dimensions());
  for (const bool training : {true, false}) {
    layer.train(training);
    for (const Index offset : {Index(1), Index(10), x4.size() - 1}) {
      Map4 y(memory.data() + offset, x4.dimensions());
      check_refused<std::invalid_argument>(layer, {"[BatchNorm2d::forward]", "overlap", "y", "x"},
                                           [&] { layer.forward(x, y); });
      const Map4 late(memory.data() + offset, x4.dimensions());
      check_refused<std::invalid_argument>(layer, {"[BatchNorm2d::forward]", "overlap"},
                                           [&] { layer.forward(late, same); });
    }
  }
  layer.train();
  check_refused<std::invalid_argument>(layer, {"[BatchNorm2d::forward]", "overlap", "backward"},
                                       [&] { layer.forward(x, same); });
  CHECK(memory == before);
  CHECK(same_bits(gradient_of(layer, x4), gradient_of(used_layer<BatchNorm2d<float>>(x4), x4)));

  Map4 neighbour(memory.data() + x4.size(), x4.dimensions());
  CHECK_NOTHROW(layer.forward(x, neighbour));
  layer.eval();
  CHECK_NOTHROW(layer.forward(x, same));
}

TEST_CASE("backward before any forward is refused", "[errors]") {
  BatchNorm2d<float> layer(3);
  Tensor4 dx = x4;
  check_refused<std::logic_error>(layer, {"[BatchNorm2d::backward]", "forward"},
                                  [&] { static_cast<void>(layer.backward(x4, dy4)); });
  check_refused<std::logic_error>(layer, {"[BatchNorm2d::backward]", "forward"},
                                  [&] { layer.backward(x4, dy4, dx); });
  check_refused<std::logic_error>(layer, {"[BatchNorm2d::backward]", "forward"}, [&] {
    static_cast<void>(layer.backward(BatchNorm2d<float>(3).saved(), x4, dy4));
  });
  CHECK(same_bits(dx, x4));
}

TEST_CASE("backward of another shape than the last forward's is refused", "[errors]") {
  auto layer = used_layer<BatchNorm2d<float>>(x4);
  const Tensor4 more = filled(Tensor4(3, 3, 2, 5), 10), turned = filled(Tensor4(2, 3, 5, 2), 11);
  for (const Tensor4& other : {more, turned}) {
    Tensor4 dx = other;
    check_refused<std::invalid_argument>(layer, {"[BatchNorm2d::backward]", "x", "(2, 3, 2, 5)"},
                                         [&] { static_cast<void>(layer.backward(other, other)); });
    check_refused<std::invalid_argument>(layer, {"[BatchNorm2d::backward]", "x", "(2, 3, 2, 5)"},
                                         [&] { layer.backward(other, other, dx); });
    CHECK(same_bits(dx, other));
    check_refused<std::invalid_argument>(layer, {"[BatchNorm2d::backward]", "dy", "(2, 3, 2, 5)"},
                                         [&] { static_cast<void>(layer.backward(x4, other)); });
    check_refused<std::invalid_argument>(layer, {"[BatchNorm2d::backward]", "dx", "(2, 3, 2, 5)"},
                                         [&] { layer.backward(x4, dy4, dx); });
    CHECK(same_bits(dx, other));
  }
  check_refused<std::invalid_argument>(
      layer, {"[BatchNorm2d::backward]", "expected 3 channels, got 2 in (2, 2, 2, 5)"},
      [&] { static_cast<void>(layer.backward(Tensor4(2, 2, 2, 5), Tensor4(2, 2, 2, 5))); });
}

TEST_CASE("backward with the saved of another shape is refused", "[errors]") {
  auto layer = used_layer<BatchNorm2d<float>>(x4);
  const auto saved = layer.saved();
  const Tensor4 more = filled(Tensor4(3, 3, 2, 5), 12);
  static_cast<void>(layer.forward(more));
  CHECK_NOTHROW(layer.backward(saved, x4, dy4));
  check_refused<std::invalid_argument>(
      layer, {"[BatchNorm2d::backward]", "(2, 3, 2, 5)", "(3, 3, 2, 5)"},
      [&] { static_cast<void>(layer.backward(saved, more, more)); });
  auto cut_mean = saved, cut_inv_std = saved;
  cut_mean.mean.conservativeResize(2);
  cut_inv_std.inv_std.conservativeResize(2);
  for (const auto& cut : {cut_mean, cut_inv_std}) {
    check_refused<std::invalid_argument>(layer, {"[BatchNorm2d::backward]", "last forward"},
                                         [&] { static_cast<void>(layer.backward(cut, x4, dy4)); });
  }
  check_refused<std::invalid_argument>(layer,
                                       {"[BatchNorm2d::backward]", "(3, 3, 2, 5)", "(2, 3, 2, 5)"},
                                       [&] { static_cast<void>(layer.backward(x4, dy4)); });
}

TEST_CASE("blocks of one matrix that overlap are refused, others are not", "[errors]") {
  const auto check = [](auto m) {
    testing::Random(1).fill(m);
    BatchNorm1d<float> bn(4);
    const auto refused = [&](const auto& x, auto y) {
      check_refused<std::invalid_argument>(bn, {"[BatchNorm1d::forward]", "overlapping"},
                                           [&] { bn.forward(x, y); });
    };
    const auto fine = [&](const auto& x, auto y) { CHECK_NOTHROW(bn.forward(x, y)); };
    for (const bool training : {true, false}) {
      bn.train(training);
      refused(m.block(0, 0, 9, 4), m.block(1, 0, 9, 4));
      refused(m.block(1, 0, 9, 4), m.block(0, 0, 9, 4));
      refused(m.block(0, 0, 5, 4), m.block(4, 3, 5, 4));  // one element alone
      refused(m.block(0, 3, 5, 4), m.block(4, 0, 5, 4));
      refused(m.block(4, 0, 5, 4), m.block(0, 3, 5, 4));
      fine(m.block(0, 0, 5, 4), m.block(5, 0, 5, 4));
      fine(m.block(0, 0, 5, 4), m.block(5, 3, 5, 4));
      fine(m.block(0, 0, 10, 4), m.block(0, 4, 10, 4));
    }
    using Every2nd = Eigen::Map<Eigen::Matrix<float, 4, 4>, 0, Eigen::Stride<10, 2>>;
    refused(Every2nd(m.data()), Every2nd(m.data() + 2));
    fine(Every2nd(m.data()), Every2nd(m.data() + 1));  // they interleave
    using Reversed = Eigen::Map<Matrix, 0, Eigen::Stride<Eigen::Dynamic, Eigen::Dynamic>>;
    const auto reversed = [&m](int first) { return Reversed(m.data() + first, 5, 4, {10, -1}); };
    refused(reversed(8), reversed(9));
    refused(reversed(9), reversed(8));
    fine(reversed(4), reversed(9));
    // Of elements 0, -1, -2, -3, 6, 5, ... 18, 17, 16, 15 the last one's place is their number - 1.
    const auto as_if_dense = [&m](int first) { return Reversed(m.data() + first, 4, 4, {6, -1}); };
    refused(as_if_dense(8), as_if_dense(24));
    bn.train();
    refused(reversed(9), reversed(9));
    bn.eval();
    fine(reversed(9), reversed(9));  // in place
    using Odd = Eigen::Map<Eigen::Matrix<float, 2, 4, Eigen::RowMajor>, 0, Eigen::Stride<7, 2>>;
    fine(Odd(m.data()), Odd(m.data() + 12));  // 0 2 4 6, 7 9 11 13 and 12 14 16 18, 19 21 23 25
  };
  check(Eigen::MatrixXf(10, 9));
  check(Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>(10, 9));
}

TEST_CASE("dx may not overlap x or dy, but it may be dy itself", "[errors]") {
  auto layer = used_layer<BatchNorm2d<float>>(x4);
  Eigen::VectorXf memory(3 * x4.size());
  memory.setLinSpaced(-1, 1);
  const Eigen::VectorXf before = memory;
  const Map4 x(memory.data(), x4.dimensions()), dy(memory.data() + x4.size(), x4.dimensions());
  for (const Index offset : {-x4.size(), -x4.size() / 2, Index(-1), Index(1), x4.size() - 1}) {
    Map4 dx(memory.data() + x4.size() + offset, x4.dimensions());
    check_refused<std::invalid_argument>(layer, {"[BatchNorm2d::backward]", "dx", "overlap"},
                                         [&] { layer.backward(x, dy, dx); });
  }
  CHECK(memory == before);
  Map4 dx(memory.data() + 2 * x4.size(), x4.dimensions());
  Map4 over_x(memory.data() + x4.size() / 2, x4.dimensions());  // and not over dy
  check_refused<std::invalid_argument>(layer, {"[BatchNorm2d::backward]", "dx apart from x"},
                                       [&] { layer.backward(x, dx, over_x); });
  CHECK(memory == before);
  CHECK_NOTHROW(layer.backward(x, dy, dx));
  Map4 also_dy(memory.data() + x4.size(), x4.dimensions());
  CHECK_NOTHROW(layer.backward(x, dy, also_dy));
  CHECK(same_bits(also_dy, dx));
}

TEST_CASE("dx may not be x at any stride, nor dy's memory in another order", "[errors]") {
  using Strided = Eigen::Map<Matrix, 0, Eigen::Stride<Eigen::Dynamic, Eigen::Dynamic>>;
  using RowMajor = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  using RowStrided = Eigen::Map<RowMajor, 0, Eigen::Stride<Eigen::Dynamic, Eigen::Dynamic>>;
  Eigen::VectorXf memory(64);
  memory.setLinSpaced(-1, 1);
  const Eigen::VectorXf before = memory;
  const Matrix other = filled(Matrix(6, 4), 13);
  BatchNorm1d<float> layer(4);
  static_cast<void>(layer.forward(other));

  Strided every_second(memory.data(), 6, 4, {12, 2});
  check_refused<std::invalid_argument>(layer, {"[BatchNorm1d::backward]", "dx apart from x"},
                                       [&] { layer.backward(every_second, other, every_second); });
  Strided columns(memory.data(), 6, 4, {6, 1}), rows(memory.data(), 6, 4, {1, 4});
  check_refused<std::invalid_argument>(layer, {"[BatchNorm1d::backward]", "dx to be dy itself"},
                                       [&] { layer.backward(other, columns, rows); });
  RowStrided of_rows(memory.data(), 6, 4, {4, 1}), of_columns(memory.data(), 6, 4, {1, 6});
  check_refused<std::invalid_argument>(
      layer, {"[BatchNorm1d::backward]", "dx to be dy itself"},
      [&] { layer.backward(RowMajor(other), of_rows, of_columns); });
  CHECK(memory == before);
}

TEST_CASE("backward after y was written over x is refused", "[errors]") {
  for (const bool tracked : {true, false}) {
    Options options;
    options.track_running_stats = tracked;
    auto layer = used_layer<BatchNorm2d<float>>(x4, options);
    layer.eval();
    Tensor4 x = x4, dx = x4;
    layer.forward(x, x);
    const auto saved = layer.saved();
    check_refused<std::logic_error>(layer, {"[BatchNorm2d::backward]", "x", "over"},
                                    [&] { static_cast<void>(layer.backward(x, dy4)); });
    check_refused<std::logic_error>(layer, {"[BatchNorm2d::backward]"},
                                    [&] { layer.backward(saved, x4, dy4, dx); });
    CHECK(same_bits(dx, x4));
    static_cast<void>(layer.forward(x4));
    CHECK_NOTHROW(layer.backward(x4, dy4));
  }
}

TEST_CASE("vectors that the user gave another length are refused by every call", "[errors]") {
  using Layer = BatchNorm2d<float>;
  using Vector = Eigen::VectorXf;
  const std::vector<std::pair<const char*, Vector& (*)(Layer&)>> vectors = {
      {"gamma", [](Layer& l) -> Vector& { return l.gamma(); }},
      {"beta", [](Layer& l) -> Vector& { return l.beta(); }},
      {"grad_gamma", [](Layer& l) -> Vector& { return l.grad_gamma(); }},
      {"grad_beta", [](Layer& l) -> Vector& { return l.grad_beta(); }},
      {"running_mean", [](Layer& l) -> Vector& { return l.running_mean(); }},
      {"running_var", [](Layer& l) -> Vector& { return l.running_var(); }}};
  for (const auto& one : vectors) {
    const char* const name = one.first;  // lambdas cannot capture structured bindings
    const auto vector = one.second;
    for (const Index length : {0, 2, 4}) {
      INFO(name << " of length " << length);
      auto layer = used_layer<Layer>(x4);
      vector(layer) = Vector::Ones(length);
      Tensor4 y = x4;
      const auto refused = [&](const char* call, const auto& f) {
        check_refused<std::logic_error>(
            layer,
            {std::string("[BatchNorm2d::") + call + "]",
             std::string("expected ") + name + " of length 3, got " + std::to_string(length)},
            f);
      };
      for (const bool training : {true, false}) {
        layer.train(training);
        refused("forward", [&] { layer.forward(x4, y); });
        refused("backward", [&] { layer.backward(x4, dy4, y); });
        refused("folded", [&] { static_cast<void>(layer.folded()); });
      }
      CHECK(same_bits(y, x4));
      vector(layer) = Vector::Ones(3);
      CHECK_NOTHROW(layer.forward(x4, y));
    }
  }
}

TEST_CASE("vectors that an option left empty must stay empty", "[errors]") {
  Options bare;
  bare.scale = bare.shift = bare.track_running_stats = false;
  BatchNorm2d<float> layer(3, bare);
  layer.gamma() = Eigen::VectorXf::Ones(3);
  check_refused<std::logic_error>(
      layer, {"expected gamma of length 0, got 3, though the layer's options switch it off"},
      [&] { static_cast<void>(layer.forward(x4)); });
  layer.gamma().resize(0);
  layer.running_var() = Eigen::VectorXf::Ones(3);
  check_refused<std::logic_error>(layer, {"[BatchNorm2d::forward]", "running_var", "0", "3"},
                                  [&] { static_cast<void>(layer.forward(x4)); });
}

TEST_CASE("a layer that was moved from is refused by every call", "[errors]") {
  const auto check_moved_from = [](BatchNorm2d<float>& layer) {
    Tensor4 y = x4;
    check_throws<std::logic_error>({"[BatchNorm2d::forward]"}, [&] { layer.forward(x4, y); });
    check_throws<std::logic_error>({"[BatchNorm2d::backward]"},
                                   [&] { layer.backward(x4, dy4, y); });
    check_throws<std::logic_error>({"[BatchNorm2d::folded]"},
                                   [&] { static_cast<void>(layer.folded()); });
    CHECK(same_bits(y, x4));
  };
  SECTION("by construction") {
    auto layer = used_layer<BatchNorm2d<float>>(x4);
    const auto copy = layer;
    const BatchNorm2d<float> target = std::move(layer);
    CHECK(same_state(target, copy));
    check_moved_from(layer);
    layer = copy;
    CHECK_NOTHROW(layer.forward(x4));
  }
  SECTION("by assignment to a layer of as many channels") {
    auto layer = used_layer<BatchNorm2d<float>>(x4);
    const auto copy = layer;
    BatchNorm2d<float> target(3);
    target = std::move(layer);
    CHECK(same_state(target, copy));
    check_moved_from(layer);
    layer = copy;
    CHECK_NOTHROW(layer.forward(x4));
  }
  SECTION("without any vectors of its own") {
    Options bare;
    bare.scale = bare.shift = bare.track_running_stats = false;
    BatchNorm2d<float> layer(3, bare);
    const BatchNorm2d<float> target = std::move(layer);
    check_moved_from(layer);
  }
}

TEST_CASE("folding a layer without running statistics is refused", "[errors]") {
  Options untracked;
  untracked.track_running_stats = false;
  const BatchNorm2d<float> layer(3, untracked);
  check_refused<std::logic_error>(layer, {"[BatchNorm2d::folded]", "running"},
                                  [&] { static_cast<void>(layer.folded()); });
}

TEST_CASE("one value per channel is refused wherever batch statistics are used", "[errors]") {
  const Tensor4 one = filled(Tensor4(1, 3, 1, 1), 13);
  Tensor4 y = one;
  auto layer = used_layer<BatchNorm2d<float>>(x4);
  check_refused<std::invalid_argument>(layer, {"[BatchNorm2d::forward]", "one value", "got 1"},
                                       [&] { static_cast<void>(layer.forward(one)); });
  check_refused<std::invalid_argument>(layer, {"[BatchNorm2d::forward]", "one value", "got 1"},
                                       [&] { layer.forward(one, y); });
  CHECK(same_bits(y, one));
  CHECK(same_bits(gradient_of(layer, x4), gradient_of(used_layer<BatchNorm2d<float>>(x4), x4)));
  layer.eval();
  CHECK_NOTHROW(layer.forward(one));

  Options untracked;
  untracked.track_running_stats = false;
  auto by_batch = used_layer<BatchNorm2d<float>>(x4, untracked);
  for (const bool training : {true, false}) {
    by_batch.train(training);
    check_refused<std::invalid_argument>(by_batch, {"[BatchNorm2d::forward]", "got 1"},
                                         [&] { by_batch.forward(one, y); });
  }
  CHECK(same_bits(y, one));

  BatchNorm1d<float> flat(3);
  check_refused<std::invalid_argument>(flat, {"[BatchNorm1d::forward]", "got 1"}, [&] {
    static_cast<void>(flat.forward(Matrix(Matrix::Ones(1, 3))));
  });
}

TEST_CASE("eval() is advised for one value per channel only if there are running statistics",
          "[errors]") {
  const Matrix one = Matrix::Ones(1, 3);
  Options options;
  for (const bool tracked : {true, false}) {
    options.track_running_stats = tracked;
    BatchNorm1d<float> layer(3, options);
    check_refused<std::invalid_argument>(
        layer, {tracked ? "got 1: call eval() for inference" : "got 1: leave the batch out, or"},
        [&] { static_cast<void>(layer.forward(one)); });
  }
}

TEST_CASE("an empty batch is refused in training, or else comes back empty and changes nothing",
          "[errors]") {
  for (const auto choice : {SingleValue::reject, SingleValue::use_running, SingleValue::accept}) {
    for (const bool tracked : {true, false}) {
      if (choice == SingleValue::use_running && !tracked) continue;
      Options options;
      options.single_value = choice;
      options.track_running_stats = tracked;
      for (const Tensor4& empty : {Tensor4(0, 3, 2, 5), Tensor4(2, 3, 0, 5)}) {
        auto layer = used_layer<BatchNorm2d<float>>(x4, options);
        const auto before = layer;
        Tensor4 y = empty;
        if (choice == SingleValue::reject) {
          check_refused<std::invalid_argument>(layer, {"[BatchNorm2d::forward]", "got 0"},
                                               [&] { static_cast<void>(layer.forward(empty)); });
          check_refused<std::invalid_argument>(layer, {"[BatchNorm2d::forward]", "got 0"},
                                               [&] { layer.forward(empty, y); });
        } else {
          const Tensor4 result = layer.forward(empty);
          CHECK(result.dimensions() == empty.dimensions());
          CHECK_NOTHROW(layer.forward(empty, y));
          CHECK(layer.saved().count == 0);
          if (choice == SingleValue::accept) CHECK(layer.saved().mean == Eigen::VectorXd::Zero(3));
        }
        layer.eval();
        const Tensor4 result = layer.forward(empty);
        CHECK(result.dimensions() == empty.dimensions());
        CHECK(layer.backward(empty, empty).dimensions() == empty.dimensions());
        CHECK(same_bits(layer.grad_gamma(), before.grad_gamma()));
        CHECK(same_bits(layer.grad_beta(), before.grad_beta()));
        CHECK(same_bits(layer.running_mean(), before.running_mean()));
        CHECK(same_bits(layer.running_var(), before.running_var()));
        CHECK(layer.num_batches_tracked() == before.num_batches_tracked());
      }
    }
  }
}

TEST_CASE("a refused batch leaves a fresh layer at mean 0, variance 1 and counter 0", "[errors]") {
  BatchNorm1d<double> layer(2);
  CHECK_THROWS(layer.forward(Eigen::MatrixXd(Eigen::MatrixXd::Ones(1, 2))));
  CHECK_THROWS(layer.forward(Eigen::MatrixXd(0, 2)));
  CHECK_THROWS(layer.forward(Eigen::MatrixXd(Eigen::MatrixXd::Ones(4, 3))));
  CHECK(layer.running_mean() == Eigen::Vector2d(0, 0));
  CHECK(layer.running_var() == Eigen::Vector2d(1, 1));
  CHECK(layer.num_batches_tracked() == 0);
  CHECK_THROWS_AS(layer.backward(Eigen::MatrixXd::Ones(4, 2), Eigen::MatrixXd::Ones(4, 2)),
                  std::logic_error);
}

TEST_CASE("copies of a layer go their own ways", "[errors]") {
  const auto layer = used_layer<BatchNorm2d<float>>(x4);
  auto copy = layer;
  CHECK(same_state(copy, layer));
  CHECK(same_bits(gradient_of(copy, x4), gradient_of(layer, x4)));
  const auto before = layer;
  copy.gamma().setConstant(3);
  static_cast<void>(copy.forward(x4));
  static_cast<void>(copy.backward(x4, dy4));
  CHECK(same_state(layer, before));
  CHECK_FALSE(same_state(copy, layer));
}

TEST_CASE("reset_parameters and reset_running_stats reset what they say and nothing else",
          "[errors]") {
  auto layer = used_layer<BatchNorm2d<float>>(x4);
  layer.beta().setConstant(4);
  const auto before = layer;
  layer.reset_parameters();
  CHECK(layer.gamma() == Eigen::Vector3f(1, 1, 1));
  CHECK(layer.beta() == Eigen::Vector3f(0, 0, 0));
  CHECK(same_bits(layer.grad_gamma(), before.grad_gamma()));
  CHECK(same_bits(layer.running_mean(), before.running_mean()));
  CHECK(layer.num_batches_tracked() == 1);
  layer = before;
  layer.reset_running_stats();
  CHECK(layer.running_mean() == Eigen::Vector3f(0, 0, 0));
  CHECK(layer.running_var() == Eigen::Vector3f(1, 1, 1));
  CHECK(layer.num_batches_tracked() == 0);
  CHECK(same_bits(layer.gamma(), before.gamma()));
  CHECK(same_bits(layer.beta(), before.beta()));
  CHECK(same_bits(layer.grad_beta(), before.grad_beta()));
}
