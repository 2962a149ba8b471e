// SPDX-License-Identifier: MIT
#pragma once

#include <string>
#include <type_traits>
#include <vector>

#include "batchnorm/detail/in_parts.hpp"
#include "batchnorm/sync/agreement.hpp"
#include "batchnorm/sync/communicator.hpp"
#include "batchnorm/sync/replicas.hpp"

namespace batchnorm {
namespace detail {

/// One layer's part in an exchange.
class SyncPart {
 public:
  virtual ~SyncPart() = default;

  [[nodiscard]] Communicator& world() const { return *world_; }
  [[nodiscard]] virtual Index numbers() const = 0;  // that it sends; 0 if it needs no others
  virtual void
  prepare() = 0;  // checks and measures; throws what is wrong with this rank's arguments
  virtual void send(Eigen::Ref<Eigen::VectorXd> mine) const = 0;
  virtual void finish() = 0;  // writes

 protected:
  explicit SyncPart(Communicator& world) : world_(&world) {}

 private:
  Communicator* world_;
};
class SyncForward : public SyncPart {
 public:
  using SyncPart::SyncPart;
  virtual void receive(const Eigen::Ref<const Eigen::MatrixXd>& all) = 0;  // column r: rank r's
  virtual void settle() = 0;  // throws what is wrong with the batch, on all ranks
};
class SyncBackward : public SyncPart {
 public:
  using SyncPart::SyncPart;
  virtual void receive(const Eigen::Ref<const Eigen::VectorXd>& sum) = 0;
};

/// Prepares the parts and makes the numbers that this rank sends: after `head` that are free, those
/// of each part. Empty where no part needs the other ranks.
template <class Part>
[[nodiscard]] Eigen::VectorXd prepared(const std::vector<Part*>& parts, Index head, Caught& error) {
  Index size = 0;
  for (const Part* part : parts) size += part->numbers();
  error = caught([&] {
    for (Part* part : parts) part->prepare();
  });
  if (size == 0) {
    if (error.kind != Caught::nothing) error.raise();
    return {};
  }
  Eigen::VectorXd mine = Eigen::VectorXd::Zero(head + size);
  for (const Part* part : parts) {
    if (error.kind == Caught::nothing) part->send(mine.segment(head, part->numbers()));
    head += part->numbers();
  }
  return mine;
}

inline void exchange(const std::vector<SyncForward*>& parts) {
  Communicator& world = parts.front()->world();
  Caught error;
  Eigen::VectorXd mine = prepared(parts, 2, error);
  if (mine.size() > 0) {
    mine[0] = static_cast<double>(mine.size());
    mine[1] = error.kind;
    const Eigen::MatrixXd all = world.all_gather(mine);
    if ((all.row(0).array() != mine[0]).any()) {
      fail<std::logic_error>(
          "[SyncBatchNorm::forward] expected layers alike on every rank, got "
          "other numbers of channels");
    }
    if ((all.row(1).array() != 0).any()) raise_together(world, error);
    Index at = 2;
    for (SyncForward* part : parts) {
      part->receive(all.middleRows(at, part->numbers()));
      at += part->numbers();
    }
  }
  for (SyncForward* part : parts) part->settle();
  for (SyncForward* part : parts) part->finish();
}

inline void exchange(const std::vector<SyncBackward*>& parts) {
  Communicator& world = parts.front()->world();
  Caught error;
  Eigen::VectorXd mine = prepared(parts, 1, error);
  if (mine.size() > 0) {
    mine[0] = error.kind == Caught::nothing ? 0 : 1;
    const Eigen::VectorXd sum = world.all_reduce(mine);
    if (sum[0] != 0) raise_together(world, error);
    Index at = 1;
    for (SyncBackward* part : parts) {
      part->receive(sum.segment(at, part->numbers()));
      at += part->numbers();
    }
  }
  for (SyncBackward* part : parts) part->finish();
}

}  // namespace detail

/// A layer that is replicated over ranks, threads or processes, each with its shard of the batch:
/// forward and backward are those of one layer on the whole batch.
///
///   BatchNorm2d<float> bn(64);         // on every rank
///   SyncBatchNorm sync(bn, world);     // world: a Communicator, of Replicas or MPI
///   auto y = sync.forward(x);          // x: this rank's shard, of any size, 0 included
///   auto dx = sync.backward(x, dy);
///
/// In training a forward gathers each rank's count, mean and sum of squared deviations, in double,
/// and merges them in rank order, so that all ranks normalize by, and move their running statistics
/// to, the same bits; a backward sums two vectors over the ranks. Where running statistics normalize
/// the ranks do not talk.
/// The gradients added to grad_gamma() and grad_beta() are the shard's own, as those of any other
/// parameter in data-parallel training: summed over the ranks they are the batch's.
///
/// All ranks make the same calls in the same mode. What one of them finds wrong with its arguments
/// is thrown on every rank, with the rank in its text; what is wrong with the whole batch (a single
/// value per channel, values that are not finite) is judged over all ranks. A call that throws
/// changes nothing, on any rank. Layer and communicator must outlive this object and stay in place.
template <class Scalar, int spatial>
class SyncBatchNorm {
 public:
  using Layer = BatchNorm<Scalar, spatial>;

