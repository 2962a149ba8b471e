// SPDX-License-Identifier: MIT
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <limits>

#include "batchnorm/detail/exact.hpp"
#include "batchnorm/detail/plan.hpp"

// Batch normalization as functions of views, without state of their own:
//
//   mu    = mean of a channel's values        var = population variance    inv_std = 1 / sqrt(var +
//   eps) x_hat = (x - mu) * inv_std                y = gamma * x_hat + beta dbeta = sum dy dgamma =
//   sum dy * x_hat dx    = gamma * inv_std * (dy - dbeta / n - x_hat * dgamma / n)
//
// Source: Ioffe and Szegedy, 2015, arXiv 1502.03167.
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

/// Room for numbers per channel, kept from call to call: what has been seen once is not allocated
/// again.
template <class A>
class Scratch {
 public:
  void reserve(const Plan& plan) {
    grow(sums, 2 * plan.slabs * plan.channels);
    grow(var, plan.channels);
    grow(long_way, plan.channels);
    grow(coefficients, 6 * plan.channels);
  }
  [[nodiscard]] double* sum(int k, Index slab, Index channels) {
    return sums.data() + (2 * slab + k) * channels;
  }
  [[nodiscard]] Coefficients<A> of(Index channels) {
    A* const k = coefficients.data();
    return {
        k, k + channels, k + 2 * channels, k + 3 * channels, k + 4 * channels, k + 5 * channels};
  }

  Eigen::Array<double, Eigen::Dynamic, 1> sums;     ///< two per slab and channel
  Eigen::Array<double, Eigen::Dynamic, 1> var;      ///< population variance per channel
  Eigen::Array<bool, Eigen::Dynamic, 1> long_way;   ///< channels that the kernels cannot do
  Eigen::Array<A, Eigen::Dynamic, 1> coefficients;  ///< of the channels that they can

 private:
  template <class Array>
  static void grow(Array& array, Index size) {
    if (array.size() < size) array.resize(size);
  }
};

/// Can the kernels compute with this factor or offset? They must lie so far from the ends of A's
/// range that a sum or product overflows only where the exact result does, and a factor must not
/// lose bits.
template <class A>
inline constexpr double largest_offset = std::is_same_v<A, double> ? 0x1p1000 : 0x1p100;
template <class A>
[[nodiscard]] bool fits_as_offset(double v) {
  return is_finite(v) && std::abs(v) <= largest_offset<A>;
}
template <class A>
[[nodiscard]] bool fits_as_factor(double v) {
  constexpr double smallest = std::is_same_v<A, double> ? 0x1p-1000 : 0x1p-120;
  return fits_as_offset<A>(v) && (v == 0 || std::abs(v) >= smallest);
}

/// The scale of a channel whose coefficients do not fit: 1, or NaN if its statistics are not
/// finite.
template <class A>
[[nodiscard]] A unfit_scale(bool finite) {
  return finite ? A(1) : std::numeric_limits<A>::quiet_NaN();
}

/// Views that meet in one loop: as rows if all are, else all as runs.
template <class First, class... Rest>
void agree_on_shape(First& first, Rest&... rest) {
  if (first.is_rows() && (rest.is_rows() && ...)) return;
  first = first.as_runs();
  ((rest = rest.as_runs()), ...);
}

/// f(Rows{}) or f(Runs{}): here the two loop shapes part.
template <class F>
auto in_shape(const Plan& plan, const F& f) {
  return plan.is_rows ? f(Rows{}) : f(Runs{});
}

/// What forward and backward share: x, its parameters and statistics, and the means to work with.
template <class T, class Number>
struct Pass {
  using A = ParamOf<T>;

  View<const T> x;
  Affine<A> affine;
  Normalizer<Number> by;
  const Workers& workers;
  Scratch<A>& scratch;
  Plan plan{};
  Coefficients<A> k{};

