// SPDX-License-Identifier: MIT
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>

#include "batchnorm/channel_affine.hpp"
#include "batchnorm/detail/arguments.hpp"
#include "batchnorm/error.hpp"
#include "batchnorm/functional.hpp"
#include "batchnorm/options.hpp"

namespace batchnorm {
namespace detail {
template <class Scalar, int spatial>
class InParts;
}

/// What a forward leaves for its backward: the statistics that it normalized with. Small and
/// copyable; a layer used several times in a graph needs one for each use.
struct Saved {
  Eigen::VectorXd mean;           ///< (C) mu
  Eigen::VectorXd inv_std;        ///< (C) 1 / sqrt(var + eps), var the population variance
  Eigen::Index count = 0;         ///< n, the values per channel
  bool batch_statistics = false;  ///< of the batch, else the running ones
  bool overwritten = false;       ///< y was written over x, which a backward would need
  detail::Shape shape;            ///< x's
};

/// Batch normalization over the channels of a tensor (Ioffe and Szegedy, 2015, arXiv 1502.03167),
/// for x of (N, C) and, with `spatial` dimensions, (N, C, L), (N, C, H, W) or (N, C, D, H, W):
///
///   y = gamma * (x - mu) / sqrt(var + eps) + beta
///
/// In training mode mu and var are the mean and the population variance of the n values of a
/// channel, and the running statistics move towards them; in eval mode they are the running
/// statistics. Scalar is float, double, Eigen::half or Eigen::bfloat16; Param, the type of
/// parameters, gradients and running statistics, is float for the latter two, otherwise Scalar.
///
/// Arguments are Eigen tensors (Tensor, TensorMap, TensorFixedSize, TensorRef; x and dy also
/// expressions), row-major or column-major, and for (N, C) any dense matrix or array expression of
/// N rows, of any strides. Those whose elements lie in memory are read there; others are evaluated
/// once. The ones that lie in memory share a storage order.
///
/// Errors: std::invalid_argument for bad arguments, std::logic_error for misuse, both with where,
/// what was expected and what came. A call that throws changes nothing.
template <class Scalar, int spatial>
class BatchNorm {
  static_assert(detail::is_supported_scalar<Scalar>,
                "batchnorm: Scalar must be float, double, Eigen::half or Eigen::bfloat16");
  template <class X>
  using IfArgument = std::enable_if_t<!std::is_same_v<X, Saved>, int>;
  friend class detail::InParts<Scalar, spatial>;  // forward and backward in steps: moments.hpp

 public:
  using Param = detail::ParamOf<Scalar>;
  using Vector = Eigen::Matrix<Param, Eigen::Dynamic, 1>;
  using Index = Eigen::Index;

  /// A layer of C = num_features channels in training mode, gamma 1, beta 0, running mean 0 and
  /// variance 1. Throws std::invalid_argument unless num_features >= 1 and the options are valid.
  explicit BatchNorm(Index num_features, Options options = {})
      : num_features_(num_features), options_(options) {
    const detail::Where where = in("BatchNorm");
    if (num_features < 1) {
      where.invalid("expected at least 1 channel, got " + std::to_string(num_features));
    }
    detail::validate<Param>(options, where);
    saved_.mean = saved_.inv_std = Eigen::VectorXd::Zero(num_features);
    next_ = saved_;
    gamma_.resize(options.scale ? num_features : 0);
    beta_.resize(options.shift ? num_features : 0);
    running_mean_.resize(options.track_running_stats ? num_features : 0);
    running_var_.resize(running_mean_.size());
    reset_parameters();
    grad_gamma_ = Vector::Zero(gamma_.size());
    grad_beta_ = Vector::Zero(beta_.size());
    reset_running_stats();
  }
  template <class Number, std::enable_if_t<std::is_arithmetic_v<Number>, int> = 0>
  BatchNorm(Index, Number, double = 0) = delete;  // say which: Options o; o.eps = 1e-5;

  // Forward. -----------------------------------------------------------------------------------

