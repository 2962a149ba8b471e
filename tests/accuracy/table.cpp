// SPDX-License-Identifier: MIT
// The errors of batchnorm, PyTorch and oneDNN on the same data, against the definition in
// __float128, as a table in Markdown. Exits 1 where batchnorm is worse than the better of the two by
// more than a rounding.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "../benchmarks/contender.hpp"
#include "support/random.hpp"

namespace {

__extension__ using Exact = __float128;  // 113 bits

double size_of(Exact v) { return static_cast<double>(v < 0 ? -v : v); }

/// Square root of a double's precision, and twice that by a step of Newton's.
Exact root(Exact v) {
  const Exact first = std::sqrt(static_cast<double>(v));
  return (first + v / first) / 2;
}

/// What is computed with: channels of `count` values, the first of which is an outlier in some.
struct Case {
  std::string name;
  bench::Shape shape;
  std::function<double(testing::Random&, std::ptrdiff_t i)> x;  // value i of a channel
};

/// Errors at their largest, relative to what README.md's bounds are relative to.
struct Errors {
  double y = 0, dx = 0, dgamma = 0, dbeta = 0;
};

class Problem {
 public:
  Problem(const Case& of, bench::Layout layout)
      : cell_{bench::Operation::forward, layout, of.shape}, e_(bench::extents(cell_)) {
    const auto size = static_cast<std::size_t>(of.shape.size());
    const auto channels = static_cast<std::size_t>(e_.channels);
    x_.resize(size), dy_.resize(size), out_.resize(size);
    testing::Random random(1);
    each([&](std::size_t at, std::size_t, std::ptrdiff_t i) {
      x_[at] = static_cast<float>(of.x(random, i));
      dy_[at] = static_cast<float>(random.normal(0.5, 1));
    });
    for (std::size_t c = 0; c < channels; ++c) {
      gamma_.push_back(static_cast<float>(random.normal(0, 2)));
      beta_.push_back(static_cast<float>(random.normal(0, 2)));
    }
    mean_.assign(channels, 0), var_.assign(channels, 1);
    measure();
  }

  /// The errors of a contender, or NaN where it cannot do this.
  Errors errors_of(bench::Make* make) {
    Errors worst;
    const bench::Data data{x_.data(),    dy_.data(),   out_.data(), gamma_.data(),
                           beta_.data(), mean_.data(), var_.data()};
    const auto result = [&](bench::Operation operation) {
      cell_.operation = operation;
      const auto contender = make(cell_, data);
      contender->run();
      auto outcome = contender->outcome();
      const auto* out = static_cast<const float*>(outcome.out);
      got_.assign(out, out + x_.size());
      return outcome;
    };
    result(bench::Operation::forward);
    each([&](std::size_t at, std::size_t c, std::ptrdiff_t) {
      const Exact scaled = gamma_[c] * x_hat(at, c), y = scaled + beta_[c];
      const double size = std::max({1.0, size_of(scaled), size_of(beta_[c])});
      see(got_[at], y, size, worst.y);
    });
    const bench::Outcome outcome = result(bench::Operation::backward);
    const Exact n = static_cast<Exact>(cell_.shape.count());
    each([&](std::size_t at, std::size_t c, std::ptrdiff_t) {
      const Channel& s = of_[c];
      const Exact factor = gamma_[c] * s.inv_std;
      const Exact dx = factor * (dy_[at] - s.dy / n - x_hat(at, c) * s.dy_x_hat / n);
      const double terms = std::abs(dy_[at]) + s.size_dy / static_cast<double>(n) +
                           size_of(x_hat(at, c)) * s.size_dy_x_hat / static_cast<double>(n);
      see(got_[at], dx, size_of(factor) * terms, worst.dx);
    });
    for (std::size_t c = 0; c < of_.size(); ++c) {
      see(outcome.dgamma[c], of_[c].dy_x_hat, of_[c].size_dy_x_hat, worst.dgamma);
      see(outcome.dbeta[c], of_[c].dy, of_[c].size_dy, worst.dbeta);
    }
    return worst;
  }

 private:
  struct Channel {
    Exact mean = 0, var = 0, inv_std = 0, dy = 0, dy_x_hat = 0;
    double size_dy = 0, size_dy_x_hat = 0;
  };

