// SPDX-License-Identifier: MIT
// Threads: the same bits for any number of them, and no call that waits for itself.
#define EIGEN_USE_THREADS

#include <atomic>
#include <batchnorm/batchnorm.hpp>
#include <future>
#include <memory>
#include <thread>
#include <unsupported/Eigen/CXX11/Tensor>
#include <utility>
#include <vector>

#include "support/catch.hpp"
#include "support/devices.hpp"
#include "support/random.hpp"
#include "support/refused.hpp"

using batchnorm::BatchNorm1d, batchnorm::BatchNorm2d;
using batchnorm::ChannelAxis, batchnorm::NonFinite, batchnorm::Options;
using Eigen::Index;
using testing::Device;
using testing::device_of;
using testing::same_bits;
using testing::same_state;

namespace {

template <class X>
struct Results {
  X y, dx, z, dx_eval;
};

/// Training and eval, forward and backward.
template <class Layer, class X>
Results<X> run(Layer& layer, const X& x, const X& dy) {
  Results<X> r;
  layer.train();
  r.y = layer.forward(x);
  r.dx = layer.backward(x, dy);
  layer.eval();
  r.z = layer.forward(x);
  r.dx_eval = layer.backward(x, dy);
  return r;
}

template <class Layer, class X>
void check_bits(Index channels, X x, const Options& options) {
  X dy = x;
  testing::Random random(static_cast<std::uint64_t>(x.size()));
  random.fill(x, 3, 2);
  random.fill(dy, 0.25, 1);
  Layer alone(channels, options);
  random.fill(alone.gamma());
  random.fill(alone.beta());
  const Layer fresh = alone;
  const auto expected = run(alone, x, dy);
  for (const int threads : {1, 2, 3, 4, 8}) {
    INFO(threads << " threads, " << x.size() << " values in " << channels << " channels");
    Layer layer = fresh;
    layer.set_device(&device_of(threads).device);
    const auto got = run(layer, x, dy);
    CHECK(same_bits(got.y, expected.y));
    CHECK(same_bits(got.dx, expected.dx));
    CHECK(same_bits(got.z, expected.z));
    CHECK(same_bits(got.dx_eval, expected.dx_eval));
    CHECK(same_state(layer, alone));
  }
}

template <class Scalar, int order>
void check_images(const Options& options) {
  using Tensor = Eigen::Tensor<Scalar, 4, order>;
  const bool last = options.channel_axis == ChannelAxis::last;
  const auto check = [&](Index n, Index c, Index h, Index w) {
    check_bits<BatchNorm2d<Scalar>>(c, last ? Tensor(n, h, w, c) : Tensor(n, c, h, w), options);
  };
  check(2, 1, 600, 600);  // few channels of large planes
  check(3, 3, 271, 273);
  check(8, 70, 35, 37);  // many channels
  check(26, 1030, 5, 5);
  check(2, 3, 4, 5);  // too small for threads
}

/// Calls layers on the threads of a pool, all at once. Each layer uses the device, and must give
/// the bits of a layer without one.
void check_calls_on(Eigen::ThreadPool& pool, unsigned calls, Eigen::ThreadPoolDevice& device,
                    const Eigen::MatrixXf& x) {
  BatchNorm1d<float> alone(x.cols());
  const auto expected = run(alone, x, x);
  Eigen::Barrier done(calls);
  std::vector<Results<Eigen::MatrixXf>> results(calls);
  for (auto& result : results) {
    pool.Schedule([&] {
      BatchNorm1d<float> layer(x.cols());
      layer.set_device(&device);
      result = run(layer, x, x);
      done.Notify();
    });
  }
  done.Wait();
  for (const auto& result : results) {
    CHECK(same_bits(result.y, expected.y));
    CHECK(same_bits(result.dx, expected.dx));
    CHECK(same_bits(result.dx_eval, expected.dx_eval));
  }
}

}  // namespace

TEMPLATE_TEST_CASE("any number of threads gives the same bits", "[threads]", float, Eigen::half) {
  for (const auto axis : {ChannelAxis::first, ChannelAxis::last}) {
    Options options;
    options.channel_axis = axis;
    check_images<TestType, Eigen::RowMajor>(options);
    check_images<TestType, Eigen::ColMajor>(options);
  }
}

TEST_CASE("any number of threads gives the same bits in double", "[threads]") {
  check_images<double, Eigen::RowMajor>({});
}

TEST_CASE("any number of threads gives the same bits for matrices", "[threads]") {
  using Rows = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  using Columns = Eigen::MatrixXf;
  for (const auto& [n, c] : {std::pair<Index, Index>{300000, 3},
                             {4099, 257},
                             {33, 20000},
                             {130, 8200},
                             {64, 4096},
                             {40, 5003}}) {
    check_bits<BatchNorm1d<float>>(c, Rows(n, c), {});
    check_bits<BatchNorm1d<float>>(c, Columns(n, c), {});
  }
}

TEST_CASE("rows of many channels that end within a vector give the same bits", "[threads]") {
  // y and dx start one float after an aligned address, so the last vector of each group of channels is
  // not full. A thread must not read the numbers of the next group there: another thread writes them.
  // Only the thread sanitizer sees such a read. The tensor is large enough that stores go past the
  // caches (24 MiB of x and y), and has enough channels that each thread takes whole groups of them.
  using Rows = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  constexpr Index n = 200, channels = 16384;
  Rows x(n, channels), dy(n, channels);
  testing::Random random(12);
  random.fill(x, 3, 2);
  random.fill(dy, 0.25, 1);
  Eigen::VectorXf memory[2] = {Eigen::VectorXf(1 + n * channels),
                               Eigen::VectorXf(1 + n * channels)};
  Eigen::Map<Rows> y(memory[0].data() + 1, n, channels), dx(memory[1].data() + 1, n, channels);
  BatchNorm1d<float> alone(channels);
  random.fill(alone.gamma());
  random.fill(alone.beta());
  BatchNorm1d<float> layer = alone;
  layer.set_device(&device_of(2).device);
  for (const bool training : {true, false}) {
    for (BatchNorm1d<float>* one : {&alone, &layer}) one->train(training);
    const Rows expected_y = alone.forward(x), expected_dx = alone.backward(x, dy);
    layer.forward(x, y);
    layer.backward(x, dy, dx);
    CHECK(same_bits(y, expected_y));
    CHECK(same_bits(dx, expected_dx));
    CHECK(same_state(layer, alone));
  }
}