  void set_plan() {
    plan = plan_for(x);
    scratch.reserve(plan);
    k = scratch.of(plan.channels);
  }
  [[nodiscard]] double* sum(int which, Index slab = 0) const {
    return scratch.sum(which, slab, plan.channels);
  }
  [[nodiscard]] bool has_finite_statistics(Index c) const {
    return is_finite(by.mean[c]) && is_finite(by.inv_std[c]);
  }
  [[nodiscard]] bool has_fitting_statistics(Index c) const {
    return fits_as_offset<A>(by.mean[c]) && fits_as_factor<A>(by.inv_std[c]) && by.inv_std[c] > 0;
  }
  /// What the kernels' type takes from the mean.
  [[nodiscard]] double rounding_of_mean(Index c) const {
    return by.mean[c] - static_cast<double>(narrow<A>(by.mean[c]));
  }
  [[nodiscard]] exact::Statistics exact_statistics(Index c) const {
    return exact::statistics(x, c, by.mean[c], by.inv_std[c], by.of_batch);
  }
};

inline constexpr auto nothing = [](auto...) {};

/// y from x, by the batch's own statistics or by given ones.
template <class T>
class Forward : Pass<T, double> {
 public:
  Forward(const Pass<T, double>& pass, const View<T>& y) : Pass<T, double>(pass), y_(y) {
    agree_on_shape(this->x, y_);
    this->set_plan();
  }

  /// Writes mean and inv_std of the batch to the normalizer, and its variance to scratch.var.
  void measure(double eps) const {
    sweep(
        plan, workers, reducing(), [&](Index g) { finish(g, eps); }, nothing);
  }
  /// Writes y by the normalizer's statistics.
  void normalize() const {
    sweep(
        plan, workers, nothing, [&](Index g) { prepare(g); }, mapping());
    go_the_long_way();
  }
  /// Both, a group of channels at a time.
  void measure_and_normalize(double eps) const {
    const auto finish_and_prepare = [&](Index g) {
      finish(g, eps);
      prepare(g);
    };
    sweep(plan, workers, reducing(), finish_and_prepare, mapping());
    go_the_long_way();
  }

 private:
  using typename Pass<T, double>::A;
  using Pass<T, double>::x, Pass<T, double>::affine, Pass<T, double>::by, Pass<T, double>::workers,
      Pass<T, double>::scratch;
  using Pass<T, double>::plan, Pass<T, double>::k;

  [[nodiscard]] auto reducing() const {
    return [this](const Part& part) {
      double* const mean = this->sum(0, part.s);
      double* const m2 = this->sum(1, part.s);
      in_shape(plan, [&](auto shape) {
        const double before =
            shape.count_before(x, part.b0) - shape.count_before(x, part.s * plan.slab_blocks);
        if (before == 0) {
          std::fill(mean + part.c0, mean + part.c1, 0.0);
          std::fill(m2 + part.c0, m2 + part.c1, 0.0);
        }
        shape.moments(x, part, before, mean, m2);
      });
    };
  }

  /// Brings a group's slabs together: mu, var, inv_std = 1 / sqrt(var + eps).
  void finish(Index g, double eps) const {
    const Part part = plan.part(g, 0);
    double* const mean = this->sum(0);
    double* const m2 = this->sum(1);
    const auto end = [&](Index s) {
      return in_shape(plan, [&](auto shape) { return shape.count_before(x, plan.part(g, s).b1); });
    };
    for (Index s = 1; s < plan.slabs; ++s) {
      const double share = (end(s) - end(s - 1)) / end(s);
      for (Index c = part.c0; c < part.c1; ++c) {
        merge(end(s - 1), share, this->sum(0, s)[c], this->sum(1, s)[c], mean[c], m2[c]);
      }
    }
    const double n = end(plan.slabs - 1);
    for (Index c = part.c0; c < part.c1; ++c) {
      if (is_finite(mean[c]) && is_finite(m2[c])) {
        scratch.var[c] = std::max(m2[c], 0.0) / n;
        by.mean[c] = mean[c];
        by.inv_std[c] = 1 / std::sqrt(scratch.var[c] + eps);
      } else {  // an overflow on the way, or values that are not finite
        const auto scaled = exact::moment(x, c);
        const double shrink = scaled.shrink, var = scaled.m2 / n;
        scratch.var[c] = var / shrink / shrink;
        by.mean[c] = scaled.mean / shrink;
        by.inv_std[c] = shrink / std::sqrt(var + eps * shrink * shrink);
      }
    }
  }