  SyncBatchNorm(Layer& layer, Communicator& world) : parts_(layer), world_(&world) {}

  [[nodiscard]] Layer& layer() const { return parts_.layer(); }
  /// What the last forward normalized with: of the batch over all ranks.
  [[nodiscard]] const Saved& saved() const { return saved_; }

  /// y apart from x.
  template <class X, class Y>
  void forward(const X& x, Y&& y) {
    if constexpr (detail::is_tensor_ref<detail::Bare<Y>>) {
      detail::by_way_of_plain(y, [&](auto& plain) { forward(x, plain); });
    } else {
      auto one = part(x, y);
      detail::exchange(std::vector<detail::SyncForward*>{&one});
    }
  }
  template <class X>
  [[nodiscard]] typename detail::Argument<X>::Plain forward(const X& x) {
    return detail::written(x, [&](const auto& values, auto& y) { forward(values, y); });
  }

  /// dx apart from x; it may be dy.
  template <class X, class Dy, class Dx>
  void backward(const X& x, const Dy& dy, Dx&& dx) {
    if constexpr (detail::is_tensor_ref<detail::Bare<Dx>>) {
      detail::by_way_of_plain(dx, [&](auto& plain) { backward(x, dy, plain); });
    } else {
      auto one = part(x, dy, dx);
      detail::exchange(std::vector<detail::SyncBackward*>{&one});
    }
  }
  template <class X, class Dy>
  [[nodiscard]] typename detail::Argument<X>::Plain backward(const X& x, const Dy& dy) {
    return detail::written(x, [&](const auto& values, auto& dx) { backward(values, dy, dx); });
  }

  /// This layer's part in forward_together or backward_together.
  template <class X, class Y>
  [[nodiscard]] auto part(const X& x, Y&& y) {
    return ForwardPart<X, std::remove_reference_t<Y>>(*this, x, y);
  }
  template <class X, class Dy, class Dx>
  [[nodiscard]] auto part(const X& x, const Dy& dy, Dx&& dx) {
    return BackwardPart<X, Dy, std::remove_reference_t<Dx>>(*this, x, dy, dx);
  }

 private:
  using In = detail::View<const Scalar>;
  using Out = detail::View<Scalar>;
  using Index = Eigen::Index;

  [[nodiscard]] static detail::Where in(const char* call) {
    return {spatial == 1   ? "SyncBatchNorm1d"
            : spatial == 2 ? "SyncBatchNorm2d"
                           : "SyncBatchNorm3d",
            call};
  }

  template <class X, class Y>
  class ForwardPart final : public detail::SyncForward {
   public:
    ForwardPart(SyncBatchNorm& sync, const X& x, Y& y)
        : SyncForward(*sync.world_), sync_(sync), x_(detail::evaluated<order>(x)), y_(y) {}

    [[nodiscard]] Index numbers() const override {
      return parts().is_by_running() ? 0 : 1 + 2 * parts().channels();
    }
    void prepare() override {
      parts().on_views(in("forward"), x_, y_,
                       [&](const In& x, const Out& y, const detail::Shape& shape) {
                         in_x_ = x;
                         out_y_ = y;
                         shape_ = shape;
                       });
      moments_ = parts().measure(in_x_);
    }
    void send(Eigen::Ref<Eigen::VectorXd> mine) const override {
      if (mine.size() == 0) return;
      mine << moments_.count[0], moments_.mean.matrix(), moments_.m2.matrix();
    }
    void receive(const Eigen::Ref<const Eigen::MatrixXd>& all) override {
      if (all.rows() == 0) return;
      const Index channels = parts().channels();
      moments_ = Moments(channels);
      for (Index r = 0; r < all.cols(); ++r) {
        const auto of_rank = all.col(r).array();
        moments_.merge({Eigen::ArrayXd::Constant(channels, of_rank[0]),
                        of_rank.segment(1, channels), of_rank.tail(channels)});
      }
    }
    void settle() override { by_ = parts().settle(moments_, in("forward")); }
    void finish() override {
      parts().normalize(by_, in_x_, out_y_);
      if (by_.batch_statistics) parts().track(moments_);
      sync_.saved_ = by_;
      sync_.shape_ = shape_;
    }

