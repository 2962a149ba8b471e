// SPDX-License-Identifier: MIT
// This library. It is compiled twice: with other compiler flags or from another folder of headers.
// BENCH_MAKE names the function that makes the contender.
#define EIGEN_USE_THREADS
#include <batchnorm/batchnorm.hpp>
#include <map>
#include <unsupported/Eigen/CXX11/Tensor>

#include "contender.hpp"

namespace bench {
namespace {

const Eigen::ThreadPoolDevice* device(int threads) {
  struct Pool {
    explicit Pool(int n) : pool(n - 1), device(&pool, n) {}  // the caller works too
    Eigen::ThreadPool pool;
    Eigen::ThreadPoolDevice device;
  };
  static std::map<int, Pool> pools;
  if (threads == 1) return nullptr;
  return &pools.try_emplace(threads, threads).first->second.device;
}

template <class Layer, class Scalar, int rank, int order>
class Ours : public Contender {
 public:
  using Extents = Eigen::DSizes<Eigen::Index, rank>;
  using Const = Eigen::TensorMap<const Eigen::Tensor<Scalar, rank, order>>;
  using Mutable = Eigen::TensorMap<Eigen::Tensor<Scalar, rank, order>>;

  Ours(const Cell& cell, const Data& data, const Extents& extents)
      : operation_(cell.operation),
        layer_(cell.shape.c, options(cell)),
        x_(static_cast<const Scalar*>(data.x), extents),
        dy_(static_cast<const Scalar*>(data.dy), extents),
        out_(static_cast<Scalar*>(data.out), extents) {
    using Vector = Eigen::Map<const Eigen::VectorXf>;
    using Param = typename Layer::Param;
    layer_.gamma() = Vector(data.gamma, cell.shape.c).cast<Param>();
    layer_.beta() = Vector(data.beta, cell.shape.c).cast<Param>();
    layer_.running_mean() = Vector(data.mean, cell.shape.c).cast<Param>();
    layer_.running_var() = Vector(data.var, cell.shape.c).cast<Param>();
    layer_.set_device(device(cell.threads));
    if (operation_ == Operation::inference) layer_.eval();
    if (operation_ == Operation::backward) layer_.forward(x_, out_);
  }

  void run() override {
    if (operation_ == Operation::backward) {
      layer_.backward(x_, dy_, out_);
    } else {
      layer_.forward(x_, out_);
    }
  }

  Outcome outcome() override {
    layer_.zero_grad();
    run();
    const auto values = [](const auto& vector) {
      return std::vector<double>(vector.data(), vector.data() + vector.size());
    };
    const auto& saved = layer_.saved();
    return {out_.data(), values(layer_.grad_gamma()), values(layer_.grad_beta()),
            values(saved.mean), values(saved.inv_std)};
  }

 private:
  static batchnorm::Options options(const Cell& cell) {
    batchnorm::Options options;
    options.eps = eps;
    if (cell.layout == Layout::nhwc) options.channel_axis = batchnorm::ChannelAxis::last;
    return options;
  }

  Operation operation_;
  Layer layer_;
  Const x_, dy_;
  Mutable out_;
};

template <class Scalar, int order>
std::unique_ptr<Contender> of_order(const Cell& cell, const Data& data) {
  const Shape& s = cell.shape;
  using BatchNorm1d = batchnorm::BatchNorm1d<Scalar>;
  using BatchNorm2d = batchnorm::BatchNorm2d<Scalar>;
  using Extents = Eigen::DSizes<Eigen::Index, 4>;
  switch (cell.layout) {
    case Layout::nc:
      return std::make_unique<Ours<BatchNorm1d, Scalar, 2, order>>(
          cell, data, Eigen::DSizes<Eigen::Index, 2>(s.n, s.c));
    case Layout::nchw:
      return std::make_unique<Ours<BatchNorm2d, Scalar, 4, order>>(cell, data,
                                                                   Extents(s.n, s.c, s.h, s.w));
    default:
      return std::make_unique<Ours<BatchNorm2d, Scalar, 4, order>>(cell, data,
                                                                   Extents(s.n, s.h, s.w, s.c));
  }
}

template <class Scalar>
std::unique_ptr<Contender> of_type(const Cell& cell, const Data& data) {
  return cell.order == Order::row_major ? of_order<Scalar, Eigen::RowMajor>(cell, data)
                                        : of_order<Scalar, Eigen::ColMajor>(cell, data);
}

}  // namespace

#ifndef BENCH_MAKE
#define BENCH_MAKE make_ours
#endif
std::unique_ptr<Contender> BENCH_MAKE(const Cell& cell, const Data& data) {
  switch (cell.type) {
    case Type::float32:
      return of_type<float>(cell, data);
    case Type::float64:
      return of_type<double>(cell, data);
    case Type::float16:
      return of_type<Eigen::half>(cell, data);
    default:
      return of_type<Eigen::bfloat16>(cell, data);
  }
}

}  // namespace bench