TEST_CASE("channels that are done again give the same bits with threads", "[threads]") {
  Options options;
  options.non_finite = NonFinite::reject;  // all statistics first, then all of y
  for (const bool large : {false, true}) {
    Eigen::MatrixXf x(80000, 9);
    testing::Random random(1);
    random.fill(x);
    if (large) x.col(4) *= 5e37f;
    BatchNorm1d<float> alone(9, options), layer(9, options);
    layer.set_device(&device_of(4).device);
    CHECK(same_bits(layer.forward(x), alone.forward(x)));
    CHECK(same_state(layer, alone));
  }
}

TEST_CASE("a refused batch changes nothing with threads either", "[threads]") {
  Options options;
  options.non_finite = NonFinite::reject;
  Eigen::MatrixXf x(80000, 9);
  testing::Random random(5);
  random.fill(x);
  BatchNorm1d<float> layer(9, options);
  layer.set_device(&device_of(3).device);
  static_cast<void>(layer.forward(x));
  x(79999, 7) = std::numeric_limits<float>::infinity();
  Eigen::MatrixXf y = Eigen::MatrixXf::Zero(80000, 9);
  testing::check_refused<std::domain_error>(layer, {"channel 7"}, [&] { layer.forward(x, y); });
  CHECK(y == Eigen::MatrixXf::Zero(80000, 9));
}

TEST_CASE("a call on one of the pool's own threads comes back, with the same bits", "[threads]") {
  // With one thread in the pool a call that waited for the pool would wait for ever.
  const auto x = testing::filled(Eigen::MatrixXf(100000, 7), 2);
  for (const int threads : {1, 2, 4}) {
    Device& d = device_of(threads);
    check_calls_on(d.pool, static_cast<unsigned>(2 * threads), d.device, x);
  }
}

TEST_CASE("layers on threads of their own share a device", "[threads]") {
  Device callers(4);
  const auto x = testing::filled(Eigen::MatrixXf(60000, 7), 3);
  check_calls_on(callers.pool, 8, device_of(2).device, x);
}

TEST_CASE("a call waits for no thread of the pool that comes late, nor does the layer",
          "[threads]") {
  Eigen::Tensor<float, 4, Eigen::RowMajor> x(8, 16, 32, 32), alone, y(x.dimensions());
  testing::Random random(11);
  random.fill(x, 1, 2);
  alone = BatchNorm2d<float>(16).forward(x);

  std::promise<void> finished;
  {
    Eigen::ThreadPool pool(1);  // the calling thread works too
    const Eigen::ThreadPoolDevice device(&pool, 2);
    pool.Schedule([ready = finished.get_future().share()] { ready.wait(); });
    BatchNorm2d<float> layer(16);
    layer.set_device(&device);
    for (int call = 0; call < 3; ++call) layer.forward(x, y);
    CHECK(same_bits(y, alone));
    layer = BatchNorm2d<float>(16);  // and with it go all tasks that the pool has not begun
    y.setZero();
    finished.set_value();
  }  // the pool has ended all that it was sent
  CHECK(y(0, 0, 0, 0) == 0);
}

TEST_CASE("copies share the device, and nullptr takes it away", "[threads]") {
  // A pool that counts what it is asked to do shows who uses it.
  struct CountingPool : Eigen::ThreadPoolInterface {
    explicit CountingPool(int threads) : pool(threads) {}
    void Schedule(std::function<void()> f) override {
      ++scheduled;
      pool.Schedule([this, f = std::move(f)] {
        f();
        ++done;
      });
    }
    int NumThreads() const override { return pool.NumThreads(); }
    int CurrentThreadId() const override { return pool.CurrentThreadId(); }
    std::atomic<int> scheduled{0};
    std::atomic<int> done{0};
    Eigen::ThreadPool pool;  // ends its tasks before what they count goes
  };
  CountingPool pool(3);
  const Eigen::ThreadPoolDevice device(&pool, 3);
  Eigen::MatrixXf x(300000, 3);
  testing::Random random(4);
  random.fill(x);
  const auto uses_pool = [&](auto& layer) {
    // A helper still under way to an earlier call would serve this one too.
    while (pool.done < pool.scheduled) std::this_thread::yield();
    const int before = pool.scheduled;
    static_cast<void>(layer.forward(x));
    return pool.scheduled > before;
  };
  BatchNorm1d<float> layer(3);
  CHECK_FALSE(uses_pool(layer));
  layer.set_device(&device);
  CHECK(uses_pool(layer));
  auto copy = layer;
  CHECK(uses_pool(copy));
  copy.set_device(nullptr);
  CHECK_FALSE(uses_pool(copy));
  CHECK(uses_pool(layer));
  const Eigen::ThreadPoolDevice* none = nullptr;
  layer.set_device(none);
  CHECK_FALSE(uses_pool(layer));
  layer.set_device(&device);
  auto moved = std::move(layer);
  CHECK(uses_pool(moved));
  BatchNorm1d<float> assigned(3);
  assigned = moved;
  CHECK(uses_pool(assigned));
}
