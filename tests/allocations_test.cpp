// SPDX-License-Identifier: MIT
// Calls that write into buffers allocate nothing once a layer has seen the shape; those that return
// a result, that alone.
#define EIGEN_USE_THREADS

#include "support/allocations.hpp"

#include <batchnorm/batchnorm.hpp>
#include <unsupported/Eigen/CXX11/Tensor>

#include "support/catch.hpp"
#include "support/random.hpp"

using batchnorm::BatchNorm1d;
using batchnorm::BatchNorm2d;
using batchnorm::ChannelAxis;
using batchnorm::NonFinite;
using batchnorm::Options;
using Eigen::Index;
using testing::allocations;

namespace {

template <class X>
struct Batch {
  X x, dy, y, dx;

  explicit Batch(const X& shape) : x(shape), dy(shape), y(shape), dx(shape) {
    testing::Random random(1);
    random.fill(x, 1, 2);
    random.fill(dy);
  }
};

template <class Layer, class X>
void step(Layer& layer, Batch<X>& b) {
  layer.train();
  layer.forward(b.x, b.y);
  layer.backward(b.x, b.dy, b.dx);
  layer.backward(layer.saved(), b.x, b.dy, b.dx);
  layer.zero_grad();
  layer.eval();
  layer.forward(b.x, b.y);
  layer.backward(b.x, b.dy, b.dx);
  layer.forward(b.y, b.y);
}

/// Two batch sizes in turn: each is new once only.
template <class Layer, class X>
void check_no_allocations(Layer& layer, const X& large, const X& small) {
  Batch<X> a(large), b(small);
  step(layer, a);
  step(layer, b);
  CHECK(allocations([&] {
          for (int round = 0; round < 3; ++round) {
            step(layer, a);
            step(layer, b);
          }
        }) == 0);
}

template <class Scalar, int order>
void check_images(const Options& options, const Eigen::ThreadPoolDevice* device) {
  using Tensor = Eigen::Tensor<Scalar, 4, order>;
  const bool last = options.channel_axis == ChannelAxis::last;
  BatchNorm2d<Scalar> layer(5, options);
  layer.set_device(device);
  check_no_allocations(layer, last ? Tensor(32, 61, 71, 5) : Tensor(32, 5, 61, 71),
                       last ? Tensor(3, 7, 9, 5) : Tensor(3, 5, 7, 9));
}

template <class Layer, class X>
void check_results_are_all(Layer& layer, const X& shape) {
  Batch<X> b(shape);
  step(layer, b);
  const auto made_by = [](const auto& call) {
    return allocations([&] { static_cast<void>(call()); });
  };
  for (const bool training : {true, false}) {
    INFO((training ? "training" : "eval"));
    layer.train(training);
    CHECK(made_by([&] { return layer.forward(b.x); }) == 1);
    CHECK(made_by([&] { return layer.backward(b.x, b.dy); }) == 1);
    CHECK(made_by([&] { return layer.backward(layer.saved(), b.x, b.dy); }) == 1);
  }
}

}  // namespace

TEST_CASE("the counter sees allocations", "[allocations]") {
  if (!testing::counts_allocations) return;
  BatchNorm1d<float> layer(3);
  Eigen::MatrixXf x = Eigen::MatrixXf::Identity(4, 3);
  CHECK(allocations([&] { static_cast<void>(layer.forward(x)); }) > 0);
  CHECK(allocations([&] {
          int* volatile one = new int(1);  // volatile: else the compiler may leave both out
          delete one;
        }) == 1);
  CHECK(allocations([&] { x.resize(5, 3); }) == 1);
}

TEMPLATE_TEST_CASE("calls with buffers allocate nothing after the first", "[allocations]", float,
                   double, Eigen::half) {
  Eigen::ThreadPool pool(3);
  const Eigen::ThreadPoolDevice device(&pool, 3);
  for (const auto* threads : {static_cast<const Eigen::ThreadPoolDevice*>(nullptr), &device}) {
    for (const auto axis : {ChannelAxis::first, ChannelAxis::last}) {
      INFO((threads ? "threads" : "no threads"));
      INFO((axis == ChannelAxis::first ? "channel first" : "channel last"));
      Options options;
      options.channel_axis = axis;
      check_images<TestType, Eigen::RowMajor>(options, threads);
      options.non_finite = NonFinite::reject;
      options.track_running_stats = false;
      check_images<TestType, Eigen::RowMajor>(options, threads);
    }
  }
}

TEST_CASE("calls with matrices and views allocate nothing either", "[allocations]") {
  BatchNorm1d<float> layer(9);
  check_no_allocations(layer, Eigen::MatrixXf(20000, 9), Eigen::MatrixXf(20, 9));
  Batch<Eigen::MatrixXf> b(Eigen::MatrixXf(9, 300));
  const auto views = [&] {
    layer.train();
    layer.forward(b.x.transpose(), b.y.transpose());
    layer.backward(b.x.transpose(), b.dy.transpose(), b.dx.transpose());
    layer.forward(b.x.leftCols(100).transpose(), b.y.leftCols(100).transpose());
    layer.eval();
    layer.forward(b.x.col(7).transpose(), b.y.col(7).transpose());
  };
  views();
  CHECK(allocations(views) == 0);
}

TEST_CASE("calls that return their result allocate that alone", "[allocations]") {
  if (!testing::counts_allocations) return;
  Eigen::ThreadPool pool(3);
  const Eigen::ThreadPoolDevice device(&pool, 3);
  for (const auto* threads : {static_cast<const Eigen::ThreadPoolDevice*>(nullptr), &device}) {
    INFO((threads ? "threads" : "no threads"));
    BatchNorm2d<float> of_images(5);
    of_images.set_device(threads);
    check_results_are_all(of_images, Eigen::Tensor<float, 4, Eigen::RowMajor>(32, 5, 61, 71));
    BatchNorm2d<Eigen::half> of_halves(5);
    of_halves.set_device(threads);
    check_results_are_all(of_halves, Eigen::Tensor<Eigen::half, 4>(32, 5, 61, 71));
    BatchNorm1d<double> of_rows(9);
    of_rows.set_device(threads);
    check_results_are_all(of_rows, Eigen::MatrixXd(40000, 9));
  }
}

TEST_CASE("an expression is evaluated once", "[allocations]") {
  if (!testing::counts_allocations) return;
  BatchNorm1d<float> layer(9);
  Batch<Eigen::MatrixXf> b(Eigen::MatrixXf(500, 9));
  step(layer, b);
  CHECK(allocations([&] { static_cast<void>(layer.forward(2 * b.x)); }) == 2);
  CHECK(allocations([&] { layer.forward(2 * b.x, b.y); }) == 1);
  CHECK(allocations([&] { layer.backward(2 * b.x, b.dy, b.dx); }) == 1);
}

TEST_CASE("channels that are done again allocate nothing either", "[allocations]") {
  BatchNorm1d<float> layer(9);
  Batch<Eigen::MatrixXf> b(Eigen::MatrixXf(500, 9));
  b.x.col(3) *= 3e37f;
  b.x.col(5).setConstant(std::numeric_limits<float>::infinity());
  step(layer, b);
  CHECK(allocations([&] { step(layer, b); }) == 0);
}