  /// Calls f(place, channel, i) for all values, i counting those of a channel.
  template <class F>
  void each(const F& f) const {
    std::size_t at = 0;
    for (std::ptrdiff_t o = 0; o < e_.outer; ++o) {
      for (std::ptrdiff_t c = 0; c < e_.channels; ++c) {
        for (std::ptrdiff_t i = 0; i < e_.inner; ++i) {
          f(at++, static_cast<std::size_t>(c), o * e_.inner + i);
        }
      }
    }
  }
  Exact x_hat(std::size_t at, std::size_t c) const {
    return (x_[at] - of_[c].mean) * of_[c].inv_std;
  }
  void measure() {
    of_.resize(static_cast<std::size_t>(e_.channels));
    const Exact n = static_cast<Exact>(cell_.shape.count());
    each([&](std::size_t at, std::size_t c, std::ptrdiff_t) { of_[c].mean += x_[at]; });
    for (Channel& s : of_) s.mean /= n;
    each([&](std::size_t at, std::size_t c, std::ptrdiff_t) {
      const Exact d = x_[at] - of_[c].mean;
      of_[c].var += d * d;
    });
    for (Channel& s : of_) s.inv_std = 1 / root(s.var / n + Exact(bench::eps));
    each([&](std::size_t at, std::size_t c, std::ptrdiff_t) {
      Channel& s = of_[c];
      const Exact product = dy_[at] * x_hat(at, c);
      s.dy += dy_[at];
      s.dy_x_hat += product;
      s.size_dy += std::abs(static_cast<double>(dy_[at]));
      s.size_dy_x_hat += size_of(product);
    });
  }
  static void see(float got, Exact exact, double size, double& worst) {
    const double error = size_of(Exact(got) - exact) / size;
    if (got != got || error != error) worst = std::numeric_limits<double>::infinity();
    worst = std::max(worst, error);
  }

  bench::Cell cell_;
  bench::Extents e_;
  std::vector<float> x_, dy_, out_, got_, gamma_, beta_, mean_, var_;
  std::vector<Channel> of_;
};

std::vector<Case> cases() {
  const bench::Shape images{8, 16, 28, 28};
  const auto offset = [&](const char* name, double mean) {
    return Case{name, images, [=](auto& random, std::ptrdiff_t) { return random.normal(mean); }};
  };
  return {offset("mean 0", 0),
          offset("mean 10 sigma", 10),
          offset("mean 1e3 sigma", 1e3),
          offset("mean 1e6 sigma", 1e6),
          {"one value of 1e4 sigma", images,
           [](auto& random, std::ptrdiff_t i) { return i == 0 ? 1e4 : random.normal(); }},
          {"two values per channel",
           {2, 64, 1, 1},
           [](auto& random, std::ptrdiff_t) { return random.normal(3); }},
          {"1,000,000 values per channel",
           {64, 2, 125, 125},
           [](auto& random, std::ptrdiff_t) { return random.normal(1); }},
          {"values of 1e-20", images,
           [](auto& random, std::ptrdiff_t) { return random.normal() * 1e-20; }},
          {"values of 1e20", images,
           [](auto& random, std::ptrdiff_t) { return random.normal() * 1e20; }}};
}

std::string text(double error) {
  char s[32];
  std::snprintf(s, sizeof s, "%.1e", error);
  return s;
}

}  // namespace

int main() {
  std::printf(
      "Largest errors against 113-bit arithmetic, float: batchnorm / PyTorch %s / oneDNN %s\n\n",
      bench::torch_version().c_str(), bench::onednn_version().c_str());
  std::printf("| data | layout | y | dx | dgamma | dbeta |\n|---|---|---|---|---|---|\n");
  constexpr double rounding = 0x1p-24;  // of a result that is stored in float
  int worse = 0;
  for (const Case& one : cases()) {
    for (const auto layout : {bench::Layout::nchw, bench::Layout::nhwc}) {
      Problem problem(one, layout);
      const Errors all[] = {problem.errors_of(bench::make_ours),
                            problem.errors_of(bench::make_torch),
                            problem.errors_of(bench::make_onednn)};
      std::printf("| %s | %s |", one.name.c_str(), layout == bench::Layout::nchw ? "NCHW" : "NHWC");
      for (double Errors::*what : {&Errors::y, &Errors::dx, &Errors::dgamma, &Errors::dbeta}) {
        const double best = std::min(all[1].*what, all[2].*what);
        const bool is_worse = all[0].*what > best + rounding;
        worse += is_worse;
        std::printf(" %s%s / %s / %s |", text(all[0].*what).c_str(), is_worse ? " (worse)" : "",
                    text(all[1].*what).c_str(), text(all[2].*what).c_str());
      }
      std::printf("\n");
    }
  }
  if (worse > 0) {
    std::printf(
        "\nbatchnorm is worse than the better of the two, by more than a rounding, %d times\n",
        worse);
    return 1;
  }
  std::printf(
      "\nbatchnorm is nowhere worse than the better of the two by more than a rounding, 6e-8.\n");
}
