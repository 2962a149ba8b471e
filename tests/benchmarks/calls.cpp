// SPDX-License-Identifier: MIT
// How the cost of a call grows, from a handful of values on, and what a call allocates.
#define EIGEN_USE_THREADS
#include <benchmark/benchmark.h>

#include <batchnorm/batchnorm.hpp>
#include <iostream>
#include <memory>
#include <thread>
#include <unsupported/Eigen/CXX11/Tensor>

#include "allocated_bytes.hpp"

namespace {

using Tensor = Eigen::Tensor<float, 4, Eigen::RowMajor>;

/// A layer on (n, c, h, h), by so many threads.
struct Fixture {
  Fixture(Eigen::Index n, Eigen::Index c, Eigen::Index h, int threads)
      : pool(std::max(threads - 1, 1)),
        device(&pool, threads),
        layer(c),
        x(n, c, h, h),
        dy(n, c, h, h),
        y(x) {
    x.setRandom();
    dy.setRandom();
    y.setZero();
    if (threads > 1) layer.set_device(&device);
  }

  Eigen::ThreadPool pool;
  Eigen::ThreadPoolDevice device;
  batchnorm::BatchNorm2d<float> layer;
  Tensor x, dy, y;
};

/// Times call(fixture) and counts what it allocates.
template <class Call>
void time_calls(benchmark::State& state, Fixture& fixture, const Call& call) {
  fixture.layer.forward(fixture.x, fixture.y);
  call(fixture);  // the first sees the shape
  const std::size_t before = bench::allocated_bytes;
  call(fixture);
  state.counters["bytes"] = static_cast<double>(bench::allocated_bytes - before);
  for (auto _ : state) {
    call(fixture);
    benchmark::ClobberMemory();
  }
  state.counters["values"] = static_cast<double>(fixture.x.size());
}

void forward(Fixture& f) { f.layer.forward(f.x, f.y); }
void backward(Fixture& f) { f.layer.backward(f.x, f.dy, f.y); }
void forward_returning(Fixture& f) { benchmark::DoNotOptimize(f.layer.forward(f.x)); }
void backward_returning(Fixture& f) { benchmark::DoNotOptimize(f.layer.backward(f.x, f.dy)); }

std::string shape(Eigen::Index n, Eigen::Index c, Eigen::Index h) {
  return "(" + std::to_string(n) + ", " + std::to_string(c) + ", " + std::to_string(h) + ", " +
         std::to_string(h) + ")";
}

void add(const std::string& what, Eigen::Index n, Eigen::Index c, Eigen::Index h, int threads,
         bool training, void (*call)(Fixture&)) {
  const std::string name = what + " " + shape(n, c, h) + ", " + std::to_string(threads) +
                           (threads == 1 ? " thread" : " threads");
  benchmark::RegisterBenchmark(name.c_str(), [=](benchmark::State& state) {
    Fixture fixture(n, c, h, threads);
    fixture.layer.train(training);
    time_calls(state, fixture, call);
  });
}
void add_all(Eigen::Index n, Eigen::Index c, Eigen::Index h, int threads = 1) {
  add("forward", n, c, h, threads, true, forward);
  add("backward", n, c, h, threads, true, backward);
  add("inference", n, c, h, threads, false, forward);
}

void add_benchmarks() {
  add_all(2, 1, 1);  // hardly more than the call itself
  add_all(2, 16, 1);
  add("forward that returns y", 8, 16, 8, 1, true, forward_returning);
  add("backward that returns dx", 8, 16, 8, 1, true, backward_returning);
  for (const Eigen::Index n : {2, 8, 32, 128}) add_all(n, 64, 14);
  for (const Eigen::Index c : {16, 256, 1024}) add_all(8, c, 14);
  for (const Eigen::Index h : {7, 28, 56, 112}) add_all(8, 64, h);
  const int all = static_cast<int>(std::thread::hardware_concurrency());
  for (int threads = 2; threads <= all; threads *= 2) {
    for (const Eigen::Index h : {7, 28, 112}) add_all(8, 64, h, threads);
  }
}

/// A Markdown table.
class Table : public benchmark::BenchmarkReporter {
 public:
  bool ReportContext(const Context&) override {
    std::cout << "| call | time | per value | bytes allocated |\n| --- | --- | --- | --- |\n";
    return true;
  }
  void ReportRuns(const std::vector<Run>& runs) override {
    for (const Run& run : runs) {
      const double seconds = run.real_accumulated_time / static_cast<double>(run.iterations);
      const bool is_long = seconds >= 1e-3;
      char line[200];
      std::snprintf(line, sizeof line, "| %s | %.3g %s | %.3g ns | %.0f |\n",
                    run.run_name.function_name.c_str(), seconds * (is_long ? 1e3 : 1e6),
                    is_long ? "ms" : "us", seconds * 1e9 / run.counters.at("values").value,
                    run.counters.at("bytes").value);
      std::cout << line << std::flush;
    }
  }
};

}  // namespace

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  add_benchmarks();
  Table table;
  benchmark::RunSpecifiedBenchmarks(&table);
}