  /// y = gamma * (x - mu) * inv_std + beta as (x - mean) * scale + shift. Where these do not fit
  /// the kernels, they are to copy x, for the long way to follow.
  void prepare(Index g) const {
    const Part part = plan.part(g, 0);
    for (Index c = part.c0; c < part.c1; ++c) {
      const double scale = affine.gamma(c) * by.inv_std[c];
      const double shift = affine.beta(c) - this->rounding_of_mean(c) * scale;
      const bool fits =
          this->has_fitting_statistics(c) && fits_as_factor<A>(scale) && fits_as_offset<A>(shift);
      const bool finite = this->has_finite_statistics(c);
      scratch.long_way[c] = finite && !fits;
      k.mean[c] = fits ? narrow<A>(by.mean[c]) : A(0);
      k.scale[c] = fits ? narrow<A>(scale) : unfit_scale<A>(finite);
      k.shift[c] = fits ? narrow<A>(shift) : A(0);
    }
  }

  [[nodiscard]] auto mapping() const {
    return [this](const Part& part) {
      in_shape(plan, [&](auto shape) { shape.normalize(x, y_, part, k); });
    };
  }

  void go_the_long_way() const {
    for (Index c = 0; c < plan.channels; ++c) {
      if (!scratch.long_way[c]) continue;
      exact::normalize(x, y_, c, this->exact_statistics(c), affine.gamma(c), affine.beta(c));
    }
  }

  View<T> y_;
};

/// dx, dgamma and dbeta from dy and x.
template <class T>
class Backward : Pass<T, const double> {
 public:
  Backward(const Pass<T, const double>& pass, const View<const T>& dy, const View<T>& dx)
      : Pass<T, const double>(pass), dy_(dy), dx_(dx) {
    agree_on_shape(this->x, dy_, dx_);
    this->set_plan();
  }

  void run() const {
    for (Index c = 0; c < plan.channels; ++c) {
      k.mean[c] = narrow<A>(by.mean[c]);
      k.inv_std[c] = narrow<A>(by.inv_std[c]);
    }
    const auto finish_and_prepare = [&](Index g) {
      finish(g);
      prepare(g);
    };
    sweep(plan, workers, reducing(), finish_and_prepare, mapping());
    go_the_long_way();
  }

  [[nodiscard]] double dbeta(Index c) const { return this->sum(0)[c]; }
  [[nodiscard]] double dgamma(Index c) const { return this->sum(1)[c]; }

 private:
  using typename Pass<T, const double>::A;
  using Pass<T, const double>::x, Pass<T, const double>::affine, Pass<T, const double>::by,
      Pass<T, const double>::workers, Pass<T, const double>::scratch;
  using Pass<T, const double>::plan, Pass<T, const double>::k;

  [[nodiscard]] auto reducing() const {
    return [this](const Part& part) {
      double* const sum_dy = this->sum(0, part.s);
      double* const sum_dy_x_hat = this->sum(1, part.s);
      if (part.b0 == part.s * plan.slab_blocks) {
        std::fill(sum_dy + part.c0, sum_dy + part.c1, 0.0);
        std::fill(sum_dy_x_hat + part.c0, sum_dy_x_hat + part.c1, 0.0);
      }
      in_shape(plan,
               [&](auto shape) { shape.gradient_sums(x, dy_, part, k, sum_dy, sum_dy_x_hat); });
    };
  }

