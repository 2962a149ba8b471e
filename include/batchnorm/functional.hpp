// SPDX-License-Identifier: MIT
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "batchnorm/detail/exact.hpp"
#include "batchnorm/detail/plan.hpp"

// Batch normalization as passes over views, without state of their own:
//
//   mu    = mean of a channel's values     var     = population variance, sum (x - mu)^2 / n
//   x_hat = (x - mu) * inv_std             inv_std = 1 / sqrt(var + eps)
//   y     = gamma * x_hat + beta
//
//   dbeta = sum dy      dgamma = sum dy * x_hat
//   dx    = gamma * inv_std * (dy - dbeta / n - x_hat * dgamma / n)
//
// Source: Ioffe and Szegedy, 2015, arXiv 1502.03167.
//
// A pass is two sums per channel, then a few numbers per channel, then a map over the values, in the
// parameters' type, that takes differences before it scales anything: so the digits of a channel
// whose mean is large against its deviation are kept. The sums of a forward are in double; those of
// a backward take four values in the parameters' type first.
namespace batchnorm::detail {

/// gamma and beta; a null pointer stands for ones and zeros.
template <class A>
struct Affine {
  const A* gamma_data;
  const A* beta_data;

  [[nodiscard]] double gamma(Index c) const { return gamma_data ? double{gamma_data[c]} : 1.0; }
  [[nodiscard]] double beta(Index c) const { return beta_data ? double{beta_data[c]} : 0.0; }
};

/// What x is normalized with, per channel: mean and inv_std, of the batch or given. Number is const
/// where they are only read.
template <class Number>
struct Normalizer {
  Number* mean;
  Number* inv_std;
  bool of_batch;
};

/// A map's factors, and last what is only judged.
enum Factor { mean, scale, shift, mean_dy, slope, rounded_inv_std, factor_count };

/// Room for numbers per channel, kept from call to call: what has been seen once is not allocated
/// again.
template <class A>
class Scratch {
 public:
  void reserve(Index channels, Index slabs) {
    stride = channels + line_bytes;  // with room to read a vector from the last ones
    grow(var, stride);
    grow(long_way, stride);
    grow(doubles, (1 + 2 * slabs) * stride);
    grow(coefficients, factor_count * stride);
  }

  template <class Number>
  using Numbers = Eigen::Array<Number, Eigen::Dynamic, 1>;

  Index stride = 0;         ///< from one row of numbers to the next
  Numbers<double> var;      ///< population variance
  Numbers<bool> long_way;   ///< is it a channel that the kernels cannot do?
  Numbers<double> doubles;  ///< v0, which sums are about, and the sums of each slab
  Numbers<A> coefficients;  ///< the map's

 private:
  template <class Array>
  static void grow(Array& array, Index size) {
    if (array.size() < size) array = Array::Zero(size);  // resize() frees before it may throw
  }
};

/// Can the kernels compute with this offset or factor? They must lie so far from the ends of A's
/// range that a sum or product overflows only where the exact result does, and a factor must not
/// lose bits. Sizes are compared as bits: NaN does not pass, under -ffast-math either.
template <class A>
[[nodiscard]] Bits<A> fits_as_offset(A v) {
  constexpr A largest = std::is_same_v<A, double> ? A(0x1p960) : A(0x1p100);
  return magnitude_bits(v) <= magnitude_bits(largest);
}
template <class A>
[[nodiscard]] Bits<A> fits_as_inv_std(A v) {
  constexpr A smallest = std::is_same_v<A, double> ? A(0x1p-1000) : A(0x1p-120);
  return fits_as_offset(v) & Bits<A>(magnitude_bits(v) >= magnitude_bits(smallest));
}
template <class A>
[[nodiscard]] Bits<A> fits_as_factor(A v) {
  return fits_as_inv_std(v) | Bits<A>(magnitude_bits(v) == 0);
}
/// A product of numbers as a factor. One that vanished, though none of them is 0, is not to fit.
template <class A, class... Number>
[[nodiscard]] A as_factor(double product, Number... numbers) {
  const A factor = static_cast<A>(product);
  const int vanished = (int{magnitude_bits(numbers) != 0} & ... & int{magnitude_bits(factor) == 0});
  return vanished ? std::numeric_limits<A>::max() : factor;
}
template <class A>
[[nodiscard]] double rounding_of(double v) {
  return v - static_cast<double>(static_cast<A>(v));
}

/// Calls f(c) for the channels of [c0, c1) of which `holds`, an integer, is 0. That is rare: a loop
/// without branches finds out whether there are any.
template <class Holds, class F>
void for_channels_but(Index c0, Index c1, const Holds& holds, const F& f) {
  auto all = holds(c0);
  for (Index c = c0; c < c1; ++c) all &= holds(c);
  for (Index c = c0; c < c1 && !all; ++c) {
    if (!holds(c)) f(c);
  }
}

/// What forward and backward share: x with its parameters and statistics, and what to work with.
template <class T, class Number>
struct Pass {
  using A = ParamOf<T>;

