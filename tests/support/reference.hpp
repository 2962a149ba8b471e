// SPDX-License-Identifier: MIT
// A slow batch-normalization layer, written from the definition one value at a time in long double.
// It shares nothing with the library but the options, and is what the library is compared with.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "support/values.hpp"

namespace testing {

class ReferenceLayer {
 public:
  using Real = long double;
  using Vector = std::vector<Real>;

  ReferenceLayer(Index channels, const batchnorm::Options& options)
      : gamma(at(channels), 1),
        beta(at(channels), 0),
        grad_gamma(at(channels), 0),
        grad_beta(at(channels), 0),
        running_mean(at(channels), 0),
        running_var(at(channels), 1),
        options_(options) {}

  Vector gamma, beta, grad_gamma, grad_beta, running_mean, running_var;
  std::int64_t counter = 0;
  bool training = true;

  Vector mean, var;  // what the last forward normalized with

  Values forward(const Values& x) {
    by_batch_ = training || !options_.track_running_stats;
    if (x.count() == 1 && options_.single_value == batchnorm::SingleValue::use_running) {
      by_batch_ = false;
    }
    mean = running_mean;
    var = running_var;
    if (by_batch_) {
      measure(x);
      if (training && options_.track_running_stats) update(static_cast<Real>(x.count()));
    }
    Values y = x;
    x.each([&](Index n, Index c, Index p) {
      y(n, c, p) = static_cast<double>(gamma[at(c)] * x_hat(x, n, c, p) + beta[at(c)]);
    });
    return y;
  }

  Values backward(const Values& x, const Values& dy) {
    const Real n = static_cast<Real>(x.count());
    Vector dgamma(gamma.size(), 0), dbeta(gamma.size(), 0);
    x.each([&](Index i, Index c, Index p) {
      dbeta[at(c)] += dy(i, c, p);
      dgamma[at(c)] += dy(i, c, p) * x_hat(x, i, c, p);
    });
    Values dx = x;
    x.each([&](Index i, Index c, Index p) {
      Real d = dy(i, c, p);
      if (by_batch_) d -= dbeta[at(c)] / n + x_hat(x, i, c, p) * dgamma[at(c)] / n;
      dx(i, c, p) = static_cast<double>(gamma[at(c)] * inv_std(c) * d);
    });
    for (std::size_t c = 0; c < gamma.size(); ++c) {
      grad_gamma[c] += dgamma[c];
      grad_beta[c] += dbeta[c];
    }
    return dx;
  }

  Real inv_std(Index c) const { return 1 / std::sqrt(var[at(c)] + Real(options_.eps)); }
  Real x_hat(const Values& x, Index n, Index c, Index p) const {
    return (x(n, c, p) - mean[at(c)]) * inv_std(c);
  }

 private:
  /// Mean and population variance of the batch, in two passes.
  void measure(const Values& x) {
    const Real n = static_cast<Real>(x.count());
    mean.assign(mean.size(), 0);
    var.assign(var.size(), 0);
    x.each([&](Index i, Index c, Index p) { mean[at(c)] += x(i, c, p) / n; });
    x.each([&](Index i, Index c, Index p) {
      const Real d = x(i, c, p) - mean[at(c)];
      var[at(c)] += d * d / n;
    });
  }

  void update(Real n) {
    const bool unbiased = options_.running_variance == batchnorm::VarianceEstimate::unbiased;
    const Real w = options_.momentum.is_cumulative() ? Real(1) / static_cast<Real>(counter + 1)
                                                     : Real(options_.momentum.weight_of_new());
    for (std::size_t c = 0; c < mean.size(); ++c) {
      running_mean[c] = (1 - w) * running_mean[c] + w * mean[c];
      if (unbiased && n == 1) continue;
      running_var[c] = (1 - w) * running_var[c] + w * (unbiased ? var[c] * n / (n - 1) : var[c]);
    }
    ++counter;
  }

  batchnorm::Options options_;
  bool by_batch_ = true;
};

}  // namespace testing
