// SPDX-License-Identifier: MIT
#pragma once

#include <Eigen/Core>
#include <cstdint>
#include <type_traits>

#include "batchnorm/detail/running.hpp"
#include "batchnorm/detail/scalar.hpp"
#include "batchnorm/error.hpp"
#include "batchnorm/options.hpp"

namespace batchnorm {

/// BatchNorm1d with a number of channels that is known at compile time, for real-time and embedded
/// programs. The layer is one block of numbers, wherever it lies. With matrices of fixed size no
/// call uses the heap, not even to construct or copy a layer. It needs no exceptions, no RTTI and
/// not Eigen's Tensor.
///
///   FixedBatchNorm1d<float, 64> bn;                   // formulas and options of BatchNorm1d
///   Eigen::Matrix<float, 32, 64, Eigen::RowMajor> x;  // N rows, C columns; also a map or block
///   auto y = bn.forward(x);
///   auto dx = bn.backward(x, dy);
///
/// It differs from BatchNorm1d: x, y, dy and dx are dense matrices of C columns. If an option
/// switches a vector off, the vector is not empty: gamma() is 1, beta() is 0, their gradients are
/// 0, and the running statistics stay 0 and 1. It computes in double, by plain loops on the calling
/// thread. Deviations of doubles beyond 1e150, whose squares overflow, count as not finite. Of
/// overlapping arguments it refuses only a y that starts where x does, in training mode. It has no
/// infer, saved, folded, set_momentum and set_device. On the heap are the message of an error, and
/// the values of an expression whose number of rows has no fixed limit.
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
    reset_parameters(), reset_running_stats(), zero_grad();
  }

  /// Returns y, of x's plain type.
  template <class X>
  [[nodiscard]] typename X::PlainObject forward(const Eigen::DenseBase<X>& x) {
    check_owned<X>();
    const auto& values = evaluated(x.derived());
    typename X::PlainObject y = values;
    write_forward(values, y, false);
    return y;
  }
  /// The same into y, already of x's shape: apart from x, or in eval mode x itself.
  template <class X, class Y>
  void forward(const Eigen::DenseBase<X>& x, Y&& y) {
    const auto& values = evaluated(x.derived());
    write_forward(values, y.derived(), is_in_place(values, y.derived()));
  }

  template <class X, class Dy>
  [[nodiscard]] typename X::PlainObject backward(const Eigen::DenseBase<X>& x,
                                                 const Eigen::DenseBase<Dy>& dy) {
    check_owned<X>();
    const auto& values = evaluated(x.derived());
    typename X::PlainObject dx = values;
    backward(values, dy, dx);
    return dx;
  }
  /// The same into dx, which may be dy.
  template <class X, class Dy, class Dx>
  void backward(const Eigen::DenseBase<X>& x, const Eigen::DenseBase<Dy>& dy, Dx&& dx) {
    const detail::Where where = in("backward");
    if (rows_ < 0)
      where.misuse({"expected a forward before backward, got none: call forward(x) first"});
    if (is_overwritten_)
      where.misuse({"expected x as it was, but the last forward wrote y over it"});
    check_rows("the x of the last forward,", x.rows(), rows_, where);
    check_rows("dy", dy.rows(), rows_, where), check_rows("dx", dx.rows(), rows_, where);
    if (x.rows() > 0) write_backward(evaluated(x.derived()), evaluated(dy.derived()), dx.derived());
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
  [[nodiscard]] Vector& running_mean() { return running_.mean; }
  [[nodiscard]] const Vector& running_mean() const { return running_.mean; }
  [[nodiscard]] Vector& running_var() { return running_.var; }
  [[nodiscard]] const Vector& running_var() const { return running_.var; }
  [[nodiscard]] std::int64_t& num_batches_tracked() { return running_.batches; }
  [[nodiscard]] std::int64_t num_batches_tracked() const { return running_.batches; }
  [[nodiscard]] const Options& options() const { return options_; }
  [[nodiscard]] static constexpr Index num_features() { return C; }

  void zero_grad() { grad_gamma_.setZero(), grad_beta_.setZero(); }
  void reset_parameters() { gamma_.setOnes(), beta_.setZero(); }
  void reset_running_stats() { running_.reset(); }

 private:
  using Numbers = Eigen::Array<double, C, 1>;
  template <class X>  // x(seqN(0, n, 2), all) of Eigen 3.4 has the first flag alone
  static constexpr bool lies_in_memory = (unsigned{X::Flags} &
                                          Eigen::internal::evaluator<X>::Flags &
                                          Eigen::DirectAccessBit) != 0;

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
    if (rows != expected) where.invalid({"expected ", what, " of ", expected, " rows, got ", rows});
  }
  template <class X, class Y>
  [[nodiscard]] bool is_in_place(const X& x, const Y& y) const {
    bool is_same = false;
    if constexpr (lies_in_memory<X> && lies_in_memory<Y>)
      is_same = x.size() > 0 && static_cast<const void*>(x.data()) == y.data();
    const char* const what = "expected y apart from x, which backward needs, got them overlapping";
    if (is_same && training_) in("forward").invalid({what});
    return is_same;
  }

  /// x itself if its elements lie in memory, otherwise their values.
  template <class X>
  [[nodiscard]] static decltype(auto) evaluated(const X& x) {
    if constexpr (lies_in_memory<X>) {
      return static_cast<const X&>(x);
    } else {
      return typename X::PlainObject(x);
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
  [[nodiscard]] static double value(const Scalar& v) { return static_cast<double>(v); }
  [[nodiscard]] static Scalar rounded(double v) { return Scalar(detail::narrow<Param>(v)); }
  [[nodiscard]] static Numbers in_double(const Vector& v) { return v.template cast<double>(); }
  [[nodiscard]] Numbers gamma_or_ones() const {
    return options_.scale ? in_double(gamma_) : Numbers::Ones();
  }

  template <class X, class Y>
  void write_forward(const X& x, Y& y, bool in_place) {
    check_type<X>(), check_type<Y>();
    const detail::Where where = in("forward");
    const Index n = x.rows();
    check_rows("y", y.rows(), n, where);
    const bool by_batch = detail::is_by_batch(options_, training_, n, where);
    Numbers mean = in_double(running_.mean), var = in_double(running_.var);
    if (by_batch && n > 0) measure(x, mean, var, where);
    const Numbers inv_std =
        (var + options_.eps == 0).select(0, (var + options_.eps).sqrt().inverse());
    const Numbers gamma = gamma_or_ones();
    const Numbers beta = options_.shift ? in_double(beta_) : Numbers::Zero();
    for_each(x, [&](Index i, Index c) {
      const double x_hat = (value(x.coeff(i, c)) - mean[c]) * inv_std[c];
      y.coeffRef(i, c) = rounded(gamma[c] * x_hat + beta[c]);
    });
    if (training_ && by_batch && n > 0 && options_.track_running_stats)
      running_.take(mean.data(), var.data(), n, options_);
    mean_ = mean;
    inv_std_ = inv_std;
    by_batch_ = by_batch;
    rows_ = n;
    is_overwritten_ = in_place;
  }
  /// Takes two passes, the first about one of the values. Writes a var of NaN unless all is finite.
  template <class X>
  void measure(const X& x, Numbers& mean, Numbers& var, const detail::Where& where) const {
    const double n = static_cast<double>(x.rows());
    Numbers v0, sum = Numbers::Zero(), squares = Numbers::Zero();
    for (Index c = 0; c < C; ++c) {
      v0[c] = value(x.coeff(x.rows() / 2, c));
      if (!detail::is_finite(v0[c])) v0[c] = 0;  // infinity - infinity would be NaN
    }
    for_each(x, [&](Index i, Index c) { sum[c] += value(x.coeff(i, c)) - v0[c]; });
    mean = v0 + sum / n;
    for_each(x, [&](Index i, Index c) {
      const double d = value(x.coeff(i, c)) - mean[c];
      squares[c] += d * d;
    });
    var = squares / n;
    for (Index c = 0; c < C; ++c) {
      if (detail::is_finite(mean[c]) && detail::is_finite(var[c])) continue;
      var[c] = detail::not_a_number<double>();
      if (options_.non_finite == NonFinite::reject)
        where.domain({"expected finite values, got infinity or NaN in channel ", c});
    }
  }

  /// dx = gamma * inv_std * (dy - dbeta / n - x_hat * dgamma / n)
  template <class X, class Dy, class Dx>
  void write_backward(const X& x, const Dy& dy, Dx& dx) {
    check_type<X>(), check_type<Dy>(), check_type<Dx>();
    Numbers dgamma = Numbers::Zero(), dbeta = Numbers::Zero();
    const auto x_hat = [&](Index i, Index c) {
      return (value(x.coeff(i, c)) - mean_[c]) * inv_std_[c];
    };
    for_each(x, [&](Index i, Index c) {
      dbeta[c] += value(dy.coeff(i, c));
      dgamma[c] += value(dy.coeff(i, c)) * x_hat(i, c);
    });
    const double one_nth = by_batch_ ? 1 / static_cast<double>(rows_) : 0;
    const Numbers factor = gamma_or_ones() * inv_std_;
    for_each(x, [&](Index i, Index c) {
      double d = value(dy.coeff(i, c));
      if (by_batch_) d -= dbeta[c] * one_nth + x_hat(i, c) * (dgamma[c] * one_nth);
      dx.coeffRef(i, c) = rounded(factor[c] * d);
    });
    const auto add = [](const Numbers& of_call, Vector& sums) {
      for (Index c = 0; c < C; ++c)
        sums[c] = detail::narrow<Param>(static_cast<double>(sums[c]) + of_call[c]);
    };
    if (options_.scale) add(dgamma, grad_gamma_);
    if (options_.shift) add(dbeta, grad_beta_);
  }

  Options options_;
  bool training_ = true;
  Vector gamma_, beta_;                        // learned scale and shift
  Vector grad_gamma_, grad_beta_;              // accumulated dgamma, dbeta
  detail::RunningStatistics<Vector> running_;  // what eval mode normalizes with
  // Of the last forward:
  Numbers mean_ = Numbers::Zero(), inv_std_ = Numbers::Zero();
  Index rows_ = -1;              // n; -1: there was none
  bool by_batch_ = false;        // did the batch's statistics normalize, not the running ones?
  bool is_overwritten_ = false;  // was y written over x?
};

}  // namespace batchnorm
