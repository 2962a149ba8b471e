// SPDX-License-Identifier: MIT
// What a fused ReLU and residual cost; feature.sh builds and runs it. Prints a Markdown table:
// medians of rounds in which the contenders take turns, in times of the plain layer.
#include <batchnorm/extras/fused.hpp>
#include <cstdio>
#include <oneapi/dnnl/dnnl.hpp>
#include <unordered_map>

#include "in_turn.hpp"

namespace {

using batchnorm::BatchNorm2d;
using batchnorm::Fused;
using batchnorm::plus;
using Images = Eigen::Tensor<float, 4, Eigen::RowMajor>;
using Values = Eigen::Map<Eigen::ArrayXf>;
using dnnl::memory;
using Tag = memory::format_tag;

Values values(Images& t) { return {t.data(), t.size()}; }

/// oneDNN's batch normalization with its ReLU fused in, in a layout. It keeps a mask, its workspace.
class OneDnn {
 public:
  OneDnn(Eigen::Index n, Eigen::Index c, Eigen::Index h, Eigen::Index w, Tag tag)
      : engine_(dnnl::engine::kind::cpu, 0), stream_(engine_) {
    using dnnl::normalization_flags;
    const memory::desc x({n, c, h, w}, memory::data_type::f32, tag);
    const memory::desc channels({c}, memory::data_type::f32, Tag::a);
    const auto flags = normalization_flags::use_scale | normalization_flags::use_shift |
                       normalization_flags::fuse_norm_relu;
    const dnnl::batch_normalization_forward::primitive_desc forward(
        {dnnl::prop_kind::forward_training, x, 1e-5f, flags}, engine_);
    const dnnl::batch_normalization_backward::primitive_desc backward(
        {dnnl::prop_kind::backward, x, x, 1e-5f, flags}, engine_, forward);
    const auto filled = [&](const memory::desc& desc) {
      memory m(desc, engine_);
      auto* data = static_cast<float*>(m.get_data_handle());
      Eigen::Map<Eigen::ArrayXf>(data, static_cast<Eigen::Index>(desc.get_size() / 4)).setRandom();
      return m;
    };
    forward_arguments_ = {{DNNL_ARG_SRC, filled(x)},
                          {DNNL_ARG_DST, memory(x, engine_)},
                          {DNNL_ARG_SCALE, filled(channels)},
                          {DNNL_ARG_SHIFT, filled(channels)},
                          {DNNL_ARG_MEAN, memory(channels, engine_)},
                          {DNNL_ARG_VARIANCE, memory(channels, engine_)},
                          {DNNL_ARG_WORKSPACE, memory(forward.workspace_desc(), engine_)}};
    backward_arguments_ = forward_arguments_;
    backward_arguments_.erase(DNNL_ARG_DST);
    backward_arguments_.insert({{DNNL_ARG_DIFF_DST, filled(x)},
                                {DNNL_ARG_DIFF_SRC, memory(x, engine_)},
                                {DNNL_ARG_DIFF_SCALE, memory(channels, engine_)},
                                {DNNL_ARG_DIFF_SHIFT, memory(channels, engine_)}});
    forward_ = dnnl::batch_normalization_forward(forward);
    backward_ = dnnl::batch_normalization_backward(backward);
  }
  void forward() { run(forward_, forward_arguments_); }
  void backward() { run(backward_, backward_arguments_); }

 private:
  void run(dnnl::primitive& primitive, const std::unordered_map<int, memory>& arguments) {
    primitive.execute(stream_, arguments);
    stream_.wait();
  }

  dnnl::engine engine_;
  dnnl::stream stream_;
  dnnl::primitive forward_, backward_;
  std::unordered_map<int, memory> forward_arguments_, backward_arguments_;
};

void measure(Eigen::Index n, Eigen::Index c, Eigen::Index s, bool channels_last) {
  batchnorm::Options options;
  if (channels_last) options.channel_axis = batchnorm::ChannelAxis::last;
  BatchNorm2d<float> bn(c, options), under(c, options), under_residual(c, options);
  Fused fused(under, batchnorm::Relu()), with_residual(under_residual, batchnorm::Relu());
  const Images shape = channels_last ? Images(n, s, s, c) : Images(n, c, s, s);
  Images x(shape), r(shape), dy(shape), y(shape), dx(shape), dr(shape);
  for (Images* t : {&x, &r, &dy}) t->setRandom();
  OneDnn in_this_layout(n, c, s, s, channels_last ? Tag::nhwc : Tag::nchw);
  OneDnn in_blocks(n, c, s, s, Tag::nChw8c);

  const auto relu_gradient = [&] { values(dr) = (values(y) > 0).select(values(dy), 0); };
  /// The seconds of the first work, then for each other work its time divided by the first one's.
  const auto medians = [](const std::vector<std::function<void()>>& works) {
    for (const auto& work : works) work();
    const auto times = bench::in_turn(works, {21, 5e-3, {}});
    std::vector<double> result{bench::median(times[0])};
    for (std::size_t i = 1; i < times.size(); ++i) {
      result.push_back(bench::median(bench::ratios(times[i], times[0])));
    }
    return result;
  };
  const auto show = [&](const char* what, const std::vector<double>& t) {
    std::printf("| %s | %s (%td, %td, %td, %td) | %.0f us |", what, channels_last ? "NHWC" : "NCHW",
                n, c, s, s, 1e6 * t[0]);
    for (std::size_t i = 1; i < t.size(); ++i) std::printf(" %.2f |", t[i]);
    std::printf("\n");
    std::fflush(stdout);
  };
  show("forward", medians({[&] { bn.forward(x, y); }, [&] { fused.forward(x, y); },
                           [&] {
                             bn.forward(x, y);
                             values(y) = values(y).max(0);
                           },
                           [&] { with_residual.forward(x, y, plus(r)); },
                           [&] {
                             bn.forward(x, y);
                             values(y) = (values(y) + values(r)).max(0);
                           },
                           [&] { in_this_layout.forward(); }, [&] { in_blocks.forward(); }}));
  with_residual.forward(x, y, plus(r));
  show("backward", medians({[&] { bn.backward(x, dy, dx); }, [&] { fused.backward(x, dy, dx); },
                            [&] {
                              relu_gradient();
                              bn.backward(x, dr, dx);
                            },
                            [&] { with_residual.backward(x, y, dy, dx, dr); },
                            [&] {
                              relu_gradient();
                              bn.backward(x, dr, dx);
                            },
                            [&] { in_this_layout.backward(); }, [&] { in_blocks.backward(); }}));
}

}  // namespace

int main() {
  std::printf(
      "| pass | tensor | plain layer | fused ReLU | ReLU apart | fused residual and ReLU | "
      "both apart | oneDNN's fused ReLU | the same, nChw8c "
      "|\n|---|---|---|---|---|---|---|---|---|\n");
  for (const bool channels_last : {false, true}) {
    measure(32, 64, 14, channels_last);  // in the caches
    measure(32, 256, 14, channels_last);
    measure(32, 64, 56, channels_last);  // beyond them
    measure(16, 256, 56, channels_last);
  }
}