  /// y of x's shape and storage order. In training mode it moves the running statistics and counts
  /// a batch. Throws std::invalid_argument for other than C channels, and for too few values per
  /// channel as Options::single_value says; std::domain_error as Options::non_finite says.
  template <class X>
  [[nodiscard]] typename detail::Argument<X>::Plain forward(const X& x) {
    check_type<X>();
    return detail::written(x, [&](const auto& values, auto& y) { forward(values, y); });
  }

  /// The same into y, already of x's shape. It allocates nothing once the layer has seen the shape.
  /// y must not overlap x in training mode, for backward needs x; in eval mode it may be x itself,
  /// and then no backward can follow.
  template <class X, class Y>
  void forward(const X& x, Y&& y) {
    check_type<X>();
    check_type<detail::Bare<Y>>();
    if constexpr (detail::is_tensor_ref<detail::Bare<Y>>) {
      detail::by_way_of_plain(y, [&](auto& plain) { forward(x, plain); });
    } else {
      detail::check_result<Scalar, Y>();
      constexpr int order = detail::checked_order<X, detail::Bare<Y>>();
      const detail::Where where = in("forward");
      const auto& values = detail::evaluated<order>(x);
      const detail::Shape shape = checked_shape(values, where);
      detail::check_same_shape("y", detail::shape_of(y), shape, where);
      forward_view(view<const Scalar, order>(values), view<Scalar, order>(y), shape, where);
    }
  }

  // Backward. ----------------------------------------------------------------------------------

  /// dx, from the x of the last forward and dy, the gradient with respect to its y:
  ///   dbeta = sum dy        dgamma = sum dy * x_hat
  ///   dx = gamma * inv_std * (dy - dbeta / n - x_hat * dgamma / n)
  /// or dx = gamma * inv_std * dy where running statistics normalized. Adds dgamma to grad_gamma()
  /// and dbeta to grad_beta(). It uses the statistics of that forward, whatever has become of mode
  /// and running statistics since, and may be called again. Throws std::logic_error if no forward
  /// came before or it overwrote x, std::invalid_argument for another shape.
  template <class X, class Dy, IfArgument<X> = 0>
  [[nodiscard]] typename detail::Argument<X>::Plain backward(const X& x, const Dy& dy) {
    return backward(saved_, x, dy);
  }

  /// The same into dx, already of x's shape. It allocates nothing. dx may be dy, and must not
  /// overlap x.
  template <class X, class Dy, class Dx, IfArgument<X> = 0>
  void backward(const X& x, const Dy& dy, Dx&& dx) {
    backward(saved_, x, dy, dx);
  }

  template <class Dy>
  void backward(const Dy&) = delete;  // backward needs x: backward(x, dy)

  /// What the last forward left for backward. The batch's statistics can be read from it.
  [[nodiscard]] const Saved& saved() const { return saved_; }

  /// The same for an earlier forward, whose saved() was kept.
  template <class X, class Dy>
  [[nodiscard]] typename detail::Argument<X>::Plain backward(const Saved& saved, const X& x,
                                                             const Dy& dy) {
    check_type<X>();
    return detail::written(x,
                           [&](const auto& values, auto& dx) { backward(saved, values, dy, dx); });
  }
  template <class X, class Dy, class Dx>
  void backward(const Saved& saved, const X& x, const Dy& dy, Dx&& dx) {
    check_type<X>();
    check_type<Dy>();
    check_type<detail::Bare<Dx>>();
    if constexpr (detail::is_tensor_ref<detail::Bare<Dx>>) {
      detail::by_way_of_plain(dx, [&](auto& plain) { backward(saved, x, dy, plain); });
    } else {
      detail::check_result<Scalar, Dx>();
      constexpr int order = detail::checked_order<X, Dy, detail::Bare<Dx>>();
      const detail::Where where = in("backward");
      const auto& values = detail::evaluated<order>(x);
      const auto& gradient = detail::evaluated<order>(dy);
      const detail::Shape shape = checked_shape(values, where);
      detail::check_same_shape("dy", detail::shape_of(gradient), shape, where);
      detail::check_same_shape("dx", detail::shape_of(dx), shape, where);
      check_saved(saved, shape, where);
      backward_view(saved, view<const Scalar, order>(values), view<const Scalar, order>(gradient),
                    view<Scalar, order>(dx), where);
    }
  }

