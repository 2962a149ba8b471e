// SPDX-License-Identifier: MIT
// Eigen Tensor expressions: reductions and broadcasts on a ThreadPoolDevice.
#define EIGEN_USE_THREADS
#include <map>
#include <unsupported/Eigen/CXX11/Tensor>

#include "contender.hpp"

namespace bench {
namespace {

using Eigen::Index;
using Vector = Eigen::Tensor<float, 1, Eigen::RowMajor>;

/// rank 3: [outer][channel][inner]; rank 2: [outer][channel].
template <int rank, class Device>
class Tensors : public Contender {
  using In = Eigen::TensorMap<Eigen::Tensor<const float, rank, Eigen::RowMajor>>;
  using Out = Eigen::TensorMap<Eigen::Tensor<float, rank, Eigen::RowMajor>>;
  using Sizes = Eigen::DSizes<Index, rank>;

 public:
  Tensors(const Cell& cell, const Data& data, const Device& device)
      : operation_(cell.operation),
        device_(device),
        size_(extents(cell)),
        count_(static_cast<float>(cell.shape.count())),
        x_(static_cast<const float*>(data.x), sizes(size_.outer, size_.channels, size_.inner)),
        dy_(static_cast<const float*>(data.dy), x_.dimensions()),
        out_(static_cast<float*>(data.out), x_.dimensions()),
        gamma_(vector(data.gamma)),
        beta_(vector(data.beta)),
        mean_(vector(data.mean)),
        inv_std_((vector(data.var) + float(eps)).rsqrt()),
        running_mean_(mean_),
        running_var_(vector(data.var)),
        dgamma_(size_.channels),
        dbeta_(size_.channels) {
    if (operation_ == Operation::backward) statistics();
  }

  void run() override {
    if (operation_ == Operation::backward) return backward();
    if (operation_ == Operation::forward) statistics();
    const Vector scale = gamma_ * inv_std_;
    out_.device(device_) = (x_ - spread(mean_)) * spread(scale) + spread(beta_);
  }

  Outcome outcome() override {
    return {out_.data(),
            {dgamma_.data(), dgamma_.data() + dgamma_.size()},
            {dbeta_.data(), dbeta_.data() + dbeta_.size()},
            {},
            {}};
  }

 private:
  static Sizes sizes(Index outer, Index channels, Index inner) {
    if constexpr (rank == 2) {
      return Sizes(outer, channels);
    } else {
      return Sizes(outer, channels, inner);
    }
  }
  Vector vector(const float* values) const {
    return Eigen::TensorMap<Eigen::Tensor<const float, 1, Eigen::RowMajor>>(values, size_.channels);
  }
  auto spread(const Vector& v) const {
    return v.reshape(sizes(1, size_.channels, 1)).broadcast(sizes(size_.outer, 1, size_.inner));
  }
  template <class Expression>
  Vector sum(const Expression& values) const {
    Vector result(size_.channels);
    if constexpr (rank == 2) {
      result.device(device_) = values.sum(Eigen::array<int, 1>{0});
    } else {
      result.device(device_) = values.sum(Eigen::array<int, 2>{0, 2});
    }
    return result;
  }

  void statistics() {
    mean_ = sum(x_) / count_;
    const Vector var = sum((x_ - spread(mean_)).square()) / count_;
    inv_std_ = (var + float(eps)).rsqrt();
    running_mean_ = running_mean_ * 0.9f + mean_ * 0.1f;
    running_var_ = running_var_ * 0.9f + var * (0.1f * count_ / (count_ - 1));
  }
  void backward() {
    dbeta_ = sum(dy_);
    dgamma_ = sum(dy_ * (x_ - spread(mean_))) * inv_std_;
    const Vector scale = gamma_ * inv_std_, shift = dbeta_ / count_;
    const Vector of_x_hat = dgamma_ * inv_std_ / count_;
    out_.device(device_) =
        (dy_ - spread(shift) - (x_ - spread(mean_)) * spread(of_x_hat)) * spread(scale);
  }

  Operation operation_;
  const Device& device_;
  Extents size_;
  float count_;
  In x_, dy_;
  Out out_;
  Vector gamma_, beta_, mean_, inv_std_, running_mean_, running_var_, dgamma_, dbeta_;
};

const Eigen::ThreadPoolDevice& pool_device(int threads) {
  struct Pool {
    explicit Pool(int n) : pool(n), device(&pool, n) {}
    Eigen::ThreadPool pool;
    Eigen::ThreadPoolDevice device;
  };
  static std::map<int, Pool> pools;
  return pools.try_emplace(threads, threads).first->second.device;
}

template <class Device>
std::unique_ptr<Contender> make(const Cell& cell, const Data& data, const Device& device) {
  if (extents(cell).inner == 1) return std::make_unique<Tensors<2, Device>>(cell, data, device);
  return std::make_unique<Tensors<3, Device>>(cell, data, device);
}

}  // namespace

std::unique_ptr<Contender> make_eigen_tensors(const Cell& cell, const Data& data) {
  static const Eigen::DefaultDevice this_thread;
  if (cell.type != Type::float32) return nullptr;
  if (cell.threads == 1) return make(cell, data, this_thread);
  return make(cell, data, pool_device(cell.threads));
}

std::string eigen_version() {
  return std::to_string(EIGEN_WORLD_VERSION) + "." + std::to_string(EIGEN_MAJOR_VERSION) + "." +
         std::to_string(EIGEN_MINOR_VERSION);
}

}  // namespace bench
