// SPDX-License-Identifier: MIT
// A communicator that passes calls on and keeps count of them.
#pragma once

#include <batchnorm/sync/communicator.hpp>
#include <chrono>
#include <type_traits>

namespace data_parallel {

class Metered final : public batchnorm::Communicator {
 public:
  explicit Metered(batchnorm::Communicator& world) : world_(world) {}

  [[nodiscard]] int rank() const override { return world_.rank(); }
  [[nodiscard]] int size() const override { return world_.size(); }

  [[nodiscard]] Eigen::MatrixXd all_gather(const Eigen::VectorXd& mine) override {
    return metered(mine, [&] { return world_.all_gather(mine); });
  }
  [[nodiscard]] Eigen::VectorXd all_reduce(const Eigen::VectorXd& mine) override {
    return metered(mine, [&] { return world_.all_reduce(mine); });
  }

  long exchanges = 0;
  double bytes = 0;    // that this rank gave
  double seconds = 0;  // in exchanges, waiting for slower ranks included

 private:
  template <class Call>
  std::invoke_result_t<Call> metered(const Eigen::VectorXd& mine, const Call& call) {
    using Clock = std::chrono::steady_clock;
    const auto start = Clock::now();
    auto result = call();
    seconds += std::chrono::duration<double>(Clock::now() - start).count();
    bytes += static_cast<double>(mine.size()) * sizeof(double);
    ++exchanges;
    return result;
  }

  batchnorm::Communicator& world_;
};

}  // namespace data_parallel