  // Mode, parameters, statistics. -----------------------------------------------------------------

  void train(bool on = true) { training_ = on; }
  void eval() { training_ = false; }
  [[nodiscard]] bool is_training() const { return training_; }

  /// (C) each, or of length 0 where the option is off.
  [[nodiscard]] Vector& gamma() { return gamma_; }
  [[nodiscard]] const Vector& gamma() const { return gamma_; }
  [[nodiscard]] Vector& beta() { return beta_; }
  [[nodiscard]] const Vector& beta() const { return beta_; }
  [[nodiscard]] Vector& grad_gamma() { return grad_gamma_; }
  [[nodiscard]] const Vector& grad_gamma() const { return grad_gamma_; }
  [[nodiscard]] Vector& grad_beta() { return grad_beta_; }
  [[nodiscard]] const Vector& grad_beta() const { return grad_beta_; }
  [[nodiscard]] Vector& running_mean() { return running_mean_; }
  [[nodiscard]] const Vector& running_mean() const { return running_mean_; }
  [[nodiscard]] Vector& running_var() { return running_var_; }
  [[nodiscard]] const Vector& running_var() const { return running_var_; }

  /// Training batches accepted since the last reset.
  [[nodiscard]] std::int64_t& num_batches_tracked() { return num_batches_tracked_; }
  [[nodiscard]] std::int64_t num_batches_tracked() const { return num_batches_tracked_; }

  /// Gradients to 0.
  void zero_grad() {
    grad_gamma_.setZero();
    grad_beta_.setZero();
  }
  /// gamma to 1, beta to 0, and nothing else.
  void reset_parameters() {
    gamma_.setOnes();
    beta_.setZero();
  }
  /// Running mean to 0, running variance to 1, the counter to 0.
  void reset_running_stats() {
    running_mean_.setZero();
    running_var_.setOnes();
    num_batches_tracked_ = 0;
    skipped_.setZero(options_.track_running_stats ? num_features() : 0, 2);
  }

  [[nodiscard]] Index num_features() const { return num_features_; }
  [[nodiscard]] const Options& options() const { return options_; }
  /// Throws std::invalid_argument for a weight outside [0, 1].
  void set_momentum(Momentum momentum) {
    detail::validate(momentum, in("set_momentum"));
    options_.momentum = momentum;
  }

  /// The threads to use: those of an Eigen::ThreadPoolDevice, which must outlive the layer and its
  /// copies; nullptr, as at first: the calling thread. Results are bitwise the same with any
  /// number. A layer called on one of the pool's own threads uses that thread alone. As the calling
  /// thread works too, n threads in all are best had by `ThreadPool pool(n - 1);
  /// ThreadPoolDevice device(&pool, n);`.
  template <class Device>
  void set_device(const Device* device) {
    static_assert(detail::is_complete<Device>,
                  "batchnorm: define EIGEN_USE_THREADS before any Eigen header to use set_device");
    workers_ = device ? detail::Workers(*device) : detail::Workers();
  }
  void set_device(std::nullptr_t) { workers_ = detail::Workers(); }

  /// The layer in eval mode as y = scale * (x - center) + shift, by the running statistics of now.
  /// Throws std::logic_error where they are not tracked.
  [[nodiscard]] ChannelAffine<Param> folded() const;

 private:
  static constexpr const char* name = spatial == 1   ? "BatchNorm1d"
                                      : spatial == 2 ? "BatchNorm2d"
                                                     : "BatchNorm3d";
  [[nodiscard]] static detail::Where in(const char* call) { return {name, call}; }

  // What can be told from the types, at compile time.

