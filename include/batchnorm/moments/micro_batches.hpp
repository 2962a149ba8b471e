// SPDX-License-Identifier: MIT
#pragma once

#include <string>

#include "batchnorm/detail/in_parts.hpp"

namespace batchnorm {

/// A batch that does not fit memory at once, in parts of any sizes: forward and backward are those
/// of the one large batch. Each part comes by four times, in any order within a step:
///
///   MicroBatches big(bn);
///   for (each part) big.measure(x);              // 1. the batch's statistics
///   for (each part) y = big.forward(x);          // 2. the first moves bn's running statistics
///   for (each part) big.measure(x, dy);          // 3. adds to bn.grad_gamma(), bn.grad_beta()
///   for (each part) dx = big.backward(x, dy);    // 4.
///
/// x and dy are made again, or read from wherever, each time; they must be the same. measure(x)
/// after a forward starts the next batch. In eval mode 1 is needed too, and costs nothing; what
/// Options::single_value says of too few values is judged over all parts. The layer must outlive
/// this object and stay where it is.
///
/// Errors are the layer's, and std::logic_error for a step before the one that it needs. A call that
/// throws changes nothing.
template <class Scalar, int spatial>
class MicroBatches {
 public:
  using Layer = BatchNorm<Scalar, spatial>;

  explicit MicroBatches(Layer& layer)
      : parts_(layer), moments_(layer.num_features()), sums_(layer.num_features()) {}

  /// Takes a part into the batch's statistics.
  template <class X>
  void measure(const X& x) {
    parts_.on_view(in("measure"), x, [&](const auto& in_x, const auto&) {
      if (step_ != Step::measure) moments_ = Moments(parts_.channels());
      if (step_ == Step::measure) check_mode(in("measure"));
      step_ = Step::measure;
      by_running_ = parts_.is_by_running();
      moments_.merge(parts_.measure(in_x));
    });
  }

  /// Writes a part's y, apart from x. The first one ends the measuring.
  template <class X, class Y>
  void forward(const X& x, Y&& y) {
    const detail::Where where = in("forward");
    if (step_ == Step::nothing) where.misuse("expected measure(x) of every part before forward");
    parts_.on_views(where, x, y, [&](const auto& in_x, const auto& out_y, const auto&) {
      if (step_ == Step::measure) {
        check_mode(where);
        saved_ = parts_.settle(moments_, where);
        if (saved_.batch_statistics) parts_.track(moments_);
        step_ = Step::forward;
      }
      parts_.normalize(saved_, in_x, out_y);
    });
  }
  template <class X>
  [[nodiscard]] typename detail::Argument<X>::Plain forward(const X& x) {
    return detail::written(x, [&](const auto& values, auto& y) { forward(values, y); });
  }

  /// Takes a part into the sums of the batch's gradients, and into those of the layer.
  template <class X, class Dy>
  void measure(const X& x, const Dy& dy) {
    const detail::Where where = in("measure");
    if (step_ < Step::forward) where.misuse("expected forward before gradients");
    parts_.on_inputs(where, x, dy, [&](const auto& in_x, const auto& in_dy, const auto&) {
      if (step_ != Step::sums) sums_ = detail::GradientSums(parts_.channels());
      step_ = Step::sums;
      const auto sums = parts_.sum_gradients(saved_, in_x, in_dy);
      sums_.add(sums);
      parts_.accumulate(sums);
    });
  }

  /// Writes a part's dx, apart from x; it may be dy.
  template <class X, class Dy, class Dx>
  void backward(const X& x, const Dy& dy, Dx&& dx) {
    const detail::Where where = in("backward");
    if (sums_.count != saved_.count || step_ < Step::sums) {
      where.misuse("expected measure(x, dy) of every part before backward: of " +
                   std::to_string(saved_.count) + " values per channel, got " +
                   std::to_string(step_ == Step::sums ? sums_.count : 0));
    }
    parts_.on_views(where, x, dy, dx,
                    [&](const auto& in_x, const auto& in_dy, const auto& out_dx, const auto&) {
                      parts_.write_input_gradient(saved_, sums_, in_x, in_dy, out_dx);
                    });
    step_ = Step::backward;
  }
  template <class X, class Dy>
  [[nodiscard]] typename detail::Argument<X>::Plain backward(const X& x, const Dy& dy) {
    return detail::written(x, [&](const auto& values, auto& dx) { backward(values, dy, dx); });
  }

  /// Of the parts measured so far.
  [[nodiscard]] const Moments& moments() const { return moments_; }

 private:
  enum class Step { nothing, measure, forward, sums, backward };  // in their order

  [[nodiscard]] static detail::Where in(const char* call) { return {"MicroBatches", call}; }
  void check_mode(const detail::Where& where) const {
    if (by_running_ == parts_.is_by_running()) return;
    where.misuse("expected the layer's mode to stay from the first measure(x) on, got it changed");
  }

  detail::InParts<Scalar, spatial> parts_;
  Step step_ = Step::nothing;
  bool by_running_ = false;    // will running statistics normalize what is being measured?
  Moments moments_;            // of the parts measured
  Saved saved_;                // what the batch is normalized with
  detail::GradientSums sums_;  // of the parts whose gradients came
};

}  // namespace batchnorm
