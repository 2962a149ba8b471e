// SPDX-License-Identifier: MIT
#pragma once

#include <Eigen/Core>
#include <algorithm>
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
// A pass is two sums per channel, in double, then a few numbers per channel, then a map over the
// values, in the parameters' type, that takes differences before it scales anything: so the digits
// of a channel whose mean is large against its deviation are kept.
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
  void reserve(Index channels, Index columns, Index slabs) {
    grow(var, channels);
    grow(long_way, channels);
    grow(doubles, 2 * (slabs + 1) * columns);
    grow(coefficients, 5 * columns);
  }

  template <class Number>
  using Numbers = Eigen::Array<Number, Eigen::Dynamic, 1>;

  Numbers<double> var;      ///< per channel: population variance
  Numbers<bool> long_way;   ///< per channel: is it one that the kernels cannot do?
  Numbers<double> doubles;  ///< per column: what sums are about, and the sums of each slab
  Numbers<A> coefficients;  ///< per column: the map's

 private:
  template <class Array>
  static void grow(Array& array, Index size) {
    if (array.size() < size) array = Array(size);  // resize() frees before it may throw
  }
};

/// Can the kernels compute with this offset or factor? They must lie so far from the ends of A's
/// range that a sum or product overflows only where the exact result does, and a factor must not
/// lose bits.
template <class A>
[[nodiscard]] bool fits_as_offset(double v) {
  return is_finite(v) && std::abs(v) <= (std::is_same_v<A, double> ? 0x1p960 : 0x1p100);
}
template <class A>
[[nodiscard]] bool fits_as_factor(double v) {
  constexpr double smallest = std::is_same_v<A, double> ? 0x1p-1000 : 0x1p-120;
  return fits_as_offset<A>(v) && (v == 0 || std::abs(v) >= smallest);
}
template <class A>
[[nodiscard]] double rounding_of(double v) {
  return v - static_cast<double>(narrow<A>(v));
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

/// A pass cut into parts. The kernels see the views as `fit_to_kernels` makes them: with several
/// rows of few channels as one, a channel is in several columns.
template <class T, class Number>
class Cut : protected Pass<T, Number> {
 protected:
  using A = ParamOf<T>;
  using Pass<T, Number>::x, Pass<T, Number>::by, Pass<T, Number>::scratch;

  explicit Cut(const Pass<T, Number>& pass) : Pass<T, Number>(pass), kernel_x(pass.x) {}

  void set_plan(bool is_rows) {
    plan = plan_for(kernel_x, is_rows);
    scratch.reserve(x.channels, plan.channels, plan.slabs);
    double* const d = scratch.doubles.data();
    const Index columns = plan.channels;
    about[0] = d;
    about[1] = d + columns;
    sums = d + 2 * columns;
    A* const k = scratch.coefficients.data();
    mean = k;
    scale = k + columns;
    shift = k + 2 * columns;
    mean_dy = k + 3 * columns;
    slope = k + 4 * columns;
  }
  [[nodiscard]] double* sum(int k, Index slab = 0) const {
    return sums + (2 * slab + k) * plan.channels;
  }
  /// Calls f(c) for the channels of group g.
  template <class F>
  void for_channels(Index g, const F& f) const {
    const Part part = plan.part(g, 0);
    for (Index c = part.c0; c < std::min(part.c1, x.channels); ++c) f(c);
  }
  /// Copies what channels have in an array to their other columns.
  template <class Array>
  void spread(Array* array) const {
    for (Index c = x.channels; c < plan.channels; ++c) array[c] = array[c - x.channels];
  }
  /// Sums a group's slabs and columns.
  void add_up(Index g) const {
    const Part part = plan.part(g, 0);
    for (const int k : {0, 1}) {
      double* const total = sum(k);
      for (Index s = 1; s < plan.slabs; ++s) {
        for (Index c = part.c0; c < part.c1; ++c) total[c] += sum(k, s)[c];
      }
      for (Index c = x.channels; c < plan.channels; ++c) total[c % x.channels] += total[c];
    }
  }

  [[nodiscard]] bool has_finite_statistics(Index c) const {
    return is_finite(by.mean[c]) && is_finite(by.inv_std[c]);
  }
  [[nodiscard]] bool has_fitting_statistics(Index c) const {
    return fits_as_offset<A>(by.mean[c]) && fits_as_factor<A>(by.inv_std[c]) && by.inv_std[c] > 0;
  }
  /// Sets the coefficients' common part. Of a channel that does not fit the kernels, it makes a
  /// copy, for the long way to follow, or NaN.
  void set_common(Index c, bool fits, bool finite, double scale_c, double shift_c) const {
    scratch.long_way[c] = finite && !fits;
    mean[c] = fits ? narrow<A>(by.mean[c]) : A(0);
    scale[c] = fits ? narrow<A>(scale_c) : finite ? A(1) : std::numeric_limits<A>::quiet_NaN();
    shift[c] = fits ? narrow<A>(shift_c) : A(0);
  }
  template <class F>
  void for_long_way(const F& f) const {
    for (Index c = 0; c < x.channels; ++c) {
      if (scratch.long_way[c])
        f(c, exact::statistics(x, c, by.mean[c], by.inv_std[c], by.of_batch));
    }
  }

  View<const T> kernel_x;
  Plan plan{};
  double *about[2], *sums;                    // per column: what sums are about; slabs of sums
  A *mean, *scale, *shift, *mean_dy, *slope;  // per column: the map's coefficients
};

/// y from x, by the batch's own statistics or by given ones.
template <class T>
class Forward : Cut<T, double> {
 public:
  Forward(const Pass<T, double>& pass, const View<T>& y)
      : Cut<T, double>(pass), y_(y), kernel_y_(y) {
    this->set_plan(fit_to_kernels(this->kernel_x, kernel_y_));
  }

  /// Writes mean and inv_std of the batch to the normalizer, and its variance to scratch.var.
  void measure(double eps) const {
    sweep(
        plan, this->workers, starting(), summing(), [&](Index g) { finish(g, eps); }, nothing);
  }
  /// Writes y by the normalizer's statistics.
  void normalize() const {
    sweep(
        plan, this->workers, nothing, nothing, [&](Index g) { prepare(g); }, mapping());
    go_the_long_way();
  }
  /// Both, a group of channels at a time.
  void measure_and_normalize(double eps) const {
    const auto finish_and_prepare = [&](Index g) {
      finish(g, eps);
      prepare(g);
    };
    sweep(plan, this->workers, starting(), summing(), finish_and_prepare, mapping());
    go_the_long_way();
  }

 private:
  using Base = Cut<T, double>;
  using Base::mean, Base::scale, Base::shift;
  using Base::x, Base::by, Base::affine, Base::scratch, Base::plan, Base::kernel_x, Base::about;
  using typename Base::A;

  /// Sums are taken about one of a channel's values, v0, so that a mean that is large against the
  /// deviation takes no digits from them, and a constant leaves none.
  [[nodiscard]] auto starting() const {
    return [this](Index g) {
      this->for_channels(g, [&](Index c) {
        about[0][c] = static_cast<double>(*x.at(x.outer / 2, c, x.inner / 2));
      });
      this->spread(about[0]);
    };
  }

  /// sum d and sum d^2, d = x - v0
  [[nodiscard]] auto summing() const {
    return [this](const Part& part) {
      const auto terms = [this](auto of) {
        return [v0 = of(about[0])](auto& s, const auto& v) {
          const auto d = v - v0;
          s[0] += d;
          s[1] += d * d;
        };
      };
      sum_part(plan, part, this->sum(0, part.s), this->sum(1, part.s), terms, kernel_x);
    };
  }

  /// mu = v0 + sum d / n,  var = (sum d^2 - (sum d)^2 / n) / n,  inv_std = 1 / sqrt(var + eps)
  void finish(Index g, double eps) const {
    this->add_up(g);
    const double n = static_cast<double>(x.count());
    this->for_channels(g, [&](Index c) {
      const double d = this->sum(0)[c], dd = this->sum(1)[c], m2 = dd - d * (d / n);
      if (is_finite(d) && is_finite(dd) && m2 >= 0.01 * dd) {
        by.mean[c] = about[0][c] + d / n;
        scratch.var[c] = m2 / n;
        by.inv_std[c] = 1 / std::sqrt(scratch.var[c] + eps);
      } else {  // v0 lies far out, sums overflowed, or values are not finite
        const auto scaled = exact::moment(x, c);
        const double shrink = scaled.shrink, var = scaled.m2 / n;
        by.mean[c] = scaled.mean / shrink;
        scratch.var[c] = var / shrink / shrink;
        by.inv_std[c] = 1 / std::hypot(std::sqrt(var) / shrink, std::sqrt(eps));
      }
    });
  }

  /// y = gamma * (x - mu) * inv_std + beta as (x - mean) * scale + shift. What rounding takes from
  /// the mean is made good in the shift.
  void prepare(Index g) const {
    this->for_channels(g, [&](Index c) {
      const double scale_c = affine.gamma(c) * by.inv_std[c];
      const double correction = rounding_of<A>(by.mean[c]) * scale_c;
      const bool fits = this->has_fitting_statistics(c) && fits_as_factor<A>(scale_c) &&
                        fits_as_offset<A>(affine.beta(c)) && std::abs(correction) < 1;
      this->set_common(c, fits, this->has_finite_statistics(c), scale_c,
                       affine.beta(c) - correction);
    });
    for (A* const k : {mean, scale, shift}) this->spread(k);
  }

  [[nodiscard]] auto mapping() const {
    return [this](const Part& part) {
      const auto formula = [this](auto of) {
        return
            [m = of(mean), a = of(scale), b = of(shift)](const auto& v) { return (v - m) * a + b; };
      };
      map_part(plan, part, kernel_y_, formula, kernel_x);
    };
  }

  void go_the_long_way() const {
    this->for_long_way([&](Index c, const exact::Statistics& statistics) {
      exact::normalize(x, y_, c, statistics, affine.gamma(c), affine.beta(c));
    });
  }

  View<T> y_, kernel_y_;
};

/// dx, dgamma and dbeta from dy and x.
template <class T>
class Backward : Cut<T, const double> {
 public:
  Backward(const Pass<T, const double>& pass, const View<const T>& dy, const View<T>& dx)
      : Cut<T, const double>(pass), dy_(dy), kernel_dy_(dy), dx_(dx), kernel_dx_(dx) {
    this->set_plan(fit_to_kernels(this->kernel_x, kernel_dy_, kernel_dx_));
  }

  void run() const {
    const auto finish_and_prepare = [&](Index g) {
      finish(g);
      prepare(g);
    };
    sweep(plan, this->workers, starting(), summing(), finish_and_prepare, mapping());
    this->for_long_way([&](Index c, const exact::Statistics& statistics) {
      exact::input_gradient(x, dy_, dx_, c, statistics, affine.gamma(c), mean_of(dbeta(c)),
                            mean_of(dgamma(c)));
    });
  }

  [[nodiscard]] double dbeta(Index c) const { return this->sum(0)[c]; }
  [[nodiscard]] double dgamma(Index c) const { return this->sum(1)[c]; }

 private:
  using Base = Cut<T, const double>;
  using Base::mean, Base::scale, Base::shift, Base::mean_dy, Base::slope;
  using Base::x, Base::by, Base::affine, Base::scratch, Base::plan, Base::kernel_x, Base::about;
  using typename Base::A;

  [[nodiscard]] auto starting() const {
    return [this](Index g) {
      this->for_channels(g, [&](Index c) {
        about[0][c] = by.mean[c];
        about[1][c] = by.inv_std[c];
      });
      for (double* const numbers : about) this->spread(numbers);
    };
  }

  /// dbeta = sum dy,  dgamma = sum dy * x_hat
  [[nodiscard]] auto summing() const {
    return [this](const Part& part) {
      const auto terms = [this](auto of) {
        return [mu = of(about[0]), inv_std = of(about[1])](auto& s, const auto& v, const auto& dv) {
          const auto x_hat = (v - mu) * inv_std;
          s[0] += dv;
          s[1] += dv * x_hat;
        };
      };
      sum_part(plan, part, this->sum(0, part.s), this->sum(1, part.s), terms, kernel_x, kernel_dy_);
    };
  }

  void finish(Index g) const {
    this->add_up(g);
    this->for_channels(g, [&](Index c) {
      const bool fits = by.inv_std[c] >= std::numeric_limits<double>::min() &&
                        is_finite(this->sum(0)[c]) && is_finite(this->sum(1)[c]);
      if (fits || !this->has_finite_statistics(c)) return;
      const auto statistics = exact::statistics(x, c, by.mean[c], by.inv_std[c], by.of_batch);
      const auto again = exact::gradient_sums(x, dy_, c, statistics);
      this->sum(0)[c] = again[0];
      this->sum(1)[c] = again[1];
    });
  }

  /// dx = gamma * inv_std * (dy - dbeta / n - x_hat * dgamma / n), or gamma * inv_std * dy by given
  /// statistics, as (dy - mean_dy) * scale + ((x - mean) * slope + shift). What rounding takes from
  /// the means is made good in the shift.
  void prepare(Index g) const {
    this->for_channels(g, [&](Index c) {
      const double mean_dy_c = mean_of(dbeta(c)), mean_dy_x_hat = mean_of(dgamma(c));
      const double scale_c = affine.gamma(c) * by.inv_std[c];
      const double slope_c = -scale_c * by.inv_std[c] * mean_dy_x_hat;
      const double shift_c =
          -rounding_of<A>(mean_dy_c) * scale_c - rounding_of<A>(by.mean[c]) * slope_c;
      const bool fits = this->has_fitting_statistics(c) && fits_as_offset<A>(mean_dy_c) &&
                        fits_as_factor<A>(scale_c) && fits_as_factor<A>(slope_c) &&
                        fits_as_offset<A>(shift_c);
      const bool finite =
          this->has_finite_statistics(c) && is_finite(mean_dy_c) && is_finite(mean_dy_x_hat);
      this->set_common(c, fits, finite, scale_c, shift_c);
      mean_dy[c] = fits ? narrow<A>(mean_dy_c) : A(0);
      slope[c] = fits ? narrow<A>(slope_c) : A(0);
    });
    for (A* const k : {mean, scale, shift, mean_dy, slope}) this->spread(k);
  }

  /// dbeta / n or dgamma / n, the means that a batch's own statistics take out of dx.
  [[nodiscard]] double mean_of(double sum) const {
    return by.of_batch ? sum / static_cast<double>(x.count()) : 0;
  }

  [[nodiscard]] auto mapping() const {
    return [this](const Part& part) {
      const auto by_batch = [this](auto of) {
        return [m = of(mean), m_dy = of(mean_dy), a = of(scale), a_x = of(slope), b = of(shift)](
                   const auto& v, const auto& dv) { return (dv - m_dy) * a + ((v - m) * a_x + b); };
      };
      const auto by_given = [this](auto of) {
        return [a = of(scale)](const auto& dv) { return dv * a; };
      };
      if (by.of_batch) {
        map_part(plan, part, kernel_dx_, by_batch, kernel_x, kernel_dy_);
      } else {
        map_part(plan, part, kernel_dx_, by_given, kernel_dy_);
      }
    };
  }

  View<const T> dy_, kernel_dy_;
  View<T> dx_, kernel_dx_;
};

}  // namespace batchnorm::detail
