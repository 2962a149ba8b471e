// SPDX-License-Identifier: MIT
#pragma once

#include <optional>
#include <tuple>

#include "batchnorm/moments/parts.hpp"
#include "batchnorm/sync/replicas.hpp"

namespace batchnorm {
namespace detail {

/// Runs the parts of several layers with one exchange. What this rank sends starts with `head`
/// numbers that are reserved; those of each part follow. If no part needs the other ranks, there is
/// no exchange.
template <class Exchange, class... Part>
void run_together(Index head, const Exchange& exchange, Part&... parts) {
  Communicator& world = std::get<0>(std::tie(parts...)).world();
  const bool is_one_world = ((&parts.world() == &world) && ...);
  if (!is_one_world)
    Where{"SyncBatchNorm", "part"}.misuse({"expected layers of one communicator, got several"});
  Eigen::VectorXd mine = Eigen::VectorXd::Zero(head + (parts.numbers() + ...));
  std::optional<Entered> entered[sizeof...(Part)], *next = entered;
  Index at = head;
  const auto prepare = [&mine, &at, &next](auto& part) {
    mine.segment(at, part.numbers()) = part.prepare(*next++).head(part.numbers());
    at += part.numbers();
  };
  const Caught error = caught([&] { (prepare(parts), ...); });
  const bool alone = mine.size() == head;
  if (alone && error.kind != Caught::nothing) error.raise();
  const Eigen::MatrixXd all = alone ? Eigen::MatrixXd(mine) : exchange(world, mine, error);
  at = head;
  const auto receive = [&all, &at](auto& part) {
    part.receive(all.middleRows(at, part.numbers()));
    at += part.numbers();
  };
  (receive(parts), ...);
  (parts.finish(), ...);
}

}  // namespace detail

/// Forwards of several layers that do not depend on each other, such as layers of parallel
/// branches, in one exchange instead of one per layer. part takes the arguments of forward or
/// backward:
///
///   forward_together(left.part(x1, y1), right.part(x2, y2));
///   backward_together(left.part(x1, dy1, dx1), right.part(x2, dy2, dx2));
///
/// If one is refused, all are. The layers share a communicator, no layer comes twice, and no x is
/// the y of another layer.
template <class... Part>
void forward_together(Part&&... parts) {
  const auto gather = [](Communicator& world, Eigen::VectorXd& mine, const detail::Caught& error) {
    mine[0] = static_cast<double>(mine.size());
    mine[1] = error.kind;
    const Eigen::MatrixXd all = world.all_gather(mine);  // column r: the numbers of rank r
    const detail::Where where{"SyncBatchNorm", "forward"};
    if ((all.row(0).array() != mine[0]).any())
      where.misuse({"expected layers alike on every rank, got other numbers of channels"});
    if ((all.row(1).array() != 0).any()) detail::raise_together(world, error);
    return all;
  };
  detail::run_together(2, gather, parts...);
}
template <class... Part>
void backward_together(Part&&... parts) {
  const auto add = [](Communicator& world, Eigen::VectorXd& mine, const detail::Caught& error) {
    mine[0] = error.kind == detail::Caught::nothing ? 0 : 1;
    const Eigen::MatrixXd sum = world.all_reduce(mine);
    if (sum(0) != 0) detail::raise_together(world, error);
    return sum;
  };
  detail::run_together(1, add, parts...);
}

/// A layer that is replicated over ranks, which are threads or processes. Each rank has its shard
/// of the batch; forward and backward compute what one layer would for the whole batch.
///
///   BatchNorm2d<float> bn(64);         // on every rank
///   SyncBatchNorm sync(bn, world);     // world: a Communicator, of Replicas or MPI
///   auto y = sync.forward(x);          // x: this rank's shard, of any size, 0 included
///   auto dx = sync.backward(x, dy);
///
/// A forward in training mode gathers each rank's count, mean and sum of squared deviations, in
/// double, and merges them in rank order: all ranks have the same bits of all statistics. A
/// backward sums two vectors over the ranks. If running statistics normalize, the ranks do not
/// communicate. grad_gamma() and grad_beta() receive the gradients of the shard, as other
/// parameters do in data-parallel training: their sums over the ranks are the gradients of the
/// batch.
///
/// All ranks make the same calls in the same mode, with layers of the same number of channels. If
/// the arguments of one rank are wrong, every rank throws the same error, and its text names the
/// rank. In eval mode, where ranks do not communicate, that rank alone throws. Errors of the batch
/// (a single value per channel, values that are not finite) are judged over all ranks. A call that
/// throws changes nothing on any rank. The layer and the communicator must outlive this object and
/// stay in place.
template <class Scalar, int spatial>
class SyncBatchNorm {
 public:
  using Layer = BatchNorm<Scalar, spatial>;

