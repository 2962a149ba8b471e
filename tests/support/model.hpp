// SPDX-License-Identifier: MIT
// A slow model of a layer: what each call does to it and gives, or why it is refused, as documented.
// Numbers come from the definition in long double, with the error that a layer may have.
#pragma once

#include <algorithm>
#include <array>
#include <batchnorm/batchnorm.hpp>
#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>
#include <vector>

#include "support/layouts.hpp"

namespace testing {

using Real = long double;

inline std::size_t as_size(Index i) { return static_cast<std::size_t>(i); }

/// What a call may throw; a call with several faults, any of them.
struct Refusals {
  bool invalid_argument = false, logic_error = false, domain_error = false;

  [[nodiscard]] bool any() const { return invalid_argument || logic_error || domain_error; }
};

/// A number that a layer must have, exactly or within an error. For a value that is not finite the
/// same one is expected; with `loosely`, any that is not finite. An infinite error: no promise.
struct Expected {
  Real value;
  Real error = 0;
  bool loosely = false;

  [[nodiscard]] bool agrees(double got) const {
    if (std::isinf(error)) return true;
    if (!std::isfinite(value) && loosely) return !std::isfinite(got);
    if (std::isnan(value)) return std::isnan(got);
    return static_cast<Real>(got) == value || std::abs(static_cast<Real>(got) - value) <= error;
  }
};
using Expectations = std::vector<Expected>;

/// The errors that are promised, relative to what they are measured by (see compare.hpp). For
/// double, some thousand roundings of 1.1e-16.
template <class Scalar>
struct Promise {
  static constexpr bool is_double = std::is_same_v<Scalar, double>;
  static constexpr bool is_narrow = sizeof(Scalar) == 2;
  static constexpr Real y = is_double ? 1e-12L : 6e-7L, dx = is_double ? 1e-12L : 1.2e-6L,
                        sums = is_double ? 1e-12L : 5e-7L, mean = is_double ? 1e-12L : 1e-7L,
                        var = is_double ? 1e-12L : 1e-6L;
  /// Half an ulp of 1 and the smallest steps, of a parameter and of a result that is rounded once
  /// more.
  static constexpr Real stored = is_double ? 0x1p-53L : 0x1p-24L;
  static constexpr Real param_step = is_double ? 0x1p-1074L : 0x1p-149L;
  static constexpr Real unit = !is_narrow                            ? 0
                               : std::is_same_v<Scalar, Eigen::half> ? 0x1p-11L
                                                                     : 0x1p-8L;
  static constexpr Real step = std::is_same_v<Scalar, Eigen::half> ? 0x1p-24L
                               : is_narrow                         ? 0x1p-133L
                                                                   : 4 * param_step;
  static constexpr Real largest = is_double ? Real(std::numeric_limits<double>::max())
                                            : Real(std::numeric_limits<float>::max());
};

/// The state that a user sees, in double, which holds every parameter exactly.
struct ModelState {
  using Vector = std::vector<double>;
  Vector gamma, beta, grad_gamma, grad_beta, running_mean, running_var;
  std::int64_t counter = 0;
  bool training = true;
};

/// What a forward leaves for backward.
struct ModelSaved {
  std::vector<Real> mean, var, inv_std;
  Index count = 0;
  bool of_batch = false, overwritten = false;
  int rank = 0;
  Extents extents{0, 0, {0, 0, 0}};
};

/// The values of an argument in the order of Strides::each, and its shape.
struct ModelInput {
  int rank;
  Extents extents;
  std::vector<double> values;

  /// Calls f(i, c) for each value i.
  template <class F>
  void each(const F& f) const {
    for (std::size_t i = 0; i < values.size(); ++i) {
      f(i, i / as_size(extents.positions()) % as_size(extents.channels));
    }
  }
};

template <class Scalar>
class Model {
 public:
  using By = Promise<Scalar>;

  Model(Index channels, const batchnorm::Options& options)
      : options_(options), channels_(as_size(channels)) {
    reset_skipped();
  }

  ModelState state;
  ModelSaved saved;

