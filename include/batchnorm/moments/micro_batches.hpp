// SPDX-License-Identifier: MIT
#pragma once

#include "batchnorm/moments/parts.hpp"

namespace batchnorm {

/// A batch that does not fit in memory, in parts of any sizes: forward and backward compute what
/// they would for the whole batch. Each part is passed four times, in any order within a step:
///
///   MicroBatches big(bn);
///   for (each part) big.measure(x);              // 1. the batch's statistics
///   for (each part) y = big.forward(x);          // 2. the first moves bn's running statistics
///   for (each part) big.measure(x, dy);          // 3. adds to bn.grad_gamma(), bn.grad_beta()
///   for (each part) dx = big.backward(x, dy);    // 4.
///
/// x and dy must have the same values each time. measure(x) after a forward starts the next batch.
/// If forward refuses the batch, measure(x) adds to it, and discard() drops it.
/// Eval mode needs step 1 too, which costs nothing there. Options::single_value applies to the
/// whole batch. The layer must outlive this object and stay in place. Errors are the layer's, and
/// std::logic_error for a step that is called too early. A call that throws changes nothing.
template <class Scalar, int spatial>
class MicroBatches {
 public:
  using Layer = BatchNorm<Scalar, spatial>;

  explicit MicroBatches(Layer& layer) : core_(&layer.core()), moments_(layer.num_features()) {}

  /// Adds a part to the batch's statistics.
  template <class X>
  void measure(const X& x) {
    const detail::Where where = in("measure");
    const auto f = [&](const Shape&, const View& in_x) {
      if (step_ == Step::measure) check_mode(where);
      const Moments part = detail::as_moments(detail::measured(*core_, in_x));
      if (step_ != Step::measure) moments_ = Moments(in_x.channels);
      step_ = Step::measure, by_running_ = core_->is_by_running();
      moments_.merge(part);
    };
    on_views(where, f, detail::Reads{"x", x});
  }

  /// Drops what was measured: the next measure(x) starts a batch.
  void discard() { step_ = Step::nothing; }

  /// Writes a part's y, apart from x. The first call ends the measuring.
  template <class X, class Y>
  void forward(const X& x, Y&& y) {
    const detail::Where where = in("forward");
    if (step_ == Step::nothing) where.misuse({"expected measure(x) of every part before forward"});
    check_channels(where);
    const auto f = [this, &where](const Shape&, const auto&... views) {
      detail::check_y(where, views...);
      const bool is_first = step_ == Step::measure;
      if (is_first) {
        check_mode(where);
        saved_ = detail::completed(*core_, where, detail::as_saved(moments_));
      }
      detail::normalize(*core_, saved_, views...);
      if (is_first) core_->track(saved_), step_ = Step::forward;
    };
    on_views(where, f, detail::Reads{"x", x}, detail::Writes{"y", y});
  }
  template <class X>
  [[nodiscard]] detail::PlainOf<X> forward(const X& x) {
    return detail::written(x, [this](const auto& values, auto& y) { this->forward(values, y); });
  }

  /// Adds a part to the sums of the batch's gradients, and to the layer's gradients.
  template <class X, class Dy>
  void measure(const X& x, const Dy& dy) {
    const detail::Where where = in("measure");
    if (step_ < Step::forward) where.misuse({"expected forward before gradients"});
    check_channels(where);
    const auto f = [&](const Shape&, const View& in_x, const View& in_dy) {
      const auto part = detail::gradient_sums(*core_, saved_, in_x, in_dy);
      if (step_ != Step::sums) {
        sums_.setZero(in_x.channels, 2);
        summed_ = 0;
      }
      step_ = Step::sums;
      summed_ += in_x.count();
      sums_ += part;
      core_->accumulate(&part(0, 0), &part(0, 1));
    };
    on_views(where, f, detail::Reads{"x", x}, detail::Reads{"dy", dy});
  }

  /// Writes a part's dx, apart from x; dx may be dy.
  template <class X, class Dy, class Dx>
  void backward(const X& x, const Dy& dy, Dx&& dx) {
    const detail::Where where = in("backward");
    if (step_ < Step::sums || summed_ != saved_.count) {
      where.misuse({"expected measure(x, dy) of every part before backward: of ", saved_.count,
                    " values per channel, got ", step_ == Step::sums ? summed_ : 0});
    }
    check_channels(where);
    const auto f = [this, &where](const Shape&, const auto&... views) {
      detail::check_dx(where, views...);
      detail::input_gradient(*core_, saved_, sums_, views...);
      step_ = Step::backward;
    };
    on_views(where, f, detail::Reads{"x", x}, detail::Reads{"dy", dy}, detail::Writes{"dx", dx});
  }
  template <class X, class Dy>
  [[nodiscard]] detail::PlainOf<X> backward(const X& x, const Dy& dy) {
    return detail::written(
        x, [this, &dy](const auto& values, auto& dx) { this->backward(values, dy, dx); });
  }

  /// The moments of the parts measured so far.
  [[nodiscard]] const Moments& moments() const { return moments_; }

 private:
  using View = detail::View;
  using Shape = detail::Shape;
  enum class Step { nothing, measure, forward, sums, backward };  // the last step, in their order

  [[nodiscard]] static detail::Where in(const char* call) { return {"MicroBatches", call}; }
  template <class F, class... A>
  void on_views(const detail::Where& where, const F& f, const A&... arguments) {
    detail::on_views_alone<Scalar, spatial>(*core_, where, f, arguments...);
  }
  void check_channels(const detail::Where& where) const {
    if (moments_.channels() == core_->num_features) return;
    where.misuse({"expected the layer that was measured, of ", moments_.channels(),
                  " channels, got one of ", Eigen::Index{core_->num_features}});
  }
  void check_mode(const detail::Where& where) const {
    if (by_running_ == core_->is_by_running()) return;
    where.misuse({"expected the layer's mode to stay from measure(x) to forward, got it changed"});
  }

  detail::Core<typename Layer::Param>* core_;
  Step step_ = Step::nothing;
  bool by_running_ = false;    // will running statistics normalize what is being measured?
  Moments moments_;            // of the parts measured
  Saved saved_;                // what the batch is normalized with
  detail::GradientSums sums_;  // of the parts whose gradients were measured
  Eigen::Index summed_ = 0;    // their values per channel
};

}  // namespace batchnorm