  View<const T> x;
  Affine<A> affine;
  Normalizer<Number> by;
  const Workers& workers;
  Scratch<A>& scratch;
};

/// A pass cut into parts.
template <class T, class Number>
class Cut : protected Pass<T, Number>, protected Steps {
 protected:
  using A = ParamOf<T>;
  using Pass<T, Number>::x, Pass<T, Number>::by, Pass<T, Number>::affine, Pass<T, Number>::scratch;

  Cut(const Pass<T, Number>& pass, const Operands<T>& operands, bool sums)
      : Pass<T, Number>(pass), kernel_operands(operands), plan(plan_for(kernel_operands, sums)) {
    scratch.reserve(x.channels, plan.slabs);
    v0 = scratch.doubles.data();
    for (int k = 0; k < factor_count; ++k) {
      factors[k] = scratch.coefficients.data() + k * scratch.stride;
    }
  }

  [[nodiscard]] double* sums(int k, Index slab = 0) const {
    return v0 + (1 + 2 * slab + k) * scratch.stride;
  }
  /// A part's sums, set to 0.
  [[nodiscard]] std::array<double*, 2> new_sums(const Part& part) const {
    const std::array<double*, 2> both{sums(0, part.s), sums(1, part.s)};
    for (double* const s : both) std::fill(s + part.c0, s + part.c1, 0.0);
    return both;
  }
  /// Calls f(c) for the channels of group g.
  template <class F>
  void for_channels(Index g, const F& f) const {
    const Part part = plan.part(g, 0);
    for (Index c = part.c0; c < part.c1; ++c) f(c);
  }
  /// Adds up the sums of a group's slabs.
  void add_slabs(Index g) const {
    for (Index s = 1; s < plan.slabs; ++s) {
      for (const int k : {0, 1}) for_channels(g, [&](Index c) { sums(k)[c] += sums(k, s)[c]; });
    }
  }

  [[nodiscard]] bool has_finite_statistics(Index c) const {
    return is_finite(by.mean[c]) && is_finite(by.inv_std[c]);
  }
  /// A factor starts as a parameter, gamma or beta, or where there is none as what stands for it.
  void start_factor(const Part& part, Factor factor, const A* parameter, A without) const {
    if (parameter) {
      std::copy(parameter + part.c0, parameter + part.c1, factors[factor] + part.c0);
    } else {
      std::fill(factors[factor] + part.c0, factors[factor] + part.c1, without);
    }
  }
  /// Sorts out the channels that do not fit the kernels. Of these they are to make a copy, for the
  /// long way to follow, or NaN where statistics are not finite. `fits` has no branches: this loop
  /// should be a few instructions per channel.
  template <class Fits, class IsFinite>
  void sort_out(const Part& part, const Fits& fits, const IsFinite& is_finite_channel) const {
    std::fill(&scratch.long_way[part.c0], &scratch.long_way[part.c0] + (part.c1 - part.c0), false);
    for_channels_but(part.c0, part.c1, fits, [&](Index c) {
      const bool finite = is_finite_channel(c);
      scratch.long_way[c] = finite;
      for (A* const k : factors) k[c] = 0;
      factors[scale][c] = finite ? A(1) : not_a_number<A>();
    });
  }
  template <class F>
  void for_long_way(const F& f) const {
    for (Index c = 0; c < x.channels; ++c) {
      if (!scratch.long_way[c]) continue;
      f(c, exact::statistics(x, c, by.mean[c], by.inv_std[c], by.of_batch));
    }
  }