   private:
    static constexpr int order = detail::common_order<X, std::remove_cv_t<Y>>();
    [[nodiscard]] const detail::InParts<Scalar, spatial>& parts() const { return sync_.parts_; }

    SyncBatchNorm& sync_;
    decltype(detail::evaluated<order>(std::declval<const X&>())) x_;  // or a reference to it
    Y& y_;
    In in_x_{};
    Out out_y_{};
    detail::Shape shape_;
    Moments moments_;  // of the shard, then of the batch
    Saved by_;
  };

  template <class X, class Dy, class Dx>
  class BackwardPart final : public detail::SyncBackward {
   public:
    BackwardPart(SyncBatchNorm& sync, const X& x, const Dy& dy, Dx& dx)
        : SyncBackward(*sync.world_),
          sync_(sync),
          x_(detail::evaluated<order>(x)),
          dy_(detail::evaluated<order>(dy)),
          dx_(dx) {}

    [[nodiscard]] Index numbers() const override {
      return sync_.saved_.batch_statistics ? 2 * parts().channels() : 0;
    }
    void prepare() override {
      const detail::Where where = in("backward");
      parts().on_views(
          where, x_, dy_, dx_,
          [&](const In& x, const In& dy, const Out& dx, const detail::Shape& shape) {
            const detail::Shape& expected = sync_.shape_;
            if (expected.rank == 0) {
              where.misuse("expected a forward before backward, got none: call forward(x) first");
            }
            if (shape != expected) {
              where.invalid("expected the x of the last forward, of shape " + expected.text() +
                            ", got one of " + shape.text());
            }
            in_x_ = x;
            in_dy_ = dy;
            out_dx_ = dx;
          });
      own_ = parts().sum_gradients(sync_.saved_, in_x_, in_dy_);
      sums_ = own_;
    }
    void send(Eigen::Ref<Eigen::VectorXd> mine) const override {
      if (mine.size() > 0) mine << own_.dbeta, own_.dgamma;
    }
    void receive(const Eigen::Ref<const Eigen::VectorXd>& sum) override {
      if (sum.size() == 0) return;
      sums_.dbeta = sum.head(parts().channels());
      sums_.dgamma = sum.tail(parts().channels());
    }
    void finish() override {
      parts().write_input_gradient(sync_.saved_, sums_, in_x_, in_dy_, out_dx_);
      parts().accumulate(own_);
    }

   private:
    static constexpr int order = detail::common_order<X, Dy, std::remove_cv_t<Dx>>();
    [[nodiscard]] const detail::InParts<Scalar, spatial>& parts() const { return sync_.parts_; }

    SyncBatchNorm& sync_;
    decltype(detail::evaluated<order>(std::declval<const X&>())) x_;
    decltype(detail::evaluated<order>(std::declval<const Dy&>())) dy_;
    Dx& dx_;
    In in_x_{}, in_dy_{};
    Out out_dx_{};
    detail::GradientSums own_{0}, sums_{0};  // of the shard, of the batch
  };

  detail::InParts<Scalar, spatial> parts_;
  Communicator* world_;
  Saved saved_;          // of the last forward
  detail::Shape shape_;  // of its x, this rank's shard
};

/// Forwards of several layers that do not wait for one another, such as those of parallel branches,
/// in one exchange instead of one each; x and y as of forward(x, y), x of one no y of another:
///
///   forward_together(left.part(x1, y1), right.part(x2, y2));
///   backward_together(left.part(x1, dy1, dx1), right.part(x2, dy2, dx2));
///
/// If one is refused, all are. No layer may come twice.
template <class... Part>
void forward_together(Part&&... parts) {
  detail::exchange(std::vector<detail::SyncForward*>{&parts...});
}
template <class... Part>
void backward_together(Part&&... parts) {
  detail::exchange(std::vector<detail::SyncBackward*>{&parts...});
}

}  // namespace batchnorm
