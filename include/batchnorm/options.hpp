// SPDX-License-Identifier: MIT
#pragma once

#include <limits>

#include "batchnorm/detail/scalar.hpp"
#include "batchnorm/error.hpp"

namespace batchnorm {

/// How much a new batch weighs in the running statistics. Some libraries state the weight of the
/// new batch, others that of the old average, so the name says which it is:
///   weight_of_new(w):  running = (1 - w) * running + w * batch      (PyTorch's momentum)
///   weight_of_old(w):  running = w * running + (1 - w) * batch      (Keras, Flax, ONNX)
///   cumulative():      running = the plain average of all batches   (PyTorch's momentum=None)
class Momentum {
 public:
  Momentum(double) = delete;  // which way? Momentum::weight_of_new or weight_of_old

  [[nodiscard]] static constexpr Momentum weight_of_new(double w) { return {w, Kind::weight}; }
  [[nodiscard]] static constexpr Momentum weight_of_old(double w) { return {1 - w, Kind::weight}; }
  [[nodiscard]] static constexpr Momentum cumulative() { return {0, Kind::cumulative}; }

  [[nodiscard]] constexpr bool is_cumulative() const { return kind_ == Kind::cumulative; }
  /// The new batch's weight; 0 under cumulative(), whose weight falls with every batch.
  [[nodiscard]] constexpr double weight_of_new() const { return weight_; }

  [[nodiscard]] friend constexpr bool operator==(Momentum a, Momentum b) {
    return a.weight_ == b.weight_ && a.kind_ == b.kind_;
  }
  [[nodiscard]] friend constexpr bool operator!=(Momentum a, Momentum b) { return !(a == b); }

 private:
  enum class Kind { weight, cumulative };
  constexpr Momentum(double weight, Kind kind) : weight_(weight), kind_(kind) {}

  double weight_;
  Kind kind_;
};

/// What the running variance averages: sum (x - mu)^2 / (n - 1), or / n. The batch itself is always
/// normalized by the population variance, / n.
enum class VarianceEstimate { unbiased, population };

/// Which axis of your tensors is the channel: the second, (N, C, ...), or the last, (N, ..., C).
enum class ChannelAxis { first, last };

/// What to do if batch statistics are needed and a channel has only one value, whose variance is 0.
/// An empty batch is an error under reject, in training mode; otherwise it changes no statistics.
enum class SingleValue {
  reject,       ///< std::invalid_argument; also for an empty batch in training
  use_running,  ///< normalize with the running statistics and leave them as they are
  accept        ///< y = beta, dx = 0; an unbiased running variance stays as it is
};

/// What to do with a channel that has an infinite or NaN value in a batch that is normalized by its
/// own statistics. Unless it is rejected, all y of the channel are NaN.
enum class NonFinite {
  skip_update,  ///< the channel's running statistics stay as they were
  propagate,    ///< they take the infinities and NaNs, as PyTorch's do
  reject        ///< std::domain_error; nothing is changed or written
};

/// A layer's options. The layer's constructor validates them. Where var + eps is 0, x_hat is 0.
struct Options {
  double eps = 1e-5;  ///< added to var; 0, or finite and at least numeric_limits<Param>::min()
  /// The weight of a new batch in the running statistics.
  Momentum momentum = Momentum::weight_of_new(0.1);
  VarianceEstimate running_variance = VarianceEstimate::unbiased;
  bool scale = true;                               ///< learn gamma
  bool shift = true;                               ///< learn beta
  bool track_running_stats = true;                 ///< off: batch statistics in eval mode too
  ChannelAxis channel_axis = ChannelAxis::first;   ///< of tensors; a matrix is (N, C) either way
  SingleValue single_value = SingleValue::reject;  ///< for one value per channel
  NonFinite non_finite = NonFinite::skip_update;   ///< for infinity and NaN in a batch

  /// The defaults of other libraries: a layer with these options computes what theirs computes.
  [[nodiscard]] static Options pytorch() { return {}; }
  [[nodiscard]] static Options keras() { return averaging_population(1e-3, 0.99); }
  [[nodiscard]] static Options flax() { return averaging_population(1e-5, 0.99); }
  [[nodiscard]] static Options onnx() { return averaging_population(1e-5, 0.9); }

 private:
  [[nodiscard]] static Options averaging_population(double eps, double weight_of_old) {
    Options o;
    o.eps = eps;
    o.momentum = Momentum::weight_of_old(weight_of_old);
    o.running_variance = VarianceEstimate::population;
    o.single_value = SingleValue::accept;
    return o;
  }
};

namespace detail {

inline void validate(Momentum momentum, const Where& where) {
  const double w = momentum.weight_of_new();
  const bool is_valid = is_finite(w) && w >= 0 && w <= 1;
  if (!is_valid) where.invalid({"expected a momentum weight of the new batch in [0, 1], got ", w});
}

template <class Param>
void validate(const Options& o, const Where& where) {
  constexpr auto smallest = static_cast<double>((std::numeric_limits<Param>::min)());
  if (!is_finite(o.eps) || (o.eps < smallest && magnitude_bits(o.eps) != 0)) {
    where.invalid({"expected an eps of 0, or finite and at least ", smallest, ", got ", o.eps});
  }
  validate(o.momentum, where);
  if (o.single_value == SingleValue::use_running && !o.track_running_stats) {
    where.invalid({"expected track_running_stats with SingleValue::use_running, got it off"});
  }
}

}  // namespace detail
}  // namespace batchnorm