  /// Brings a group's slabs together: dbeta = sum dy, dgamma = sum dy * x_hat. The kernels' x_hat
  /// lacks what rounding took from the mean: rounding * inv_std each.
  void finish(Index g) const {
    const Part part = plan.part(g, 0);
    double* const sum_dy = this->sum(0);
    double* const sum_dy_x_hat = this->sum(1);
    for (Index s = 1; s < plan.slabs; ++s) {
      for (Index c = part.c0; c < part.c1; ++c) {
        sum_dy[c] += this->sum(0, s)[c];
        sum_dy_x_hat[c] += this->sum(1, s)[c];
      }
    }
    for (Index c = part.c0; c < part.c1; ++c) {
      sum_dy_x_hat[c] -= this->rounding_of_mean(c) * by.inv_std[c] * sum_dy[c];
      if (!this->has_finite_statistics(c)) continue;
      if (this->has_fitting_statistics(c) && is_finite(sum_dy[c]) && is_finite(sum_dy_x_hat[c])) {
        continue;
      }
      const auto sums = exact::gradient_sums(x, dy_, c, this->exact_statistics(c));
      sum_dy[c] = sums[0];
      sum_dy_x_hat[c] = sums[1];
    }
  }

  /// dx = gamma * inv_std * (dy - dbeta / n - x_hat * dgamma / n), or gamma * inv_std * dy by given
  /// statistics, as (dy - mean_dy) * scale + ((x - mean) * slope + shift). Where these do not fit
  /// the kernels, they are to copy dy, for the long way to follow.
  void prepare(Index g) const {
    const Part part = plan.part(g, 0);
    for (Index c = part.c0; c < part.c1; ++c) {
      const double mean_dy = mean_of(dbeta(c));
      const double scale = affine.gamma(c) * by.inv_std[c];
      const double slope = -scale * by.inv_std[c] * mean_of(dgamma(c));
      const double shift = -(mean_dy - static_cast<double>(narrow<A>(mean_dy))) * scale -
                           this->rounding_of_mean(c) * slope;
      const bool fits = this->has_fitting_statistics(c) && fits_as_offset<A>(mean_dy) &&
                        fits_as_factor<A>(scale) && fits_as_factor<A>(slope) &&
                        fits_as_offset<A>(shift);
      const bool finite =
          this->has_finite_statistics(c) && is_finite(mean_dy) && is_finite(mean_of(dgamma(c)));
      scratch.long_way[c] = finite && !fits;
      k.mean[c] = fits && by.of_batch ? narrow<A>(by.mean[c]) : A(0);
      k.mean_dy[c] = fits ? narrow<A>(mean_dy) : A(0);
      k.scale[c] = fits ? narrow<A>(scale) : unfit_scale<A>(finite);
      k.slope[c] = fits ? narrow<A>(slope) : A(0);
      k.shift[c] = fits ? narrow<A>(shift) : A(0);
    }
  }

  /// dbeta / n or dgamma / n, the means that a batch's own statistics take out of dx.
  [[nodiscard]] double mean_of(double sum) const {
    return by.of_batch ? sum / static_cast<double>(x.count()) : 0;
  }

  [[nodiscard]] auto mapping() const {
    return [this](const Part& part) {
      in_shape(plan, [&](auto shape) {
        if (by.of_batch) {
          shape.input_gradient(x, dy_, dx_, part, k);
        } else {
          shape.normalize(dy_, dx_, part, k);  // mean and shift are 0
        }
      });
    };
  }

  void go_the_long_way() const {
    for (Index c = 0; c < plan.channels; ++c) {
      if (!scratch.long_way[c]) continue;
      exact::input_gradient(x, dy_, dx_, c, this->exact_statistics(c), affine.gamma(c),
                            mean_of(dbeta(c)), mean_of(dgamma(c)));
    }
  }

  View<const T> dy_;
  View<T> dx_;
};

}  // namespace batchnorm::detail
