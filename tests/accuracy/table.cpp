// SPDX-License-Identifier: MIT
// The errors of batchnorm, PyTorch and oneDNN on the same data, against the definition in 113 bits, as
// tables in Markdown. Exits 1 where batchnorm is worse than the better of the two by more than a
// rounding; in double, whose sums have no wider type, by more than eight roundings in what is summed.
#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <functional>
#include <limits>
#include <string>
#include <type_traits>
#include <vector>

#include "../benchmarks/contender.hpp"
#include "support/exact.hpp"
#include "support/random.hpp"

namespace {

using testing::Exact;
using testing::size_of;

/// What is computed with: channels of `count` values, the first of which is an outlier in some.
struct Case {
  std::string name;
  bench::Shape shape;
  std::function<double(testing::Random&, std::ptrdiff_t i)> x;  // value i of a channel
};

/// Errors at their largest, relative to what the bounds of support/accuracy.hpp are relative to; that
/// of the mean to sigma. NaN where a contender cannot do this.
struct Errors {
  double y = 0, dx = 0, dgamma = 0, dbeta = 0, mean = 0, inv_std = 0;
};
constexpr double Errors::*all_errors[] = {&Errors::y,     &Errors::dx,   &Errors::dgamma,
                                          &Errors::dbeta, &Errors::mean, &Errors::inv_std};

template <class Scalar>
constexpr bench::Type type = std::is_same_v<Scalar, double>        ? bench::Type::float64
                             : std::is_same_v<Scalar, float>       ? bench::Type::float32
                             : std::is_same_v<Scalar, Eigen::half> ? bench::Type::float16
                                                                   : bench::Type::bfloat16;

template <class Scalar>
class Problem {
 public:
  Problem(const Case& of, bench::Layout layout)
      : cell_{bench::Operation::forward, layout,       of.shape,
              bench::Order::row_major,   type<Scalar>, 1},
        e_(bench::extents(cell_)) {
    const auto size = static_cast<std::size_t>(of.shape.size());
    const auto channels = static_cast<std::size_t>(e_.channels);
    x_.resize(size), dy_.resize(size), out_.resize(size);
    std::vector<std::vector<Scalar>> x(channels), dy(channels);
    testing::Random random(1);
    each([&](std::size_t at, std::size_t c, std::ptrdiff_t i) {
      x[c].push_back(x_[at] = static_cast<Scalar>(of.x(random, i)));
      dy[c].push_back(dy_[at] = static_cast<Scalar>(random.normal(0.5, 1)));
    });
    for (std::size_t c = 0; c < channels; ++c) {
      gamma_.push_back(static_cast<float>(random.normal(0, 2)));
      beta_.push_back(static_cast<float>(random.normal(0, 2)));
      exact_.emplace_back(x[c], dy[c], gamma_[c], beta_[c], bench::eps);
    }
    mean_.assign(channels, 0), var_.assign(channels, 1);
  }

  Errors errors_of(bench::Make* make) {
    constexpr double none = std::numeric_limits<double>::quiet_NaN();
    Errors worst;
    const bench::Data data{x_.data(),    dy_.data(),   out_.data(), gamma_.data(),
                           beta_.data(), mean_.data(), var_.data()};
    for (const auto operation : {bench::Operation::forward, bench::Operation::backward}) {
      cell_.operation = operation;
      const auto contender = make(cell_, data);
      if (!contender) return {none, none, none, none, none, none};
      contender->run();
      const bench::Outcome outcome = contender->outcome();
      const auto* out = static_cast<const Scalar*>(outcome.out);
      if (operation == bench::Operation::forward) {
        judge_forward(out, outcome, worst);
      } else {
        judge_backward(out, outcome, worst);
      }
    }
    return worst;
  }

 private:
  void judge_forward(const Scalar* y, const bench::Outcome& outcome, Errors& worst) const {
    each([&](std::size_t at, std::size_t c, std::ptrdiff_t) {
      see(y[at], exact_[c].y(x_[at]), exact_[c].size_of_y(x_[at]), worst.y);
    });
    for (std::size_t c = 0; c < exact_.size(); ++c) {
      see(outcome.mean[c], exact_[c].mean, testing::root(exact_[c].var), worst.mean);
      see(outcome.inv_std[c], exact_[c].inv_std, exact_[c].inv_std, worst.inv_std);
    }
  }
  void judge_backward(const Scalar* dx, const bench::Outcome& outcome, Errors& worst) const {
    each([&](std::size_t at, std::size_t c, std::ptrdiff_t) {
      see(dx[at], exact_[c].dx(x_[at], dy_[at]), exact_[c].size_of_dx(x_[at], dy_[at]), worst.dx);
    });
    for (std::size_t c = 0; c < exact_.size(); ++c) {
      see(outcome.dgamma[c], exact_[c].sum_dy_x_hat, exact_[c].size_dy_x_hat, worst.dgamma);
      see(outcome.dbeta[c], exact_[c].sum_dy, exact_[c].size_dy, worst.dbeta);
    }
  }

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
  template <class T>
  static void see(T result, Exact exact, Exact size, double& worst) {
    const double got = static_cast<double>(result);
    const double error = static_cast<double>(size_of(static_cast<Exact>(got) - exact) / size);
    const bool is_number = std::isfinite(got) && std::isfinite(error);
    worst = is_number ? std::max(worst, error) : std::numeric_limits<double>::infinity();
  }