  [[nodiscard]] static Refusals of_construction(Index channels, const batchnorm::Options& o) {
    const double smallest = By::is_double ? 0x1p-1022 : 0x1p-126;
    Refusals r = of_momentum(o.momentum);
    r.invalid_argument =
        r.invalid_argument || channels < 1 || !std::isfinite(o.eps) ||
        (o.eps != 0 && o.eps < smallest) ||
        (o.single_value == batchnorm::SingleValue::use_running && !o.track_running_stats);
    return r;
  }
  [[nodiscard]] static Refusals of_momentum(batchnorm::Momentum momentum) {
    const double w = momentum.weight_of_new();
    Refusals r;
    r.invalid_argument = !(w >= 0 && w <= 1);
    return r;
  }
  void set_momentum(batchnorm::Momentum momentum) { options_.momentum = momentum; }
  void reset_skipped() {
    skipped_mean_.assign(channels_, 0);
    skipped_var_.assign(channels_, 0);
  }

  /// Are the vectors as long as they must be?
  [[nodiscard]] Refusals of_lengths() const {
    const auto wrong = [&](const ModelState::Vector& v, bool on) {
      return v.size() != (on ? channels_ : 0);
    };
    Refusals r;
    r.logic_error = wrong(state.gamma, options_.scale) || wrong(state.grad_gamma, options_.scale) ||
                    wrong(state.beta, options_.shift) || wrong(state.grad_beta, options_.shift) ||
                    wrong(state.running_mean, options_.track_running_stats) ||
                    wrong(state.running_var, options_.track_running_stats);
    return r;
  }

  struct Forward {
    Refusals refusals;
    Expectations y, running_mean, running_var;
    ModelSaved saved;
  };

  /// A forward into memory apart from x, or over x.
  [[nodiscard]] Forward forward(const ModelInput& x, bool over_x) {
    Forward f;
    f.refusals = of_lengths();
    if (as_size(x.extents.channels) != channels_) f.refusals.invalid_argument = true;
    if (over_x && x.extents.size() > 0 && state.training) f.refusals.invalid_argument = true;
    using batchnorm::SingleValue;
    const Index n = x.extents.count();
    const bool may_use_batch = state.training || !options_.track_running_stats;
    const bool too_few = may_use_batch && (n == 1 || (n == 0 && state.training));
    if (too_few && options_.single_value == SingleValue::reject) f.refusals.invalid_argument = true;
    if (f.refusals.any()) return f;

    const bool by_batch =
        may_use_batch && !(n == 1 && options_.single_value == SingleValue::use_running);
    ModelSaved& s = f.saved;
    s = {{}, {}, {}, n, by_batch, over_x && n > 0, x.rank, x.extents};
    f.running_mean = exactly(state.running_mean);
    f.running_var = exactly(state.running_var);
    if (n == 0) return f;

    if (by_batch) {
      measure(x, s);
    } else {
      s.mean.assign(state.running_mean.begin(), state.running_mean.end());
      s.var.assign(state.running_var.begin(), state.running_var.end());
    }
    for (const Real var : s.var) {  // x_hat is 0 where var + eps is 0
      const Real sum = var + Real(options_.eps);
      s.inv_std.push_back(sum == 0 ? Real(0) : 1 / std::sqrt(sum));
    }
    if (by_batch && options_.non_finite == batchnorm::NonFinite::reject) {
      for (const Real var : s.var) f.refusals.domain_error |= !std::isfinite(var);
      if (f.refusals.any()) return f;
    }
    f.y.resize(x.values.size());
    x.each([&](std::size_t i, std::size_t c) {
      const Real x_hat = (x.values[i] - s.mean[c]) * s.inv_std[c];
      const Real scaled = gamma(c) * x_hat, e = scaled + beta(c);
      const Real size = std::max({Real(1), std::abs(scaled), std::abs(beta(c))});
      f.y[i] = rounded(e, By::y * size + drift(s, c) * std::abs(gamma(c)));
      f.y[i].loosely = !std::isfinite(s.mean[c]) || !std::isfinite(s.var[c]);
      const bool constant = s.var[c] == 0;
      if (by_batch && constant)
        f.y[i] = {static_cast<Real>(
            static_cast<double>(static_cast<Scalar>(static_cast<double>(beta(c)))))};
    });
    if (by_batch && state.training && options_.track_running_stats) {
      for (std::size_t c = 0; c < channels_; ++c) {
        update(c, s, f.running_mean[c], f.running_var[c]);
      }
    }
    return f;
  }

