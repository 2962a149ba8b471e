// SPDX-License-Identifier: MIT
#pragma once

#include <Eigen/Core>
#include <cmath>
#include <cstdint>
#include <string>
#include <type_traits>

#include "batchnorm/detail/scalar.hpp"
#include "batchnorm/error.hpp"
#include "batchnorm/options.hpp"

namespace batchnorm {

/// BatchNorm1d of a number of channels known at compile time, for real-time and embedded programs:
/// the layer is one block of numbers wherever you put it, and with matrices of fixed size no call
/// uses the heap, construction and copies included. It needs neither exceptions nor RTTI, nor
/// Eigen's Tensor.
///
///   FixedBatchNorm1d<float, 64> bn;                     // BatchNorm1d's formulas, members and options
///   Eigen::Matrix<float, 32, 64, Eigen::RowMajor> x;    // N rows, C columns: fixed, at most or mapped
///   auto y = bn.forward(x);
///   auto dx = bn.backward(x, dy);
///
/// It differs from BatchNorm1d in this: x, y, dy and dx are dense matrices of C columns; gamma() is
/// 1 and beta() 0, and their gradients stay 0, where an option has switched them off, instead of
/// being empty, as running statistics stay 0 and 1; it computes in double throughout, by plain
/// loops on the calling thread; deviations of doubles beyond 1e150, whose squares overflow, count
/// as not finite. The message of an error is a std::string, the only one on the heap.
template <class Scalar, int C>
class FixedBatchNorm1d {
  static_assert(detail::is_supported_scalar<Scalar>,
                "batchnorm: Scalar must be float, double, Eigen::half or Eigen::bfloat16");
  static_assert(C >= 1, "batchnorm: expected at least 1 channel");

 public:
  using Param = detail::ParamOf<Scalar>;
  using Vector = Eigen::Matrix<Param, C, 1>;
  using Index = Eigen::Index;

  /// Throws std::invalid_argument for options that are not valid.
  explicit FixedBatchNorm1d(const Options& options = {}) : options_(options) {
    detail::validate<Param>(options, in("FixedBatchNorm1d"));
    reset_parameters();
    reset_running_stats();
    zero_grad();
  }

  /// y by value, of x's plain type.
  template <class X>
  [[nodiscard]] typename X::PlainObject forward(const Eigen::DenseBase<X>& x) {
    check_owned<X>();
    typename X::PlainObject y = x;
    write_forward(x.derived(), y, false);
    return y;
  }
  /// The same into y, of x's shape: apart from x, or in eval mode x itself.
  template <class X, class Y>
  void forward(const Eigen::DenseBase<X>& x, Eigen::DenseBase<Y>& y) {
    write_forward(x.derived(), y.derived(), is_in_place(x.derived(), y.derived()));
  }
  template <class X, class Y>
  void forward(const Eigen::DenseBase<X>& x, Eigen::DenseBase<Y>&& y) {
    forward(x, y);
  }

  template <class X, class Dy>
  [[nodiscard]] typename X::PlainObject backward(const Eigen::DenseBase<X>& x,
                                                 const Eigen::DenseBase<Dy>& dy) {
    check_owned<X>();
    typename X::PlainObject dx = x;
    backward(x, dy, dx);
    return dx;
  }
  /// The same into dx, which may be dy.
  template <class X, class Dy, class Dx>
  void backward(const Eigen::DenseBase<X>& x, const Eigen::DenseBase<Dy>& dy,
                Eigen::DenseBase<Dx>& dx) {
    check_type<X>();
    check_type<Dy>();
    check_type<Dx>();
    const detail::Where where = in("backward");
    if (rows_ < 0)
      where.misuse("expected a forward before backward, got none: call forward(x) first");
    if (is_overwritten_) {
      where.misuse("expected the x of the last forward, which wrote y over it");
    }
    if (x.rows() != rows_) {
      where.invalid("expected the x of the last forward, of " + std::to_string(rows_) +
                    " rows, got " + std::to_string(x.rows()));
    }
    check_rows("dy", dy.rows(), where);
    check_rows("dx", dx.rows(), where);
    if (x.rows() > 0) write_backward(x.derived(), dy.derived(), dx.derived());
  }
  template <class X, class Dy, class Dx>
  void backward(const Eigen::DenseBase<X>& x, const Eigen::DenseBase<Dy>& dy,
                Eigen::DenseBase<Dx>&& dx) {
    backward(x, dy, dx);
  }

  void train(bool on = true) { training_ = on; }
  void eval() { training_ = false; }
  [[nodiscard]] bool is_training() const { return training_; }

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
  [[nodiscard]] std::int64_t num_batches_tracked() const { return num_batches_tracked_; }
  [[nodiscard]] const Options& options() const { return options_; }
  [[nodiscard]] static constexpr Index num_features() { return C; }