  template <class X>
  static constexpr void check_type() {
    using Argument = detail::Argument<X>;
    static_assert(std::is_same_v<typename Argument::Scalar, Scalar>,
                  "batchnorm: x, y, dy and dx must have the layer's Scalar");
    static_assert(spatial != 1 || Argument::rank == 2 || Argument::rank == 3,
                  "batchnorm: BatchNorm1d takes (N, C) and (N, C, L): rank 2 or 3");
    static_assert(spatial != 2 || Argument::rank == 4,
                  "batchnorm: BatchNorm2d takes (N, C, H, W): rank 4");
    static_assert(spatial != 3 || Argument::rank == 5,
                  "batchnorm: BatchNorm3d takes (N, C, D, H, W): rank 5");
  }
  template <class T, int order, class X>
  [[nodiscard]] detail::View<T> view(X& x) const {
    return detail::view_of<T, order>(x, options_.channel_axis);
  }

  // What can only be told from the values.

  template <class X>
  [[nodiscard]] detail::Shape checked_shape(const X& x, const detail::Where& where) const {
    check_lengths(where);
    const detail::Shape shape = detail::shape_of(x);
    detail::check_channels(shape, options_.channel_axis, num_features_, where);
    return shape;
  }
  void check_lengths(const detail::Where& where) const {
    if (num_features_ == 0) {
      where.misuse("expected a layer, got what is left of one that was moved from");
    }
    const auto check = [&](const char* what, const Vector& v, bool on) {
      const Index expected = on ? num_features() : 0;
      if (v.size() == expected) return;
      where.misuse(std::string("expected ") + what + " of length " + std::to_string(expected) +
                   ", got " + std::to_string(v.size()));
    };
    check("gamma", gamma_, options_.scale);
    check("grad_gamma", grad_gamma_, options_.scale);
    check("beta", beta_, options_.shift);
    check("grad_beta", grad_beta_, options_.shift);
    check("running_mean", running_mean_, options_.track_running_stats);
    check("running_var", running_var_, options_.track_running_stats);
  }
  void check_saved(const Saved& saved, const detail::Shape& shape,
                   const detail::Where& where) const {
    if (saved.shape.rank == 0) {
      where.misuse("expected a forward before backward, got none: call forward(x) first");
    }
    if (saved.overwritten) {
      where.misuse(
          "expected the x of the last forward, which wrote y over it: give y its own memory");
    }
    if (saved.shape != shape || saved.mean.size() != num_features_) {
      where.invalid("expected the x of the last forward, of shape " + saved.shape.text() +
                    ", got one of " + shape.text());
    }
  }

  /// Whether a forward of n values per channel is by the batch's statistics.
  [[nodiscard]] bool is_by_batch(Index n, const detail::Where& where) const {
    if (!training_ && options_.track_running_stats) return false;
    const bool too_few = n == 1 || (n == 0 && training_);
    if (too_few && options_.single_value == SingleValue::reject) {
      where.invalid("expected more than one value per channel, got " + std::to_string(n) +
                    ": see Options::single_value");
    }
    return n != 1 || options_.single_value == SingleValue::accept;
  }

  /// By a Pass that is, or derives from, detail::Forward, and is made of `more` besides.
  template <class Pass = detail::Forward<Scalar>, class... More>
  void forward_view(const detail::View<const Scalar>& x, const detail::View<Scalar>& y,
                    const detail::Shape& shape, const detail::Where& where, const More&... more) {
    const bool in_place = detail::is_same_place(x, y) && x.size() > 0;
    if (in_place ? training_ : detail::overlaps(x, y)) {
      where.invalid(training_
                        ? "expected y apart from x, which backward needs, got them overlapping"
                        : "expected y apart from x or x itself, got them overlapping");
    }
    const Index n = x.count();
    next_.batch_statistics = is_by_batch(n, where);
    next_.count = n;
    next_.overwritten = in_place;
    next_.shape = shape;
    if (n > 0) {
      normalize<Pass>(x, y, where, more...);
      if (training_ && next_.batch_statistics) update_running_stats();
    }
    std::swap(saved_, next_);
  }

