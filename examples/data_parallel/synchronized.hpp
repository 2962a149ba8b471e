// SPDX-License-Identifier: MIT
// The batch norms of a network, synchronized over ranks.
#pragma once

#include <batchnorm/sync.hpp>
#include <memory>
#include <utility>
#include <vector>

#include "batch_norm.hpp"
#include "sequential.hpp"

namespace data_parallel {

/// Stands in for Norm, an nn::BatchNorm1d or 2d, which it owns.
template <class Scalar, class Norm>
class Synchronized final : public nn::Layer<Scalar> {
 public:
  Synchronized(std::unique_ptr<nn::Layer<Scalar>> plain, Norm& norm, batchnorm::Communicator& world)
      : plain_(std::move(plain)), sync_(norm.norm(), world) {}

  [[nodiscard]] nn::Shape output_shape(const nn::Shape& x) const override { return x; }
  void forward(const nn::Tensor<Scalar>& x, nn::Tensor<Scalar>& y) override {
    sync_.forward(Norm::view(x.data(), x), Norm::view(y.data(), y));
  }
  void backward(const nn::Tensor<Scalar>& x, const nn::Tensor<Scalar>& /*y*/,
                const nn::Tensor<Scalar>& dy, nn::Tensor<Scalar>* dx) override {
    nn::Tensor<Scalar> unused;
    if (dx == nullptr) unused.resize(x.dimensions());
    nn::Tensor<Scalar>& out = dx == nullptr ? unused : *dx;
    sync_.backward(Norm::view(x.data(), x), Norm::view(dy.data(), dy), Norm::view(out.data(), out));
  }
  [[nodiscard]] std::vector<nn::Parameter<Scalar>> parameters() override {
    return plain_->parameters();
  }
  void train(bool on) override { plain_->train(on); }
  void set_device(nn::Device device) override { plain_->set_device(device); }

 private:
  std::unique_ptr<nn::Layer<Scalar>> plain_;
  decltype(batchnorm::SyncBatchNorm(std::declval<Norm&>().norm(),
                                    std::declval<batchnorm::Communicator&>())) sync_;
};

template <class Norm, class Scalar>
void synchronize(nn::Sequential<Scalar>& model, std::size_t i, batchnorm::Communicator& world) {
  auto* const norm = dynamic_cast<Norm*>(&model.layer(i));
  if (norm == nullptr) return;
  auto plain = model.exchange(i, nullptr);
  model.exchange(i, std::make_unique<Synchronized<Scalar, Norm>>(std::move(plain), *norm, world));
}
template <class Scalar>
void synchronize(nn::Sequential<Scalar>& model, batchnorm::Communicator& world) {
  for (std::size_t i = 0; i < model.size(); ++i) {
    synchronize<nn::BatchNorm1d<Scalar>>(model, i, world);
    synchronize<nn::BatchNorm2d<Scalar>>(model, i, world);
  }
}

}  // namespace data_parallel
