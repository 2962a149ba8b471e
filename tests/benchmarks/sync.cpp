// SPDX-License-Identifier: MIT
// What merging and synchronizing cost; feature.sh builds and runs it, on 1, 2 and 4 ranks. Each
// rank is a process of MPI, or with --threads N a thread. Rank 0 prints rows of Markdown tables:
// medians of rounds in which what is compared takes turns.
#include <batchnorm/moments.hpp>
#include <batchnorm/mpi.hpp>
#include <batchnorm/sync.hpp>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <vector>

#include "resnet50.hpp"
#include "statistics.hpp"

namespace {

using batchnorm::BatchNorm2d;
using batchnorm::Communicator;
using batchnorm::Moments;
using batchnorm::SyncBatchNorm;
using Images = Eigen::Tensor<float, 4, Eigen::RowMajor>;
using Shapes = std::vector<bench::Shape>;
using Work = std::function<void()>;

constexpr int rounds = 15;

/// Median seconds of a call, for each of the works; all ranks start each round together.
std::vector<double> seconds_of(Communicator& world, int calls, const std::vector<Work>& works) {
  using Clock = std::chrono::steady_clock;
  std::vector<std::vector<double>> times(works.size());
  for (int round = 0; round < rounds + 1; ++round) {  // the first is not counted
    for (std::size_t i = 0; i < works.size(); ++i) {
      works[i]();  // not counted: it fills the caches with this work's data
      static_cast<void>(world.all_gather(Eigen::VectorXd(1)));
      const auto start = Clock::now();
      for (int call = 0; call < calls; ++call) works[i]();
      const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
      if (round > 0) times[i].push_back(seconds / calls);
    }
  }
  std::vector<double> medians;
  for (auto& one : times) medians.push_back(bench::median(one));
  return medians;
}

void merging(Communicator& world) {
  if (world.size() > 1) return;
  std::printf("| channels | merge of two moments | per channel |\n|---|---|---|\n");
  for (const Eigen::Index channels : {64, 256, 2048}) {
    Images x(2, channels, 7, 7);
    x.setRandom();
    const Moments part = batchnorm::moments_of(x);
    Moments all = part;
    const int calls = 200000 / static_cast<int>(channels);
    const double s = seconds_of(world, calls, {[&] { all.merge(part); }})[0];
    std::printf("| %td | %.2f us | %.1f ns |\n", channels, 1e6 * s,
                1e9 * s / static_cast<double>(channels));
  }
  std::printf("\n");
}

void messages(Communicator& world) {
  if (world.rank() == 0) {
    std::printf(
        "| channels | bytes of a rank, forward | gather | bytes, backward | sum |\n"
        "|---|---|---|---|---|\n");
  }
  for (const Eigen::Index channels : {1, 64, 256, 512, 2048, 26560}) {
    const Eigen::VectorXd forward = Eigen::VectorXd::Zero(3 + 2 * channels);
    const Eigen::VectorXd backward = Eigen::VectorXd::Zero(1 + 2 * channels);
    const auto s = seconds_of(world, channels > 10000 ? 5 : 30,
                              {[&] { static_cast<void>(world.all_gather(forward)); },
                               [&] { static_cast<void>(world.all_reduce(backward)); }});
    if (world.rank() > 0) continue;
    std::printf("| %td | %td | %.1f us | %td | %.1f us |\n", channels, 8 * forward.size(),
                1e6 * s[0], 8 * backward.size(), 1e6 * s[1]);
  }
  const Shapes resnet50 = bench::resnet50_layers(1);
  const Work gathers = [&] {
    for (const auto& layer : resnet50) {
      static_cast<void>(world.all_gather(Eigen::VectorXd::Zero(3 + 2 * layer.c)));
    }
  };
  const Work sums = [&] {
    for (const auto& layer : resnet50) {
      static_cast<void>(world.all_reduce(Eigen::VectorXd::Zero(1 + 2 * layer.c)));
    }
  };
  const auto s = seconds_of(world, 1, {gathers, sums});
  if (world.rank() > 0) return;
  std::printf(
      "\nResNet-50's 53 layers, 26560 channels in all, one by one: gathers %.0f us, sums %.0f "
      "us\n\n",
      1e6 * s[0], 1e6 * s[1]);
}

void layers(Communicator& world) {
  if (world.rank() == 0) {
    std::printf(
        "| shard of a rank | forward, local | synchronized | backward, local | synchronized "
        "|\n|---|---|---|---|---|\n");
  }
  const Shapes shapes = {{8, 64, 56, 56}, {8, 256, 14, 14}, {8, 2048, 7, 7}, {8, 16, 5, 5}};
  for (const auto& [n, channels, h, w] : shapes) {
    Images x(n, channels, h, w), dy = x, y = x, dx = x;
    x.setRandom();
    dy.setRandom();
    BatchNorm2d<float> bn(channels), other(channels);
    SyncBatchNorm sync(other, world);
    const auto s = seconds_of(world, x.size() > 100000 ? 2 : 30,
                              {[&] { bn.forward(x, y); }, [&] { sync.forward(x, y); },
                               [&] { bn.backward(x, dy, dx); }, [&] { sync.backward(x, dy, dx); }});
    if (world.rank() > 0) continue;
    std::printf("| (%td, %td, %td, %td) | %.1f us | %.2f x | %.1f us | %.2f x |\n", n, channels, h,
                w, 1e6 * s[0], s[1] / s[0], 1e6 * s[2], s[3] / s[2]);
  }
  if (world.rank() == 0) std::printf("\n");
}

void measure(Communicator& world, const char* kind) {
  if (world.rank() == 0) std::printf("## %d %s\n\n", world.size(), kind);
  merging(world);
  messages(world);
  layers(world);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc == 3 && std::string(argv[1]) == "--threads") {
    batchnorm::Replicas(std::atoi(argv[2])).run([](Communicator& world) {
      measure(world, world.size() == 1 ? "thread" : "threads");
    });
    return 0;
  }
  batchnorm::MpiRanks(argc, argv).run([](Communicator& world) {
    measure(world, world.size() == 1 ? "process over MPI" : "processes over MPI");
  });
}
