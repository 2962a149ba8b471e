// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <string>
#include <vector>

#include "batchnorm/detail/in_parts.hpp"

namespace batchnorm {

/// Ghost batch normalization (Hoffer, Hubara and Soudry, 2017, arXiv 1705.08741): in training, each
/// `samples` samples of a batch that follow one another are normalized by statistics of their own,
/// as if they were a batch; the last ones may be fewer. Running statistics move once for each
/// batch, towards the merged moments: those of all its samples. Inference is the layer's own.
///
///   GhostBatches ghost(bn, 32);
///   auto y = ghost.forward(x);         // 256 samples: eight means and variances
///   auto dx = ghost.backward(x, dy);   // adds to bn.grad_gamma() and bn.grad_beta()
///
/// Arguments, errors and options are the layer's; Options::single_value is judged for each ghost
/// batch. Under use_running, one of a single value per channel has no part in the running
/// statistics. The layer must outlive this object and stay where it is.
template <class Scalar, int spatial>
class GhostBatches {
 public:
  using Layer = BatchNorm<Scalar, spatial>;
  using Index = Eigen::Index;

  /// Throws std::invalid_argument unless samples >= 1.
  GhostBatches(Layer& layer, Index samples) : parts_(layer), samples_(samples) {
    if (samples < 1) {
      in("GhostBatches")
          .invalid("expected at least 1 sample in a ghost batch, got " + std::to_string(samples));
    }
  }

  template <class X, class Y>
  void forward(const X& x, Y&& y) {
    Layer& layer = parts_.layer();
    if (!layer.is_training()) {
      layer.forward(x, y);
      by_.clear();
      shape_ = layer.saved().shape;
      return;
    }
    const detail::Where where = in("forward");
    constexpr bool fastest = is_column_major<X, Y>();
    parts_.on_views(where, x, y, [&](const auto& in_x, const auto& out_y, const auto& shape) {
      std::vector<Saved> by;
      Moments all;
      each_ghost(shape, [&](Index first, Index count) {
        const Moments part = parts_.measure(samples_of(in_x, fastest, shape, first, count));
        by.push_back(parts_.settle(part, where));
        if (by.back().batch_statistics) all.merge(part);
      });
      Index g = 0;
      each_ghost(shape, [&](Index first, Index count) {
        parts_.normalize(by[static_cast<std::size_t>(g++)],
                         samples_of(in_x, fastest, shape, first, count),
                         samples_of(out_y, fastest, shape, first, count));
      });
      if (all.channels() > 0) parts_.track(all);
      by_ = std::move(by);
      shape_ = shape;
    });
  }
  template <class X>
  [[nodiscard]] typename detail::Argument<X>::Plain forward(const X& x) {
    return detail::written(x, [&](const auto& values, auto& y) { forward(values, y); });
  }

  /// Differentiates the last forward made through this object.
  template <class X, class Dy, class Dx>
  void backward(const X& x, const Dy& dy, Dx&& dx) {
    if (by_.empty()) {
      parts_.layer().backward(x, dy, dx);
      return;
    }
    const detail::Where where = in("backward");
    constexpr bool fastest = is_column_major<X, Dy, Dx>();
    parts_.on_views(
        where, x, dy, dx,
        [&](const auto& in_x, const auto& in_dy, const auto& out_dx, const auto& shape) {
          if (shape != shape_) {
            where.invalid("expected the x of the last forward, of shape " + shape_.text() +
                          ", got one of " + shape.text());
          }
          Index g = 0;
          each_ghost(shape, [&](Index first, Index count) {
            const Saved& by = by_[static_cast<std::size_t>(g++)];
            const auto part_x = samples_of(in_x, fastest, shape, first, count);
            const auto part_dy = samples_of(in_dy, fastest, shape, first, count);
            const auto sums = parts_.sum_gradients(by, part_x, part_dy);
            parts_.accumulate(sums);
            parts_.write_input_gradient(by, sums, part_x, part_dy,
                                        samples_of(out_dx, fastest, shape, first, count));
          });
        });
  }
  template <class X, class Dy>
  [[nodiscard]] typename detail::Argument<X>::Plain backward(const X& x, const Dy& dy) {
    return detail::written(x, [&](const auto& values, auto& dx) { backward(values, dy, dx); });
  }

 private:
  [[nodiscard]] static detail::Where in(const char* call) { return {"GhostBatches", call}; }

  template <class... X>
  [[nodiscard]] static constexpr bool is_column_major() {
    return detail::common_order<detail::Bare<X>...>() == Eigen::ColMajor;
  }
  template <class F>
  void each_ghost(const detail::Shape& shape, const F& f) const {
    const Index n = shape.extents[0];
    for (Index first = 0; first == 0 || first < n; first += samples_) {
      f(first, std::min(samples_, n - first));
    }
  }
  /// Samples [first, first + count) of a batch, whose samples step fastest, or slowest, through it.
  template <class T>
  [[nodiscard]] static detail::View<T> samples_of(detail::View<T> v, bool fastest,
                                                  const detail::Shape& shape, Index first,
                                                  Index count) {
    const Index n = shape.extents[0];
    if (v.size() == 0) return v;
    if (fastest && v.inner > n) {  // several positions in a row, each of n samples
      v.outer = v.inner / n;
      v.outer_stride = n * v.inner_stride;
      v.inner = n;
    }
    Index& extent = !fastest && v.outer >= n ? v.outer : v.inner;
    const Index stride = &extent == &v.outer ? v.outer_stride : v.inner_stride;
    const Index of_a_sample = extent / n;
    v.data += first * of_a_sample * stride;
    extent = count * of_a_sample;
    return v;
  }

  detail::InParts<Scalar, spatial> parts_;
  Index samples_;          // of a ghost batch
  std::vector<Saved> by_;  // what each ghost batch was normalized with; none in eval mode
  detail::Shape shape_;    // of the last forward's x
};

}  // namespace batchnorm