  Operands<T> kernel_operands;  // as the kernels see them
  Plan plan;
  double* v0;                // per channel: what sums are about
  A* factors[factor_count];  // per channel: the map's
};

/// y from x, by the batch's own statistics or by given ones. Others derive from it, to map otherwise.
template <class T>
class Forward : protected Cut<T, double> {
 public:
  Forward(const Pass<T, double>& pass, const View<T>& y) : Forward(pass, {1, {pass.x, {}}, y}) {}

  /// Writes mean and inv_std of the batch to the normalizer, and its variance to scratch.var.
  void measure(double eps) {
    eps_ = eps;
    sweep(plan, this->workers, *this, Sweep::sums);
  }
  /// Writes y by the normalizer's statistics.
  void normalize() {
    sweep(plan, this->workers, *this, Sweep::maps);
    go_the_long_way();
  }
  /// Both, a group of channels at a time.
  void measure_and_normalize(double eps) {
    eps_ = eps;
    sweep(plan, this->workers, *this, Sweep::both);
    go_the_long_way();
  }

 protected:
  Forward(const Pass<T, double>& pass, const Operands<T>& operands)
      : Cut<T, double>(pass, operands, pass.by.of_batch), y_(operands.out) {}

  using Base = Cut<T, double>;
  using Base::v0, Base::factors, Base::for_channels;
  using Base::x, Base::by, Base::affine, Base::scratch, Base::plan, Base::kernel_operands;
  using typename Base::A;

  /// Sums are taken about one of a channel's values, v0, so that a mean that is large against the
  /// deviation takes no digits from them, and a constant leaves none.
  void start(Index g) const override {
    for_channels(g,
                 [&](Index c) { v0[c] = static_cast<double>(*x.at(x.outer / 2, c, x.inner / 2)); });
  }
  void sum(const Part& part) const override {
    const auto both = this->new_sums(part);
    with_kernels([&](auto kernels) {
      kernels.moments(plan.loops, part, kernel_operands, &v0, both.data());
    });
  }

  /// mu = v0 + sum d / n,  var = (sum d^2 - (sum d)^2 / n) / n,  inv_std = 1 / sqrt(var + eps)
  void finish(Index g) const override {
    this->add_slabs(g);
    const Part part = plan.part(g, 0);
    const double n = static_cast<double>(x.count()), one_nth = 1 / n;
    const double *const d = Base::sums(0), *const dd = Base::sums(1);
    double *const mu = by.mean, *const var = scratch.var.data();
    for (Index c = part.c0; c < part.c1; ++c) {
      mu[c] = v0[c] + d[c] * one_nth;
      var[c] = (dd[c] - d[c] * d[c] * one_nth) * one_nth;
    }
    const auto of_group = [&](double* numbers) {
      return Eigen::Map<Eigen::ArrayXd>(numbers + part.c0, part.c1 - part.c0);
    };
    of_group(by.inv_std) = (of_group(var) + eps_).sqrt().inverse();
    // Not so where v0 lies far out, sums overflowed, or values are not finite.
    const auto is_good = [=](Index c) {
      return is_finite(d[c]) & is_finite(dd[c]) & std::int64_t(var[c] * n >= 0.01 * dd[c]);
    };
    for_channels_but(part.c0, part.c1, is_good, [this](Index c) { measure_again(c); });
  }
  void measure_again(Index c) const {
    const double n = static_cast<double>(x.count());
    const auto scaled = exact::moment(x, c);
    const double shrink = scaled.shrink, var = scaled.m2 / n;
    by.mean[c] = scaled.mean / shrink;
    scratch.var[c] = var / shrink / shrink;
    by.inv_std[c] = 1 / std::hypot(std::sqrt(var) / shrink, std::sqrt(eps_));
  }