  /// After a forward that was not refused.
  void take(const Forward& f) {
    saved = f.saved;
    if (!(saved.of_batch && state.training && saved.count > 0)) return;
    if (!options_.track_running_stats) return;
    ++state.counter;
    for (std::size_t c = 0; c < channels_; ++c) {
      skipped_mean_[c] += skips(c, saved);
      skipped_var_[c] += skips_var(c, saved);
    }
  }

  struct Backward {
    Refusals refusals;
    Expectations dx, grad_gamma, grad_beta;
  };

  [[nodiscard]] Backward backward(const ModelSaved& s, const ModelInput& x,
                                  const std::vector<double>& dy) const {
    Backward b;
    b.refusals = of_lengths();
    if (s.rank == 0 || s.overwritten) b.refusals.logic_error = true;
    const bool same_shape = s.rank == x.rank && s.extents == x.extents;
    if (as_size(x.extents.channels) != channels_ || !same_shape) b.refusals.invalid_argument = true;
    if (b.refusals.any()) return b;
    b.grad_gamma = exactly(state.grad_gamma);
    b.grad_beta = exactly(state.grad_beta);
    if (s.count == 0) return b;

    struct Sums {
      Real dy = 0, dy_x_hat = 0, size_dy = 0, size_dy_x_hat = 0;
    };
    std::vector<Sums> sums(channels_);
    const auto x_hat = [&](std::size_t i, std::size_t c) {
      return (x.values[i] - s.mean[c]) * s.inv_std[c];
    };
    x.each([&](std::size_t i, std::size_t c) {
      sums[c].dy += dy[i];
      sums[c].dy_x_hat += dy[i] * x_hat(i, c);
      sums[c].size_dy += std::abs(dy[i]);
      sums[c].size_dy_x_hat += std::abs(dy[i] * x_hat(i, c));
    });
    const Real n = static_cast<Real>(s.count);
    const Real beyond = std::numeric_limits<double>::max() * 0.99L;  // a sum's range
    b.dx.resize(x.values.size());
    x.each([&](std::size_t i, std::size_t c) {
      const Sums& t = sums[c];
      const Real factor = gamma(c) * s.inv_std[c];
      Real d = dy[i], terms = std::abs(d), moved = 0;
      if (s.of_batch) {
        d -= t.dy / n + x_hat(i, c) * t.dy_x_hat / n;
        terms += t.size_dy / n + std::abs(x_hat(i, c)) * t.size_dy_x_hat / n;
        moved = drift(s, c) * (t.size_dy_x_hat + std::abs(x_hat(i, c)) * t.size_dy) / n;
      }
      b.dx[i] = rounded(factor * d, std::abs(factor) * (By::dx * terms + moved));
      b.dx[i].loosely = true;
      if (t.size_dy_x_hat > beyond) b.dx[i].error = HUGE_VALL;
    });
    for (std::size_t c = 0; c < channels_; ++c) {
      const Sums& t = sums[c];
      const auto add = [&](Expectations& grad, Real d, Real error) {
        if (grad.empty()) return;
        const Real sum = grad[c].value + d;
        grad[c] = {sum, error + By::stored * std::abs(sum) + By::param_step, true};
        if (std::abs(sum) > By::largest * 0.99L || t.size_dy_x_hat > beyond) {
          grad[c].error = HUGE_VALL;
        }
      };
      add(b.grad_gamma, t.dy_x_hat, By::sums * t.size_dy_x_hat + drift(s, c) * t.size_dy);
      add(b.grad_beta, t.dy, By::sums * t.size_dy);
    }
    return b;
  }

  [[nodiscard]] Real gamma(std::size_t c) const { return options_.scale ? state.gamma[c] : 1.0; }
  [[nodiscard]] Real beta(std::size_t c) const { return options_.shift ? state.beta[c] : 0.0; }
  [[nodiscard]] const batchnorm::Options& options() const { return options_; }

