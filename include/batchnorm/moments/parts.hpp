// SPDX-License-Identifier: MIT
#pragma once

#include "batchnorm/layer.hpp"
#include "batchnorm/moments/merge.hpp"

// Forward and backward of a batch in parts:
//   forward:   measured() of each part, merge, completed(), Core::track(), then normalize() each
//   backward:  gradient_sums() of each part, add, Core::accumulate(), then input_gradient() each
namespace batchnorm::detail {

/// Calls f as on_views_of does. Throws if another thread uses the layer.
template <class Scalar, int spatial, class Param, class F, class... A>
void on_views_alone(Core<Param>& core, const Where& where, const F& f, const A&... arguments) {
  const auto alone = [&core, &where, &f](const Shape& shape, const auto&... views) {
    const Entered entered(core.in_use, where);
    f(shape, views...);
  };
  on_views_of<Scalar, spatial>(core, where, alone, arguments...);
}
inline void check_y(const Where& where, const View& x, const View& y) {
  check_apart(where, "y", y, "x, which backward needs", x);
}

/// Count, mean and var of a part; the count alone if running statistics will normalize.
template <class Param>
[[nodiscard]] Saved measured(Core<Param>& core, const View& x) {
  Saved part;
  part.count = x.count();
  part.inv_std = part.var = part.mean = Eigen::VectorXd::Zero(x.channels);
  if (x.size() == 0 || core.is_by_running()) return part;
  const functional::Statistics out{part.mean.data(), part.var.data(), part.inv_std.data()};
  functional::measure<Param>(x, core.options.eps, out, core.resources());
  return part;
}
[[nodiscard]] inline batchnorm::Moments as_moments(const Saved& part) {
  const auto n = static_cast<double>(part.count);
  return {Eigen::ArrayXd::Constant(part.mean.size(), n), part.mean.array(), part.var.array() * n};
}
[[nodiscard]] inline Saved as_saved(const batchnorm::Moments& m) {
  Saved batch;
  batch.count = static_cast<Index>(m.count[0]);
  batch.mean = m.mean;
  batch.var = m.m2 / (m.count.max)(1);
  return batch;
}
/// Core::complete for measured or merged statistics. Where the squares of doubles overflowed, the
/// values count as not finite. shape stays empty, so that bn.backward(saved, ...) refuses the
/// result.
template <class Param>
[[nodiscard]] Saved completed(const Core<Param>& core, const Where& where, Saved batch) {
  for (double& var : batch.var) var = is_finite(var) ? var : not_a_number<double>();
  core.complete(where, batch);
  return batch;
}
/// Writes a part's y. Afterwards bn.backward(x, dy) is refused: the layer keeps no statistics.
template <class Param>
void normalize(Core<Param>& core, const Saved& by, const View& x, const View& y) {
  const functional::Normalizer given{by.mean.data(), by.inv_std.data(), false};
  if (x.size() > 0) functional::normalize<Param>(x, given, core.affine(), y, core.resources());
  core.saved.shape = {}, core.saved.count = 0;
}

/// (C, 2): dbeta and dgamma of a part or of the whole batch. The sums of parts add up. Column-major
/// in programs with EIGEN_DEFAULT_TO_ROW_MAJOR too.
using GradientSums = Eigen::Array<double, Eigen::Dynamic, 2, Eigen::ColMajor>;
template <class Param>
[[nodiscard]] GradientSums gradient_sums(Core<Param>& core, const Saved& by, const View& x,
                                         const View& dy) {
  GradientSums sums = GradientSums::Zero(x.channels, 2);
  if (x.size() == 0) return sums;
  functional::sum_gradients<Param>(x, dy, core.normalizer(by), {&sums(0, 0), &sums(0, 1)},
                                   core.resources());
  return sums;
}
/// Writes a part's dx. `sums` and by.count are those of the whole batch.
template <class Param>
void input_gradient(Core<Param>& core, const Saved& by, GradientSums sums, const View& x,
                    const View& dy, const View& dx) {
  if (x.size() == 0) return;
  functional::input_gradient<Param>(x, dy, core.normalizer(by), core.affine(),
                                    {&sums(0, 0), &sums(0, 1)}, static_cast<double>(by.count), dx,
                                    core.resources());
}

}  // namespace batchnorm::detail