  void zero_grad() {
    grad_gamma_.setZero();
    grad_beta_.setZero();
  }
  void reset_parameters() {
    gamma_.setOnes();
    beta_.setZero();
  }
  void reset_running_stats() {
    running_mean_.setZero();
    running_var_.setOnes();
    num_batches_tracked_ = 0;
    skipped_.setZero();
  }

 private:
  using Numbers = Eigen::Array<double, C, 1>;

  [[nodiscard]] static detail::Where in(const char* call) { return {"FixedBatchNorm1d", call}; }

  template <class X>
  static constexpr void check_type() {
    static_assert(std::is_same_v<typename X::Scalar, Scalar>,
                  "batchnorm: x, y, dy and dx must have the layer's Scalar");
    static_assert(X::ColsAtCompileTime == C, "batchnorm: expected matrices of C columns");
  }
  template <class X>
  static constexpr void check_owned() {
    static_assert(X::PlainObject::MaxSizeAtCompileTime != Eigen::Dynamic,
                  "batchnorm: a result of no fixed size would use the heap: give y or dx");
  }
  static void check_rows(const char* what, Index rows, Index expected, const detail::Where& where) {
    if (rows == expected) return;
    where.invalid(std::string("expected ") + what + " of " + std::to_string(expected) +
                  " rows, got " + std::to_string(rows));
  }
  void check_rows(const char* what, Index rows, const detail::Where& where) const {
    check_rows(what, rows, rows_, where);
  }
  template <class X, class Y>
  [[nodiscard]] bool is_in_place(const X& x, const Y& y) const {
    constexpr unsigned flags_of_x = X::Flags, flags_of_y = Y::Flags;
    constexpr bool both_lie_in_memory = (flags_of_x & flags_of_y & Eigen::DirectAccessBit) != 0;
    if constexpr (both_lie_in_memory) {
      if (x.size() == 0 || static_cast<const void*>(x.data()) != y.data()) return false;
      if (training_) {
        in("forward").invalid(
            "expected y apart from x, which backward needs, got them overlapping");
      }
      return true;
    } else {
      return false;
    }
  }

  /// Calls f(n, c) in the order of x's memory.
  template <class X, class F>
  static void for_each(const X& x, const F& f) {
    if constexpr (X::IsRowMajor) {
      for (Index n = 0; n < x.rows(); ++n) {
        for (Index c = 0; c < C; ++c) f(n, c);
      }
    } else {
      for (Index c = 0; c < C; ++c) {
        for (Index n = 0; n < x.rows(); ++n) f(n, c);
      }
    }
  }
  template <class X>
  [[nodiscard]] static double value(const X& x, Index n, Index c) {
    return static_cast<double>(x.coeff(n, c));
  }
  template <class Y>
  static void put(double v, Y& y, Index n, Index c) {
    y.coeffRef(n, c) = Scalar(detail::narrow<Param>(v));
  }
  [[nodiscard]] Numbers gamma_in_double() const {
    return options_.scale ? Numbers(gamma_.template cast<double>().array()) : Numbers::Ones();
  }
  [[nodiscard]] Numbers beta_in_double() const {
    return options_.shift ? Numbers(beta_.template cast<double>().array()) : Numbers::Zero();
  }

  template <class X, class Y>
  void write_forward(const X& x, Y& y, bool in_place) {
    check_type<X>();
    check_type<Y>();
    const detail::Where where = in("forward");
    check_rows("y", y.rows(), x.rows(), where);
    const Index n = x.rows();
    const bool by_batch = is_by_batch(n, where);
    Numbers mean = running_mean_.template cast<double>().array();
    Numbers var = running_var_.template cast<double>().array();
    if (by_batch && n > 0) measure(x, mean, var, where);
    const Numbers inv_std = (var + options_.eps).sqrt().inverse();
    const Numbers gamma = gamma_in_double(), beta = beta_in_double();
    for_each(x, [&](Index i, Index c) {
      const double x_hat = (value(x, i, c) - mean[c]) * inv_std[c];
      put(gamma[c] * x_hat + beta[c], y, i, c);
    });
    if (training_ && by_batch && n > 0 && options_.track_running_stats) update(mean, var, n);
    mean_ = mean;
    inv_std_ = inv_std;
    by_batch_ = by_batch;
    rows_ = n;
    is_overwritten_ = in_place;
  }

  [[nodiscard]] bool is_by_batch(Index n, const detail::Where& where) const {
    if (!training_ && options_.track_running_stats) return false;
    const bool too_few = n == 1 || (n == 0 && training_);
    if (too_few && options_.single_value == SingleValue::reject) {
      where.invalid("expected more than one value per channel, got " + std::to_string(n) +
                    ": see Options::single_value");
    }
    return n != 1 || options_.single_value == SingleValue::accept;
  }