  /// y = gamma * (x - mu) * inv_std + beta as (x - mean) * scale + shift. What rounding takes from
  /// the mean is made good in the shift.
  void prepare(Index g) const override {
    const Part part = plan.part(g, 0);
    this->start_factor(part, scale, affine.gamma_data, 1);
    this->start_factor(part, shift, affine.beta_data, 0);
    A *const m = factors[mean], *const a = factors[scale], *const b = factors[shift];
    A* const inv_std = factors[rounded_inv_std];
    A* const correction = factors[slope];  // a forward has no slope
    for (Index c = part.c0; c < part.c1; ++c) {
      const double scale_c = static_cast<double>(a[c]) * by.inv_std[c];
      const double correction_c = rounding_of<A>(by.mean[c]) * scale_c;
      m[c] = static_cast<A>(by.mean[c]);
      a[c] = static_cast<A>(scale_c);
      b[c] = static_cast<A>(static_cast<double>(b[c]) - correction_c);
      correction[c] = static_cast<A>(correction_c);
      inv_std[c] = static_cast<A>(by.inv_std[c]);
    }
    const auto fits = [=](Index c) {
      return fits_as_offset(m[c]) & fits_as_factor(a[c]) & fits_as_offset(b[c]) &
             Bits<A>(magnitude_bits(correction[c]) < magnitude_bits(A(1))) &
             fits_as_inv_std(inv_std[c]);
    };
    this->sort_out(part, fits, [this](Index c) { return this->has_finite_statistics(c); });
  }
  void map(const Part& part) const override {
    with_kernels(
        [&](auto kernels) { kernels.normalize(plan.loops, part, kernel_operands, factors); });
  }

  void go_the_long_way() const {
    this->for_long_way(
        [&](Index c, const exact::Statistics& statistics) { normalize_exactly(c, statistics); });
  }
  virtual void normalize_exactly(Index c, const exact::Statistics& statistics) const {
    exact::normalize(x, y_, c, statistics, affine.gamma(c), affine.beta(c));
  }

  View<T> y_;
  double eps_ = 0;
};

/// dx, dgamma and dbeta from dy and x. Others derive from it, to sum and map otherwise.
template <class T>
class Backward : protected Cut<T, const double> {
 public:
  Backward(const Pass<T, const double>& pass, const View<const T>& dy, const View<T>& dx)
      : Cut<T, const double>(pass, {2, {pass.x, dy}, dx}, true),
        dy_(dy),
        dx_(dx),
        count_(static_cast<double>(pass.x.count())) {}

  void run() {
    sweep(plan, this->workers, *this, Sweep::both);
    go_the_long_way();
  }
  /// dbeta and dgamma alone; dx is not written.
  void sum_gradients() { sweep(plan, this->workers, *this, Sweep::sums); }
  /// dx alone, where x is a part of a batch of `count` values per channel that has these sums.
  void write_input_gradient(const double* batch_dbeta, const double* batch_dgamma, Index count) {
    std::copy_n(batch_dbeta, x.channels, Base::sums(0));
    std::copy_n(batch_dgamma, x.channels, Base::sums(1));
    count_ = static_cast<double>(count);
    sweep(plan, this->workers, *this, Sweep::maps);
    go_the_long_way();
  }

  [[nodiscard]] const double* dbeta() const { return Base::sums(0); }
  [[nodiscard]] const double* dgamma() const { return Base::sums(1); }

 protected:
  using Base = Cut<T, const double>;
  using Base::factors, Base::for_channels;
  using Base::x, Base::by, Base::affine, Base::scratch, Base::plan, Base::kernel_operands;
  using typename Base::A;

  /// dbeta = sum dy,  dgamma = sum dy * x_hat, the latter times `enlarged`, so that products of
  /// small numbers keep their digits. What the sums need lies where the map's factors will.
  void start(Index g) const override {
    const Part part = plan.part(g, 0);
    A *const m = sum_factors()[0], *const k = sum_factors()[1];
    for (Index c = part.c0; c < part.c1; ++c) {
      m[c] = static_cast<A>(by.mean[c]);
      k[c] = static_cast<A>(by.inv_std[c] * enlarged);
    }
  }
  void sum(const Part& part) const override {
    const auto both = this->new_sums(part);
    with_kernels([&](auto kernels) {
      kernels.gradient_sums(plan.loops, part, kernel_operands, sum_factors(), both.data());
    });
  }
  void finish(Index g) const override {
    this->add_slabs(g);
    const Part part = plan.part(g, 0);
    const A *const m = sum_factors()[0], *const k = sum_factors()[1];
    double *const of_dy = Base::sums(0), *const of_dy_x_hat = Base::sums(1);
    for (Index c = part.c0; c < part.c1; ++c) {  // x_hat was by the rounded mean
      const double too_much = rounding_of<A>(by.mean[c]) * by.inv_std[c];
      of_dy_x_hat[c] = of_dy_x_hat[c] * (1 / enlarged) - of_dy[c] * too_much;
    }
    const auto is_good = [=](Index c) {
      return fits_as_offset(m[c]) & fits_as_factor(k[c]) & is_finite(of_dy[c]) &
             is_finite(of_dy_x_hat[c]);
    };
    for_channels_but(part.c0, part.c1, is_good, [&](Index c) {
      if (!this->has_finite_statistics(c)) return;
      sum_exactly(c, exact::statistics(x, c, by.mean[c], by.inv_std[c], by.of_batch));
    });
  }
  void set_sums(Index c, const std::array<double, 2>& both) const {
    for (const int k : {0, 1}) Base::sums(k)[c] = both[static_cast<std::size_t>(k)];
  }
  virtual void sum_exactly(Index c, const exact::Statistics& statistics) const {
    set_sums(c, exact::gradient_sums(x, dy_, c, statistics));
  }
  [[nodiscard]] A* const* sum_factors() const { return factors; }
  static constexpr double enlarged = 0x1p40;

