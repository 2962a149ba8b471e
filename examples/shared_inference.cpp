// SPDX-License-Identifier: MIT
// Answers requests on many threads with one folded layer: no locks, no copies, nothing allocated.
#include <Eigen/Core>
#include <atomic>
#include <batchnorm/batchnorm.hpp>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <thread>
#include <unsupported/Eigen/CXX11/Tensor>
#include <vector>

using Images = Eigen::Tensor<float, 4, Eigen::RowMajor>;

/// Images that differ with the seed, of mean 5 and deviation about 2.
Images images(int n, int channels, int seed) {
  Images x(n, channels, 28, 28);
  for (Eigen::Index i = 0; i < x.size(); ++i) {
    x.data()[i] = 5 + 3 * std::sin(0.7f * static_cast<float>(i % 10007) + static_cast<float>(seed));
  }
  return x;
}

bool same(const Images& a, const Images& b) {
  return std::memcmp(a.data(), b.data(), sizeof(float) * static_cast<std::size_t>(a.size())) == 0;
}

int main() {
  constexpr int channels = 64, requests = 400, kinds = 8;

  // A layer is trained by one thread: forward writes to it, in eval mode too.
  batchnorm::BatchNorm2d<float> bn(channels);
  for (int step = 0; step < 50; ++step) static_cast<void>(bn.forward(images(4, channels, step)));
  bn.gamma().setLinSpaced(0.5f, 2);
  bn.eval();

  // What it has learned, as a value that nothing changes: any number of threads may use it.
  const batchnorm::ChannelAffine<float> folded = bn.folded();

  std::vector<Images> x, expected;
  for (int kind = 0; kind < kinds; ++kind) {
    x.push_back(images(1, channels, 1000 + kind));
    expected.push_back(bn.forward(x.back()));
  }

  std::printf("%d processors\n", static_cast<int>(std::thread::hardware_concurrency()));
  std::printf("threads   requests   wrong   requests per second\n");
  int answers = 0, wrong_in_all = 0;
  for (const int count : {1, 2, 4, 8}) {
    std::atomic<int> wrong{0};
    const auto start = std::chrono::steady_clock::now();
    std::vector<std::thread> threads;
    for (int t = 0; t < count; ++t) {
      threads.emplace_back([&, t] {
        Images y(1, channels, 28, 28);  // each thread's own
        for (int request = t; request < requests; request += count) {
          const auto kind = static_cast<std::size_t>(request % kinds);
          folded.apply(x[kind], y);
          if (!same(y, expected[kind])) ++wrong;
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    std::printf("%7d %10d %7d %19.0f\n", count, requests, wrong.load(), requests / seconds.count());
    answers += requests;
    wrong_in_all += wrong;
  }
  std::printf("\nVerdict: of %d answers, %d differ in any bit from those of the layer.\n", answers,
              wrong_in_all);
  return wrong_in_all == 0 ? 0 : 1;
}