  bench::Cell cell_;
  bench::Extents e_;
  std::vector<Scalar> x_, dy_, out_;
  std::vector<float> gamma_, beta_, mean_, var_;
  std::vector<testing::ExactChannel<Exact>> exact_;
};

template <class Scalar>
std::vector<Case> cases() {
  const bench::Shape images{8, 16, 28, 28};
  const auto offset = [&](const char* name, double mean) {
    return Case{name, images, [=](auto& random, std::ptrdiff_t) { return random.normal(mean); }};
  };
  const auto size = [&](const char* name, double magnitude) {
    return Case{name, images,
                [=](auto& random, std::ptrdiff_t) { return magnitude * random.normal(); }};
  };
  std::vector<Case> all = {offset("mean 0", 0), offset("mean 10 sigma", 10)};
  if (sizeof(Scalar) > 2) {  // where values still differ
    all.push_back(offset("mean 1e3 sigma", 1e3));
    all.push_back(offset("mean 1e6 sigma", 1e6));
  }
  all.push_back({"one value of 1e4 sigma", images,
                 [](auto& random, std::ptrdiff_t i) { return i == 0 ? 1e4 : random.normal(); }});
  all.push_back({"two values per channel", {2, 64, 1, 1}, [](auto& random, std::ptrdiff_t) {
                   return random.normal(3);
                 }});
  all.push_back({"1,000,000 values per channel",
                 {64, 2, 125, 125},
                 [](auto& random, std::ptrdiff_t) { return random.normal(1); }});
  if (std::is_same_v<Scalar, Eigen::half>) {
    all.push_back(size("values of 1e-6", 1e-6));
    all.push_back(size("values of 1e4", 1e4));
  } else {
    all.push_back(size("values of 1e-20", 1e-20));
    all.push_back(size("values of 1e20", 1e20));
  }
  if (std::is_same_v<Scalar, double>) all.push_back(size("values of 1e200", 1e200));
  return all;
}

std::string text(double error) {
  if (std::isnan(error)) return "-";
  char s[32];
  std::snprintf(s, sizeof s, "%.1e", error);
  return s;
}

/// What batchnorm may be worse by: a rounding of what is stored, y and dx in the type, all others in
/// float or double.
template <class Scalar>
double allowance(double Errors::*what) {
  const bool in_type = what == &Errors::y || what == &Errors::dx;
  if (std::is_same_v<Scalar, double>) return in_type ? 0x1p-53 : 8 * 0x1p-53;
  return in_type ? static_cast<double>(std::numeric_limits<Scalar>::epsilon()) / 2 : 0x1p-24;
}

/// How often batchnorm is worse than the better of the others by more than that.
template <class Scalar>
int print_table(const char* name) {
  std::printf("\n%s\n\n| data | layout | y | dx | dgamma | dbeta | mean | inv_std |\n", name);
  std::printf("|---|---|---|---|---|---|---|---|\n");
  int worse = 0;
  for (const Case& one : cases<Scalar>()) {
    for (const auto layout : {bench::Layout::nchw, bench::Layout::nhwc, bench::Layout::nc}) {
      Case of = one;
      if (layout == bench::Layout::nc) of.shape = {one.shape.count(), one.shape.c};
      Problem<Scalar> problem(of, layout);
      const Errors all[] = {problem.errors_of(bench::make_ours),
                            problem.errors_of(bench::make_torch),
                            problem.errors_of(bench::make_onednn)};
      const char* layouts[] = {"NCHW", "NHWC", "(N, C)"};
      std::printf("| %s | %s |", one.name.c_str(), layouts[static_cast<int>(layout)]);
      for (const auto what : all_errors) {
        const double best = std::fmin(all[1].*what, all[2].*what);
        const bool is_worse = all[0].*what > best + allowance<Scalar>(what);
        worse += is_worse;
        std::printf(" %s%s / %s / %s |", text(all[0].*what).c_str(), is_worse ? " (worse)" : "",
                    text(all[1].*what).c_str(), text(all[2].*what).c_str());
      }
      std::printf("\n");
    }
  }
  return worse;
}

}  // namespace

int main() {
  std::printf("Largest errors against 113-bit arithmetic: batchnorm / PyTorch %s / oneDNN %s\n",
              bench::torch_version().c_str(), bench::onednn_version().c_str());
  const int worse = print_table<float>("float") + print_table<double>("double") +
                    print_table<Eigen::half>("half") + print_table<Eigen::bfloat16>("bfloat16");
  if (worse > 0) {
    std::printf(
        "\nbatchnorm is worse than the better of the two, by more than roundings, %d times\n",
        worse);
    return 1;
  }
  std::printf("\nbatchnorm is nowhere worse than the better of the two by more than roundings.\n");
}