  /// dx = gamma * inv_std * (dy - dbeta / n - x_hat * dgamma / n), or gamma * inv_std * dy by given
  /// statistics, as (dy - mean_dy) * scale + ((x - mean) * slope + shift). What rounding takes from
  /// the means is made good in the shift.
  void prepare(Index g) const override {
    const Part part = plan.part(g, 0);
    this->start_factor(part, scale, affine.gamma_data, 1);
    A *const m = factors[mean], *const a = factors[scale], *const b = factors[shift];
    A *const m_dy = factors[mean_dy], *const a_x = factors[slope];
    A* const inv_std = factors[rounded_inv_std];
    for (Index c = part.c0; c < part.c1; ++c) {
      const double mean_dy_c = mean_of(dbeta()[c]), mean_dy_x_hat = mean_of(dgamma()[c]);
      const double scale_c = static_cast<double>(a[c]) * by.inv_std[c];
      const double slope_c = -scale_c * by.inv_std[c] * mean_dy_x_hat;
      const double shift_c =
          -rounding_of<A>(mean_dy_c) * scale_c - rounding_of<A>(by.mean[c]) * slope_c;
      m[c] = static_cast<A>(by.mean[c]);
      a_x[c] = as_factor<A>(slope_c, a[c], by.inv_std[c], mean_dy_x_hat);
      a[c] = as_factor<A>(scale_c, a[c], by.inv_std[c]);
      b[c] = static_cast<A>(shift_c);
      m_dy[c] = static_cast<A>(mean_dy_c);
      inv_std[c] = static_cast<A>(by.inv_std[c]);
    }
    const auto fits = [=](Index c) {
      return fits_as_offset(m[c]) & fits_as_factor(a[c]) & fits_as_offset(b[c]) &
             fits_as_offset(m_dy[c]) & fits_as_factor(a_x[c]) & fits_as_inv_std(inv_std[c]);
    };
    this->sort_out(part, fits, [this](Index c) {
      if (!by.of_batch) return is_finite(by.inv_std[c]) != 0;  // dx has no mean in it
      return this->has_finite_statistics(c) && is_finite(mean_of(dbeta()[c])) &&
             is_finite(mean_of(dgamma()[c]));
    });
    if (!by.of_batch) std::fill(m + part.c0, m + part.c1, A(0));  // dx = dy * scale
  }
  /// dbeta / n or dgamma / n, the means that a batch's own statistics take out of dx.
  [[nodiscard]] double mean_of(double sum) const { return by.of_batch ? sum / count_ : 0; }
  void map(const Part& part) const override {
    with_kernels([&](auto kernels) {
      if (by.of_batch) {
        kernels.input_gradient(plan.loops, part, kernel_operands, factors);
      } else {
        const Operands<T> only_dy{1, {kernel_operands.in[1], {}}, kernel_operands.out};
        kernels.normalize(plan.loops, part, only_dy, factors);  // dy * scale: no mean, no shift
      }
    });
  }

  void go_the_long_way() const {
    this->for_long_way(
        [&](Index c, const exact::Statistics& statistics) { map_exactly(c, statistics); });
  }
  virtual void map_exactly(Index c, const exact::Statistics& statistics) const {
    exact::input_gradient(x, dy_, dx_, c, statistics, affine.gamma(c), mean_of(dbeta()[c]),
                          mean_of(dgamma()[c]));
  }

  View<const T> dy_;
  View<T> dx_;
  double count_;  // n of the batch
};

}  // namespace batchnorm::detail