  template <class Pass, class... More>
  void normalize(const detail::View<const Scalar>& x, const detail::View<Scalar>& y,
                 const detail::Where& where, const More&... more) {
    const detail::Normalizer<double> by{next_.mean.data(), next_.inv_std.data(),
                                        next_.batch_statistics};
    Pass pass({x, affine(), by, workers_, scratch_}, y, more...);
    if (!by.of_batch) {
      next_.mean = running_mean_.template cast<double>();
      next_.inv_std = running_var_.template cast<double>();
      next_.inv_std = (next_.inv_std.array() + options_.eps).sqrt().inverse();
      pass.normalize();
    } else if (options_.non_finite == NonFinite::reject) {
      pass.measure(options_.eps);
      for (Index c = 0; c < num_features_; ++c) {
        if (is_finite_channel(c)) continue;
        where.domain("expected finite values, got some that are not in channel " +
                     std::to_string(c));
      }
      pass.normalize();
    } else {
      pass.measure_and_normalize(options_.eps);
    }
  }

  /// Are the batch's values all finite? Their variance may be infinite even so.
  [[nodiscard]] bool is_finite_channel(Index c) const {
    return detail::is_finite(next_.mean[c]) && !detail::is_nan(scratch_.var[c]);
  }

  /// running = (1 - w) * running + w * batch, for the mean and for the variance as estimated.
  void update_running_stats() {
    if (!options_.track_running_stats) return;
    const bool unbiased = options_.running_variance == VarianceEstimate::unbiased;
    const double n = static_cast<double>(next_.count);
    const double correction = unbiased ? n / (n - 1) : 1;
    if (are_all_ordinary()) {
      const double w = options_.momentum.weight_of_new();
      const auto move = [&](Vector& statistics, const double* of_batch, double factor) {
        Param* const running = statistics.data();
        for (Index c = 0, channels = num_features_; c < channels; ++c) {
          running[c] = static_cast<Param>(moved(running[c], of_batch[c] * factor, w));
        }
      };
      move(running_mean_, next_.mean.data(), 1);
      move(running_var_, scratch_.var.data(), correction);
    } else {
      for (Index c = 0; c < num_features_; ++c) update_running_stats(c, unbiased, correction);
    }
    ++num_batches_tracked_;
  }
  void update_running_stats(Index c, bool unbiased, double correction) {
    const bool finite = is_finite_channel(c);
    const bool skip = !finite && options_.non_finite == NonFinite::skip_update;
    const bool skip_var = skip || (unbiased && next_.count == 1);  // n - 1 = 0
    if (!skip) move_towards(next_.mean[c], weight(c, 0), finite, running_mean_[c]);
    if (!skip_var) {
      move_towards(scratch_.var[c] * correction, weight(c, 1), finite, running_var_[c]);
    }
    skipped_(c, 0) += skip;
    skipped_(c, 1) += skip_var;
  }
  /// Do all channels move by the same weight, between numbers far from the ends of Param's range?
  /// Then they do so at once, without branches: there are layers of many channels and few values.
  [[nodiscard]] bool are_all_ordinary() const {
    if (options_.momentum.is_cumulative() || options_.momentum.weight_of_new() == 0 ||
        next_.count == 1) {
      return false;
    }
    detail::Bits<Param> all = 1;
    const auto judge = [&](const double* of_batch, const Vector& running) {
      const Param* const there = running.data();
      for (Index c = 0, channels = num_features_; c < channels; ++c) {
        all &= detail::fits_as_offset(static_cast<Param>(of_batch[c])) &
               detail::fits_as_offset(there[c]);
      }
    };
    judge(next_.mean.data(), running_mean_);
    judge(scratch_.var.data(), running_var_);
    return all != 0;
  }

  /// The weight of a new batch in a channel's running mean (which = 0) or variance (1).
  [[nodiscard]] double weight(Index c, int which) const {
    if (!options_.momentum.is_cumulative()) return options_.momentum.weight_of_new();
    const std::int64_t updates = num_batches_tracked_ - skipped_(c, which);
    return 1 / (1 + static_cast<double>(std::max<std::int64_t>(updates, 0)));
  }

