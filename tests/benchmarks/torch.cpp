// SPDX-License-Identifier: MIT
// PyTorch's libtorch: the operators themselves, without autograd. They allocate what they return.
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/native_batch_norm.h>
#include <ATen/ops/native_batch_norm_backward.h>
#include <c10/core/InferenceMode.h>
#include <torch/csrc/api/include/torch/version.h>

#include "contender.hpp"

namespace bench {
namespace {

at::Tensor wrap(const void* values, const Cell& cell) {
  const Shape& s = cell.shape;
  const auto type = cell.type == Type::float32   ? at::kFloat
                    : cell.type == Type::float64 ? at::kDouble
                                                 : at::kBFloat16;
  void* data = const_cast<void*>(values);
  switch (cell.layout) {
    case Layout::nc:
      return at::from_blob(data, {s.n, s.c}, type);
    case Layout::nchw:
      return at::from_blob(data, {s.n, s.c, s.h, s.w}, type);
    default:  // torch's channels_last: the axes of NCHW by the strides of NHWC
      return at::from_blob(data, {s.n, s.c, s.h, s.w}, {s.h * s.w * s.c, 1, s.w * s.c, s.c}, type);
  }
}
at::Tensor copy(const float* values, const Cell& cell) {
  const at::Tensor floats = at::from_blob(const_cast<float*>(values), {cell.shape.c}, at::kFloat);
  return cell.type == Type::float64 ? floats.to(at::kDouble) : floats.clone();
}
std::vector<double> values(const at::Tensor& vector) {
  if (!vector.defined()) return {};
  const at::Tensor doubles = vector.to(at::kDouble);
  const double* data = doubles.data_ptr<double>();
  return {data, data + doubles.numel()};
}

class Torch : public Contender {
 public:
  Torch(const Cell& cell, const Data& data)
      : operation_(cell.operation),
        x_(wrap(data.x, cell)),
        dy_(wrap(data.dy, cell)),
        gamma_(copy(data.gamma, cell)),
        beta_(copy(data.beta, cell)),
        running_mean_(copy(data.mean, cell)),
        running_var_(copy(data.var, cell)) {
    at::set_num_threads(cell.threads);
    if (operation_ == Operation::backward) std::tie(out_, mean_, inv_std_) = forward(true);
  }

  void run() override {
    if (operation_ == Operation::backward) {
      std::tie(out_, dgamma_, dbeta_) =
          at::native_batch_norm_backward(dy_, x_, gamma_, running_mean_, running_var_, mean_,
                                         inv_std_, true, eps, {true, true, true});
    } else {
      std::tie(out_, mean_, inv_std_) = forward(operation_ == Operation::forward);
    }
  }

  Outcome outcome() override {
    return {out_.data_ptr(), values(dgamma_), values(dbeta_), values(mean_), values(inv_std_)};
  }

 private:
  std::tuple<at::Tensor, at::Tensor, at::Tensor> forward(bool training) {
    out_ = at::Tensor();  // its memory can be used again
    return at::native_batch_norm(x_, gamma_, beta_, running_mean_, running_var_, training, 0.1,
                                 eps);
  }

  Operation operation_;
  at::Tensor x_, dy_, gamma_, beta_, running_mean_, running_var_;
  at::Tensor out_, mean_, inv_std_, dgamma_, dbeta_;
};

}  // namespace

std::unique_ptr<Contender> make_torch(const Cell& cell, const Data& data) {
  static const c10::InferenceMode without_autograd;
  if (cell.type == Type::float16) return nullptr;  // "not implemented for 'Half'"
  return std::make_unique<Torch>(as_row_major(cell), data);
}

std::string torch_version() { return TORCH_VERSION; }

}  // namespace bench
