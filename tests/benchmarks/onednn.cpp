// SPDX-License-Identifier: MIT
// oneDNN: primitive, memory and stream are made once. Its own layout, blocks of channels, holds
// copies of x and dy that are made beforehand.
#include <omp.h>

#include <cmath>
#include <oneapi/dnnl/dnnl.hpp>
#include <unordered_map>

#include "contender.hpp"

namespace bench {
namespace {

using dnnl::memory;
using Tag = memory::format_tag;

const dnnl::engine& cpu() {
  static const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  return engine;
}

memory::desc describe(const Shape& s, Tag tag) {
  return {{s.n, s.c, s.h, s.w}, memory::data_type::f32, tag};
}

/// (N, C) is NHWC of one position: by that name oneDNN is many times faster than as "nc".
Tag plain_tag(Layout layout) { return layout == Layout::nchw ? Tag::nchw : Tag::nhwc; }

/// The blocked layout that this machine's vectors suit: the others take a reference loop.
Tag blocked_tag() {
  const memory::desc x = describe({1, 16, 2, 2}, Tag::nChw16c);
  const dnnl::batch_normalization_forward::primitive_desc description(
      {dnnl::prop_kind::forward_training, x, float(eps), dnnl::normalization_flags::none}, cpu());
  const std::string implementation = description.impl_info_str();
  return implementation.find("jit") != std::string::npos ? Tag::nChw16c : Tag::nChw8c;
}

class OneDnn : public Contender {
 public:
  OneDnn(const Cell& cell, const Data& data, Tag tag)
      : operation_(cell.operation),
        plain_(describe(cell.shape, plain_tag(cell.layout))),
        layout_(describe(cell.shape, tag)),
        channels_({cell.shape.c}, memory::data_type::f32, Tag::a),
        stream_(cpu()),
        out_(fits(layout_, cell) ? memory(layout_, cpu(), data.out) : memory(layout_, cpu())) {
    omp_set_num_threads(cell.threads);
    using dnnl::normalization_flags;
    const auto affine = normalization_flags::use_scale | normalization_flags::use_shift;
    const bool inference = operation_ == Operation::inference;
    const dnnl::batch_normalization_forward::primitive_desc forward(
        {inference ? dnnl::prop_kind::forward_inference : dnnl::prop_kind::forward_training,
         layout_, float(eps), inference ? affine | normalization_flags::use_global_stats : affine},
        cpu());
    arguments_ = {
        {DNNL_ARG_SRC, in_layout(data.x)},         {DNNL_ARG_DST, out_},
        {DNNL_ARG_SCALE, vector(data.gamma)},      {DNNL_ARG_SHIFT, vector(data.beta)},
        {DNNL_ARG_MEAN, memory(channels_, cpu())}, {DNNL_ARG_VARIANCE, memory(channels_, cpu())}};
    if (inference) {
      arguments_.at(DNNL_ARG_MEAN) = vector(data.mean);
      arguments_.at(DNNL_ARG_VARIANCE) = vector(data.var);
    }
    primitive_ = dnnl::batch_normalization_forward(forward);
    if (operation_ != Operation::backward) return;
    run();
    arguments_.erase(DNNL_ARG_DST);
    arguments_.insert({{DNNL_ARG_DIFF_DST, in_layout(data.dy)},
                       {DNNL_ARG_DIFF_SRC, out_},
                       {DNNL_ARG_DIFF_SCALE, memory(channels_, cpu())},
                       {DNNL_ARG_DIFF_SHIFT, memory(channels_, cpu())}});
    primitive_ = dnnl::batch_normalization_backward(
        {{dnnl::prop_kind::backward, layout_, layout_, float(eps), affine}, cpu(), forward});
  }

  void run() override {
    primitive_.execute(stream_, arguments_);
    stream_.wait();
  }

  Outcome outcome() override {
    if (layout_ != plain_) {
      plain_out_ = memory(plain_, cpu());
      reorder(out_, plain_out_);
    }
    Outcome outcome{(layout_ == plain_ ? out_ : plain_out_).get_data_handle(), {}, {}, {}, {}};
    outcome.mean = values(arguments_.at(DNNL_ARG_MEAN));
    for (const double var : values(arguments_.at(DNNL_ARG_VARIANCE))) {
      outcome.inv_std.push_back(1 / std::sqrt(var + eps));
    }
    if (operation_ == Operation::backward) {
      outcome.dgamma = values(arguments_.at(DNNL_ARG_DIFF_SCALE));
      outcome.dbeta = values(arguments_.at(DNNL_ARG_DIFF_SHIFT));
    }
    return outcome;
  }

 private:
  static bool fits(const memory::desc& layout, const Cell& cell) {  // without padded channels
    return layout.get_size() == cell.tensor_bytes();
  }
  memory in_layout(const void* values) {
    const memory plain(plain_, cpu(), const_cast<void*>(values));
    if (layout_ == plain_) return plain;
    memory result(layout_, cpu());
    reorder(plain, result);
    return result;
  }
  memory vector(const float* values) const {
    return {channels_, cpu(), const_cast<float*>(values)};
  }
  void reorder(const memory& from, const memory& to) {
    dnnl::reorder(from, to).execute(stream_, const_cast<memory&>(from), const_cast<memory&>(to));
    stream_.wait();
  }
  static std::vector<double> values(const memory& vector) {
    const auto* data = static_cast<const float*>(vector.get_data_handle());
    return {data, data + vector.get_desc().dims()[0]};
  }

  Operation operation_;
  memory::desc plain_, layout_, channels_;
  dnnl::stream stream_;
  memory out_, plain_out_;
  dnnl::primitive primitive_;
  std::unordered_map<int, memory> arguments_;
};

}  // namespace

// Other types than float need AVX-512.
std::unique_ptr<Contender> make_onednn(const Cell& cell, const Data& data) {
  if (cell.type != Type::float32) return nullptr;
  const Cell row_major = as_row_major(cell);
  return std::make_unique<OneDnn>(row_major, data, plain_tag(row_major.layout));
}

std::unique_ptr<Contender> make_onednn_blocked(const Cell& cell, const Data& data) {
  if (cell.type != Type::float32 || cell.layout != Layout::nchw) return nullptr;
  if (cell.order != Order::row_major) return nullptr;
  return std::make_unique<OneDnn>(cell, data, blocked_tag());
}

std::string onednn_version() {
  const dnnl_version_t* version = dnnl_version();
  return std::to_string(version->major) + "." + std::to_string(version->minor) + "." +
         std::to_string(version->patch);
}
std::string onednn_blocked_layout() { return blocked_tag() == Tag::nChw16c ? "nChw16c" : "nChw8c"; }

}  // namespace bench