  [[nodiscard]] static double moved(Param running, double value, double w) {
    return (1 - w) * static_cast<double>(running) + w * value;
  }
  static void move_towards(double value, double w, bool finite, Param& running) {
    if (w == 0) return;
    const double there = moved(running, value, w);
    const bool stays_finite = finite && detail::is_finite(static_cast<double>(running));
    running = stays_finite ? detail::saturated<Param>(there) : detail::narrow<Param>(there);
  }

  template <class Pass = detail::Backward<Scalar>, class... More>
  void backward_view(const Saved& saved, const detail::View<const Scalar>& x,
                     const detail::View<const Scalar>& dy, const detail::View<Scalar>& dx,
                     const detail::Where& where, const More&... more) {
    if (x.size() == 0) return;
    if (detail::overlaps(x, dx) || detail::is_same_place(x, dx)) {
      where.invalid("expected dx apart from x, got them overlapping");
    }
    if (detail::overlaps(dy, dx) && !detail::is_same_place(dy, dx)) {
      where.invalid("expected dx apart from dy or dy itself, got them overlapping");
    }
    const detail::Normalizer<const double> by{saved.mean.data(), saved.inv_std.data(),
                                              saved.batch_statistics};
    Pass pass({x, affine(), by, workers_, scratch_}, dy, dx, more...);
    pass.run();
    accumulate(pass.dgamma(), pass.dbeta());
  }
  /// Adds a call's dgamma and dbeta to the gradients.
  void accumulate(const double* dgamma, const double* dbeta) {
    const auto add = [](Vector& gradients, const double* of_call) {
      Param* const sum = gradients.data();
      for (Index c = 0, channels = gradients.size(); c < channels; ++c) {
        sum[c] = detail::narrow<Param>(static_cast<double>(sum[c]) + of_call[c]);
      }
    };
    add(grad_gamma_, dgamma);
    add(grad_beta_, dbeta);
  }

  [[nodiscard]] detail::Affine<Param> affine() const {
    return {options_.scale ? gamma_.data() : nullptr, options_.shift ? beta_.data() : nullptr};
  }

  detail::ClearedByMove num_features_;  // C
  Options options_;
  bool training_ = true;
  Vector gamma_, beta_;                   // (C) learned scale and shift
  Vector grad_gamma_, grad_beta_;         // (C) accumulated dgamma, dbeta
  Vector running_mean_, running_var_;     // (C) what eval mode normalizes with
  std::int64_t num_batches_tracked_ = 0;  // accepted training batches
  // (C, 2) how many of these had no part in a channel's running mean, and in its variance
  Eigen::Array<std::int64_t, Eigen::Dynamic, 2> skipped_;
  Saved saved_;  // of the last forward
  Saved next_;   // of the one under way: a throw leaves saved_
  detail::Workers workers_;
  detail::Scratch<Param> scratch_;
};

template <class Scalar, int spatial>
ChannelAffine<typename BatchNorm<Scalar, spatial>::Param> BatchNorm<Scalar, spatial>::folded()
    const {
  const detail::Where where = in("folded");
  check_lengths(where);
  if (!options_.track_running_stats) {
    where.misuse("expected running statistics, got a layer that does not track them");
  }
  ChannelAffine<Param> eval{Vector(num_features()), running_mean_, Vector::Zero(num_features())};
  for (Index c = 0; c < num_features_; ++c) {
    const double var = static_cast<double>(running_var_[c]);
    eval.scale[c] = detail::narrow<Param>(affine().gamma(c) / std::sqrt(var + options_.eps));
  }
  if (options_.shift) eval.shift = beta_;
  return eval;
}

/// For (N, C) tensors and matrices, and (N, C, L).
template <class Scalar>
using BatchNorm1d = BatchNorm<Scalar, 1>;
/// For (N, C, H, W).
template <class Scalar>
using BatchNorm2d = BatchNorm<Scalar, 2>;
/// For (N, C, D, H, W).
template <class Scalar>
using BatchNorm3d = BatchNorm<Scalar, 3>;

}  // namespace batchnorm