  [[nodiscard]] static Expectations exactly(const ModelState::Vector& v) {
    Expectations e;
    for (const double one : v) e.push_back({one});
    return e;
  }

 private:
  /// Mean and population variance, in two passes; the variance is NaN where a value is not finite.
  void measure(const ModelInput& x, ModelSaved& s) const {
    const Real n = static_cast<Real>(s.count);
    s.mean.assign(channels_, 0);
    s.var.assign(channels_, 0);
    std::vector<Real> rest(channels_, 0);
    x.each([&](std::size_t i, std::size_t c) { s.mean[c] += x.values[i] / n; });
    x.each([&](std::size_t i, std::size_t c) { rest[c] += (x.values[i] - s.mean[c]) / n; });
    for (std::size_t c = 0; c < channels_; ++c) {
      if (std::isfinite(s.mean[c])) s.mean[c] += rest[c];
    }
    x.each([&](std::size_t i, std::size_t c) {
      const Real d = x.values[i] - s.mean[c];
      s.var[c] += d * d / n;
    });
    std::vector<bool> is_constant(channels_, true);
    x.each([&](std::size_t i, std::size_t c) {
      const double first = x.values[c * as_size(x.extents.positions())];
      if (!(x.values[i] == first)) is_constant[c] = false;
    });
    for (std::size_t c = 0; c < channels_; ++c) {
      if (is_constant[c] && std::isfinite(s.mean[c])) {
        s.mean[c] = x.values[c * as_size(x.extents.positions())];
        s.var[c] = 0;
      }
    }
  }

  [[nodiscard]] bool skips(std::size_t c, const ModelSaved& s) const {
    return !std::isfinite(s.var[c]) && options_.non_finite == batchnorm::NonFinite::skip_update;
  }
  [[nodiscard]] bool skips_var(std::size_t c, const ModelSaved& s) const {
    const bool unbiased = options_.running_variance == batchnorm::VarianceEstimate::unbiased;
    return skips(c, s) || (unbiased && s.count == 1);
  }
  void update(std::size_t c, const ModelSaved& s, Expected& mean, Expected& var) const {
    const Real n = static_cast<Real>(s.count);
    const bool unbiased = options_.running_variance == batchnorm::VarianceEstimate::unbiased;
    const auto weight = [&](std::int64_t skipped) {
      return options_.momentum.is_cumulative() ? 1 / static_cast<Real>(1 + state.counter - skipped)
                                               : Real(options_.momentum.weight_of_new());
    };
    const auto move = [&](Expected& running, Real value, Real w, Real error) {
      if (w == 0) return;
      const Real old = running.value;
      running.value = (1 - w) * old + w * value;
      if (std::isfinite(running.value)) running.value = std::min(running.value, By::largest);
      running.error = w * error + By::stored * std::abs(running.value) + By::param_step +
                      1e-15L * (std::abs(old) + std::abs(w * value));
    };
    if (!skips(c, s)) {
      move(mean, s.mean[c], weight(skipped_mean_[c]), By::mean * std::sqrt(s.var[c]));
    }
    if (!skips_var(c, s)) {
      const Real value = unbiased ? s.var[c] * n / (n - 1) : s.var[c];
      move(var, value, weight(skipped_var_[c]), By::var * value);
    }
  }

  /// What a mean in double, rounded, may move x_hat by: it shows at large offsets in double layers.
  [[nodiscard]] static Real drift(const ModelSaved& s, std::size_t c) {
    return s.of_batch ? 4e-16L * std::abs(s.mean[c]) * s.inv_std[c] : 0;
  }
  /// With one more rounding to the scalar; numbers beyond its range may be infinite.
  [[nodiscard]] static Expected rounded(Real value, Real error) {
    const Real largest = std::is_same_v<Scalar, Eigen::half> ? 65504 : By::largest;
    if (std::isfinite(value) && std::abs(value) > largest * 0.99L) {
      return {value, HUGE_VALL};
    }
    return {value, error + By::unit * (std::abs(value) + error) + By::step};
  }

  batchnorm::Options options_;
  std::size_t channels_;
  std::vector<std::int64_t> skipped_mean_, skipped_var_;  // batches without part in a statistic
};

}  // namespace testing
