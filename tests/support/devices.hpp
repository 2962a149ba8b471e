// SPDX-License-Identifier: MIT
// Thread pools, made when first asked for. Define EIGEN_USE_THREADS before any Eigen header.
#pragma once

#include <cstddef>
#include <memory>
#include <unsupported/Eigen/CXX11/Tensor>
#include <vector>

namespace testing {

struct Device {
  explicit Device(int threads) : pool(threads), device(&pool, threads) {}
  Eigen::ThreadPool pool;
  Eigen::ThreadPoolDevice device;
};

/// The device of up to 8 threads.
inline Device& device_of(int threads) {
  static std::vector<std::unique_ptr<Device>> devices(9);
  auto& slot = devices[static_cast<std::size_t>(threads)];
  if (!slot) slot = std::make_unique<Device>(threads);
  return *slot;
}

}  // namespace testing