  SyncBatchNorm(Layer& layer, Communicator& world) : layer_(&layer), world_(&world) {}

  [[nodiscard]] Layer& layer() const { return *layer_; }
  /// What the last forward normalized with: the statistics of the batch over all ranks.
  [[nodiscard]] const Saved& saved() const { return saved_; }

  /// Writes y, apart from x.
  template <class X, class Y>
  void forward(const X& x, Y&& y) {
    forward_together(part(x, y));
  }
  template <class X>
  [[nodiscard]] detail::PlainOf<X> forward(const X& x) {
    return detail::written(x, [this](const auto& values, auto& y) { this->forward(values, y); });
  }

  /// Writes dx, apart from x; dx may be dy.
  template <class X, class Dy, class Dx>
  void backward(const X& x, const Dy& dy, Dx&& dx) {
    backward_together(part(x, dy, dx));
  }
  template <class X, class Dy>
  [[nodiscard]] detail::PlainOf<X> backward(const X& x, const Dy& dy) {
    return detail::written(
        x, [this, &dy](const auto& values, auto& dx) { this->backward(values, dy, dx); });
  }

  /// This layer's part in forward_together or backward_together.
  template <class X, class Y>
  [[nodiscard]] auto part(const X& x, Y&& y) {
    using Part = ForwardPart<X, std::remove_reference_t<Y>>;
    return Part{*this, detail::evaluated<Part::order>(x), y, y};
  }
  template <class X, class Dy, class Dx>
  [[nodiscard]] auto part(const X& x, const Dy& dy, Dx&& dx) {
    using Part = BackwardPart<X, Dy, std::remove_reference_t<Dx>>;
    constexpr int order = Part::order;
    return Part{*this, detail::evaluated<order>(x), detail::evaluated<order>(dy), dx, dx};
  }

 private:
  using View = detail::View;
  using Shape = detail::Shape;
  using Index = Eigen::Index;

  /// An argument to be read: a reference to it or, of an expression, its values.
  template <int order, class X>
  using Values = decltype(detail::evaluated<order>(std::declval<const X&>()));
  /// An argument to be written: a reference to it or, of a TensorRef, a tensor of its own.
  template <class Y, class Plain = typename detail::Argument<detail::Bare<Y>>::Plain>
  using Result = std::conditional_t<detail::is_tensor_ref<Y>, Plain, Y&>;

  [[nodiscard]] static detail::Where in(const char* call) {
    constexpr const char* names[] = {"SyncBatchNorm1d", "SyncBatchNorm2d", "SyncBatchNorm3d"};
    return {names[spatial - 1], call};
  }
  [[nodiscard]] auto& core() const { return layer_->core(); }

  template <class X, class Y>
  struct ForwardPart {
    static constexpr int order = detail::common_order<X, typename detail::Writes<Y>::Type>();
    SyncBatchNorm& sync;
    Values<order, X> x;
    Y& y;
    Result<Y> result;
    View in_x{}, out_y{};
    Moments moments{};  // of the shard, then of the batch
    Saved by{};
    Shape shape{};

