// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <type_traits>
#include <utility>
#include <vector>

#include "batchnorm/moments/parts.hpp"

namespace batchnorm {

/// Ghost batch normalization (Hoffer, Hubara and Soudry, 2017, arXiv 1705.08741). In training mode
/// every group of `samples` consecutive samples of a batch is normalized by its own statistics, as
/// if it were a batch; the last ghost batch may be smaller. The running statistics move once per
/// batch, towards the merged moments of its ghost batches. In eval mode forward and backward are
/// the layer's.
///
///   GhostBatches ghost(bn, 32);
///   auto y = ghost.forward(x);         // 256 samples: eight means and variances
///   auto dx = ghost.backward(x, dy);   // adds to bn.grad_gamma() and bn.grad_beta()
///
/// Arguments, errors and options are the layer's, which must outlive this object and stay in place.
/// Options::single_value applies to each ghost batch: under use_running, a ghost batch of one value
/// per channel does not move the running statistics.
template <class Scalar, int spatial>
class GhostBatches {
 public:
  using Layer = BatchNorm<Scalar, spatial>;
  using Index = Eigen::Index;

  /// Throws std::invalid_argument unless samples >= 1.
  GhostBatches(Layer& layer, Index samples) : layer_(&layer), samples_(samples) {
    if (samples < 1)
      in("GhostBatches").invalid({"expected at least 1 sample in a ghost batch, got ", samples});
  }

  template <class X, class Y>
  void forward(const X& x, Y&& y) {
    if (!core().training) {
      layer_->forward(x, y);
      of_eval_ = layer_->saved();
      return by_.clear();
    }
    const detail::Where where = in("forward");
    const auto f = [&](const Shape& shape, const View& in_x, const View& out_y) {
      detail::check_y(where, in_x, out_y);
      std::vector<Saved> by;
      Moments all(in_x.channels);
      const auto measure = [&](std::size_t, const View& part) {
        by.push_back(detail::completed(core(), where, detail::measured(core(), part)));
        by.back().shape = shape;  // for core().backward
        if (by.back().batch_statistics) all.merge(detail::as_moments(by.back()));
      };
      const auto normalize = [this, &by](std::size_t g, const auto&... part) {
        detail::normalize(core(), by[g], part...);
      };
      constexpr bool fastest = is_column_major<X, Written<Y>>();
      each_ghost(shape, fastest, measure, in_x);
      const Saved whole = detail::completed(core(), where, detail::as_saved(all));
      each_ghost(shape, fastest, normalize, in_x, out_y);
      core().track(whole);
      by_ = std::move(by);
    };
    detail::on_views_alone<Scalar, spatial>(core(), where, f, detail::Reads{"x", x},
                                            detail::Writes{"y", y});
  }
  template <class X>
  [[nodiscard]] detail::PlainOf<X> forward(const X& x) {
    return detail::written(x, [this](const auto& values, auto& y) { this->forward(values, y); });
  }

  /// Differentiates the last forward that this object made.
  template <class X, class Dy, class Dx>
  void backward(const X& x, const Dy& dy, Dx&& dx) {
    if (by_.empty()) return layer_->backward(of_eval_, x, dy, dx);
    const detail::Where where = in("backward");
    const auto f = [this, &where](const Shape& shape, const auto&... views) {
      detail::check_dx(where, views...);
      core().check_saved(where, by_[0], shape);
      const auto backward_of = [this, &where, &shape](std::size_t g, const auto&... part) {
        core().backward(where, by_[g], shape, part...);
      };
      constexpr bool fastest = is_column_major<X, Dy, Written<Dx>>();
      each_ghost(shape, fastest, backward_of, views...);
    };
    detail::on_views_of<Scalar, spatial>(core(), where, f, detail::Reads{"x", x},
                                         detail::Reads{"dy", dy}, detail::Writes{"dx", dx});
  }
  template <class X, class Dy>
  [[nodiscard]] detail::PlainOf<X> backward(const X& x, const Dy& dy) {
    return detail::written(
        x, [this, &dy](const auto& values, auto& dx) { this->backward(values, dy, dx); });
  }

 private:
  using View = detail::View;
  using Shape = detail::Shape;

  [[nodiscard]] static detail::Where in(const char* call) { return {"GhostBatches", call}; }
  [[nodiscard]] auto& core() const { return layer_->core(); }
  template <class Y>
  using Written = typename detail::Writes<std::remove_reference_t<Y>>::Type;
  template <class... X>
  [[nodiscard]] static constexpr bool is_column_major() {
    return detail::common_order<detail::Bare<X>...>() == Eigen::ColMajor;
  }
  /// Calls f(g, part of each view) for each ghost batch g.
  template <class F, class... V>
  void each_ghost(const Shape& shape, bool fastest, const F& f, const V&... views) const {
    const Index n = shape.extents[0];
    std::size_t g = 0;
    for (Index first = 0; first == 0 || first < n; first += samples_) {
      f(g++, samples_of(views, fastest, n, first, (std::min)(samples_, n - first))...);
    }
  }
  /// Samples [first, first + count) of n, which are the fastest or the slowest axis in memory.
  [[nodiscard]] static View samples_of(View v, bool fastest, Index n, Index first, Index count) {
    if (v.size() == 0) return v;
    if (fastest && v.inner > n) {  // several positions, of n samples each
      v.outer = v.inner / n;
      v.outer_stride = n * v.inner_stride;
      v.inner = n;
    }
    const bool is_outer = !fastest && v.outer >= n;
    Index& extent = is_outer ? v.outer : v.inner;
    const Index per_sample = extent / n, start = first * per_sample;
    v.data = is_outer ? v.at(start, 0, 0) : v.at(0, 0, start);
    extent = count * per_sample;
    return v;
  }

  Layer* layer_;
  Index samples_;          // of a ghost batch
  std::vector<Saved> by_;  // what each ghost batch was normalized with; empty after eval mode
  Saved of_eval_;          // what eval mode normalized with
};

}  // namespace batchnorm