  /// In two passes, the first about one of the values.
  template <class X>
  void measure(const X& x, Numbers& mean, Numbers& var, const detail::Where& where) const {
    const double n = static_cast<double>(x.rows());
    Numbers v0, sum = Numbers::Zero(), squares = Numbers::Zero();
    for (Index c = 0; c < C; ++c) v0[c] = value(x, x.rows() / 2, c);
    for_each(x, [&](Index i, Index c) { sum[c] += value(x, i, c) - v0[c]; });
    mean = v0 + sum / n;
    for_each(x, [&](Index i, Index c) {
      const double d = value(x, i, c) - mean[c];
      squares[c] += d * d;
    });
    var = squares / n;
    for (Index c = 0; c < C && options_.non_finite == NonFinite::reject; ++c) {
      if (is_finite_channel(mean, var, c)) continue;
      where.domain("expected finite values, got some that are not in channel " + std::to_string(c));
    }
  }
  [[nodiscard]] static bool is_finite_channel(const Numbers& mean, const Numbers& var, Index c) {
    return detail::is_finite(mean[c]) && detail::is_finite(var[c]);
  }

  /// running = (1 - w) * running + w * batch
  void update(const Numbers& mean, const Numbers& var, Index count) {
    const bool unbiased = options_.running_variance == VarianceEstimate::unbiased;
    const double n = static_cast<double>(count);
    for (Index c = 0; c < C; ++c) {
      const bool finite = is_finite_channel(mean, var, c);
      const bool skip = !finite && options_.non_finite == NonFinite::skip_update;
      const bool skip_var = skip || (unbiased && count == 1);  // n - 1 = 0
      if (!skip) move(mean[c], weight(c, 0), finite, running_mean_[c]);
      if (!skip_var)
        move(unbiased ? var[c] * n / (n - 1) : var[c], weight(c, 1), finite, running_var_[c]);
      skipped_(c, 0) += skip;
      skipped_(c, 1) += skip_var;
    }
    ++num_batches_tracked_;
  }
  [[nodiscard]] double weight(Index c, int which) const {
    if (!options_.momentum.is_cumulative()) return options_.momentum.weight_of_new();
    return 1 / (1 + static_cast<double>(num_batches_tracked_ - skipped_(c, which)));
  }
  static void move(double v, double w, bool finite, Param& running) {
    if (w == 0) return;
    const double there = (1 - w) * static_cast<double>(running) + w * v;
    const bool stays_finite = finite && detail::is_finite(static_cast<double>(running));
    running = stays_finite ? detail::saturated<Param>(there) : detail::narrow<Param>(there);
  }

  /// dx = gamma * inv_std * (dy - dbeta / n - x_hat * dgamma / n)
  template <class X, class Dy, class Dx>
  void write_backward(const X& x, const Dy& dy, Dx& dx) {
    Numbers dgamma = Numbers::Zero(), dbeta = Numbers::Zero();
    const auto x_hat = [&](Index i, Index c) { return (value(x, i, c) - mean_[c]) * inv_std_[c]; };
    for_each(x, [&](Index i, Index c) {
      dbeta[c] += value(dy, i, c);
      dgamma[c] += value(dy, i, c) * x_hat(i, c);
    });
    const double one_nth = by_batch_ ? 1 / static_cast<double>(rows_) : 0;
    const Numbers factor = gamma_in_double() * inv_std_;
    for_each(x, [&](Index i, Index c) {
      double d = value(dy, i, c);
      if (by_batch_) d -= dbeta[c] * one_nth + x_hat(i, c) * (dgamma[c] * one_nth);
      put(factor[c] * d, dx, i, c);
    });
    const auto add = [](const Numbers& of_call, Vector& sums) {
      for (Index c = 0; c < C; ++c) {
        sums[c] = detail::narrow<Param>(static_cast<double>(sums[c]) + of_call[c]);
      }
    };
    if (options_.scale) add(dgamma, grad_gamma_);
    if (options_.shift) add(dbeta, grad_beta_);
  }

  Options options_;
  bool training_ = true;
  Vector gamma_, beta_;                       // learned scale and shift
  Vector grad_gamma_, grad_beta_;             // accumulated dgamma, dbeta
  Vector running_mean_, running_var_;         // what eval mode normalizes with
  std::int64_t num_batches_tracked_ = 0;      // accepted training batches
  Eigen::Array<std::int64_t, C, 2> skipped_;  // how many of these had no part in mean, in variance
  Numbers mean_ = Numbers::Zero();            // of the last forward: mu
  Numbers inv_std_ = Numbers::Zero();         // 1 / sqrt(var + eps)
  Index rows_ = -1;                           // n; -1 before the first forward
  bool by_batch_ = false;                     // by the batch's statistics, else the running ones
  bool is_overwritten_ = false;               // y was written over x
};

}  // namespace batchnorm