    [[nodiscard]] Communicator& world() const { return *sync.world_; }
    [[nodiscard]] Index numbers() const {
      return sync.core().is_by_running() ? 0 : 1 + 2 * sync.core().num_features;
    }
    /// Checks this rank's arguments and measures. Returns the numbers to send.
    [[nodiscard]] Eigen::VectorXd prepare(std::optional<detail::Entered>& entered) {
      const auto f = [&](const Shape& s, const View& vx, const View& vy) {
        detail::check_y(in("forward"), vx, vy);
        entered.emplace(sync.core().in_use, in("forward"));
        shape = s;
        in_x = vx;
        out_y = vy;
      };
      detail::on_views_of<Scalar, spatial>(sync.core(), in("forward"), f, detail::Reads{"x", x},
                                           detail::Writes{"y", result});
      moments = detail::as_moments(detail::measured(sync.core(), in_x));
      const auto& [n, mean, m2] = moments;
      return (Eigen::VectorXd(1 + 2 * n.size()) << n[0], mean.matrix(), m2.matrix()).finished();
    }
    /// Merges the numbers of all ranks. Throws, on all ranks, if something is wrong with the batch.
    void receive(const Eigen::Ref<const Eigen::MatrixXd>& all) {
      const Index c = in_x.channels;
      if (all.rows() > 0) moments = Moments();
      for (Index r = 0; r < all.cols() && all.rows() > 0; ++r) {
        const auto of = all.col(r).array();
        moments.merge({Eigen::ArrayXd::Constant(c, of[0]), of.segment(1, c), of.tail(c)});
      }
      by = detail::completed(sync.core(), in("forward"), detail::as_saved(moments));
    }
    void finish() {
      detail::normalize(sync.core(), by, in_x, out_y);
      detail::copy_back(y, result);
      sync.core().track(by);
      sync.saved_ = std::move(by);
      sync.shape_ = shape;
    }
  };

  template <class X, class Dy, class Dx>
  struct BackwardPart {
    static constexpr int order = detail::common_order<X, Dy, typename detail::Writes<Dx>::Type>();
    SyncBatchNorm& sync;
    Values<order, X> x;
    Values<order, Dy> dy;
    Dx& dx;
    Result<Dx> result;
    View in_x{}, in_dy{}, out_dx{};
    detail::GradientSums own{}, sums{};  // of the shard, of the batch

    [[nodiscard]] Communicator& world() const { return *sync.world_; }
    [[nodiscard]] Index numbers() const {
      return sync.saved_.batch_statistics ? 2 * sync.core().num_features : 0;
    }
    [[nodiscard]] Eigen::VectorXd prepare(std::optional<detail::Entered>& entered) {
      const auto f = [&](const Shape& s, const View& vx, const View& vdy, const View& vdx) {
        detail::check_dx(in("backward"), vx, vdy, vdx);
        detail::check_shape_of_last(in("backward"), sync.shape_, s);
        entered.emplace(sync.core().in_use, in("backward"));
        in_x = vx;
        in_dy = vdy;
        out_dx = vdx;
      };
      detail::on_views_of<Scalar, spatial>(sync.core(), in("backward"), f, detail::Reads{"x", x},
                                           detail::Reads{"dy", dy}, detail::Writes{"dx", result});
      sums = own = detail::gradient_sums(sync.core(), sync.saved_, in_x, in_dy);
      return own.reshaped();
    }
    void receive(const Eigen::Ref<const Eigen::MatrixXd>& sum) {
      if (sum.rows() > 0) sums = sum.reshaped(in_x.channels, 2);
    }
    void finish() {
      detail::input_gradient(sync.core(), sync.saved_, sums, in_x, in_dy, out_dx);
      detail::copy_back(dx, result);
      sync.core().accumulate(&own(0, 0), &own(0, 1));
    }
  };

  Layer* layer_;
  Communicator* world_;
  Saved saved_;  // of the last forward
  Shape shape_;  // of its x, this rank's shard
};

}  // namespace batchnorm
