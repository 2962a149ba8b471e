// SPDX-License-Identifier: MIT
// The bounds on rounding errors in float, against long double, for every loop and data chosen to
// break them: large offsets, outliers where a sum starts, equal terms whose roundings do not cancel.
// With sigma the deviation of a channel and h half an ulp where a result is stored in float:
//   |mean - exact| <= 1e-7 sigma + half an ulp of the mean        |var - exact| <= 1e-6 var + h
//   |y - exact| <= 6e-7 max(1, |gamma * x_hat|, |beta|)
//   |dbeta - exact| <= 5e-7 sum |dy| + h             |dgamma - exact| <= 5e-7 sum |dy * x_hat| + h

#include <algorithm>
#include <batchnorm/batchnorm.hpp>
#include <cmath>
#include <functional>
#include <limits>
#include <string>
#include <unsupported/Eigen/CXX11/Tensor>
#include <utility>
#include <vector>

#include "support/catch.hpp"
#include "support/random.hpp"

using batchnorm::BatchNorm1d;
using batchnorm::ChannelAxis;
using batchnorm::Momentum;
using batchnorm::Options;
using batchnorm::VarianceEstimate;
using Eigen::Index;

namespace {

using Real = long double;
using Tensor = Eigen::Tensor<float, 3, Eigen::RowMajor>;  // (N, C, L) or (N, L, C)
using Channel = std::vector<float>;

/// How n values of a channel lie in memory.
struct Layout {
  const char* name;
  ChannelAxis axis;
  Index run;       // values of a channel side by side; 0: all of them
  Index channels;  // side by side, some fill a vector and some are left over
};
constexpr Layout layouts[] = {{"one run", ChannelAxis::first, 0, 2},
                              {"short runs", ChannelAxis::first, 7, 2},
                              {"runs of 49", ChannelAxis::first, 49, 2},
                              {"channels side by side", ChannelAxis::last, 1, 23},
                              {"two channels side by side", ChannelAxis::last, 1, 2}};

/// The errors of one layer in units of what is promised, at their largest.
struct Errors {
  double mean = 0, var = 0, y = 0, dbeta = 0, dgamma = 0;

  void take(const Errors& e) {
    mean = std::max(mean, e.mean);
    var = std::max(var, e.var);
    y = std::max(y, e.y);
    dbeta = std::max(dbeta, e.dbeta);
    dgamma = std::max(dgamma, e.dgamma);
  }
};

double ratio(Real error, Real allowed) {
  const double r = error == 0 ? 0 : static_cast<double>(std::abs(error) / allowed);
  return r <= std::numeric_limits<double>::max() ? r : std::numeric_limits<double>::infinity();
}

/// Half the distance to the next float.
Real half_ulp(Real v) {
  int exponent;
  static_cast<void>(std::frexp(std::abs(v), &exponent));
  return std::ldexp(Real(1), std::max(exponent, -125) - 25);
}

struct Data {
  Channel x, dy;
  float gamma = 1, beta = 0;
};

/// Errors of a layer all of whose channels hold the data.
Errors errors_of(const Data& data, const Layout& layout, double eps = 1e-5) {
  const Index run = layout.run == 0 ? static_cast<Index>(data.x.size()) : layout.run;
  const Index samples = static_cast<Index>(data.x.size()) / run;
  const std::size_t n = static_cast<std::size_t>(samples * run);
  const bool last = layout.axis == ChannelAxis::last;
  const Index channels = layout.channels;

  Tensor x = last ? Tensor(samples, run, channels) : Tensor(samples, channels, run), dy = x;
  const auto element = [&](Tensor& t, std::size_t i, Index c) -> float& {
    const Index s = static_cast<Index>(i) / run, p = static_cast<Index>(i) % run;
    return last ? t(s, p, c) : t(s, c, p);
  };
  for (Index c = 0; c < channels; ++c) {
    for (std::size_t i = 0; i < n; ++i) {
      element(x, i, c) = data.x[i];
      element(dy, i, c) = data.dy[i];
    }
  }
  Options options;
  options.channel_axis = layout.axis;
  options.eps = eps;
  options.momentum = Momentum::weight_of_new(1);
  options.running_variance = VarianceEstimate::population;
  BatchNorm1d<float> layer(channels, options);
  layer.gamma().setConstant(data.gamma);
  layer.beta().setConstant(data.beta);
  Tensor y = layer.forward(x);
  static_cast<void>(layer.backward(x, dy));

  // The same in long double, which holds a sum of ten million floats to some 1e-13 of it.
  const Real count = static_cast<Real>(n);
  Real mean = 0, rest = 0, var = 0, sum_dy = 0, size_dy = 0, sum_dy_x_hat = 0, size_dy_x_hat = 0;
  for (std::size_t i = 0; i < n; ++i) mean += data.x[i] / count;
  for (std::size_t i = 0; i < n; ++i) rest += data.x[i] - mean;
  mean += rest / count;
  for (std::size_t i = 0; i < n; ++i) var += (data.x[i] - mean) * (data.x[i] - mean);
  var /= count;
  const Real inv_std = 1 / std::sqrt(var + Real(eps));
  Errors worst;
  for (std::size_t i = 0; i < n; ++i) {
    const Real x_hat = (data.x[i] - mean) * inv_std;
    sum_dy += data.dy[i];
    size_dy += std::abs(data.dy[i]);
    sum_dy_x_hat += data.dy[i] * x_hat;
    size_dy_x_hat += std::abs(data.dy[i] * x_hat);
    const Real scaled = data.gamma * x_hat, exact = scaled + data.beta;
    const Real size = std::max({Real(1), std::abs(scaled), std::abs(Real(data.beta))});
    for (Index c = 0; c < channels; ++c) {
      worst.y = std::max(worst.y, ratio(element(y, i, c) - exact, 6e-7L * size));
    }
  }
  for (Index c = 0; c < channels; ++c) {
    Errors e;
    e.mean = ratio(layer.saved().mean[c] - mean, 1e-7L * std::sqrt(var) + half_ulp(mean));
    const Real stored = std::min(var, Real(std::numeric_limits<float>::max()));
    e.var = ratio(layer.running_var()[c] - stored, 1e-6L * var + half_ulp(var));
    e.dbeta = ratio(layer.grad_beta()[c] - sum_dy, 5e-7L * size_dy + half_ulp(sum_dy));
    e.dgamma =
        ratio(layer.grad_gamma()[c] - sum_dy_x_hat, 5e-7L * size_dy_x_hat + half_ulp(sum_dy_x_hat));
    worst.take(e);
  }
  return worst;
}

void check(const Errors& e) {
  CHECK(e.mean <= 1);
  CHECK(e.var <= 1);
  CHECK(e.y <= 1);
  CHECK(e.dbeta <= 1);
  CHECK(e.dgamma <= 1);
}

/// Normal numbers, `offset` deviations from 0, and a random gradient.
Data normal_data(Index n, double offset, double deviation, std::uint64_t seed) {
  testing::Random random(seed);
  Data data;
  for (Index i = 0; i < n; ++i) {
    data.x.push_back(static_cast<float>(deviation * random.normal(offset)));
    data.dy.push_back(static_cast<float>(random.normal()));
  }
  return data;
}

/// Calls f(i) for each value.
void set(Channel& values, const std::function<double(Index)>& f) {
  Index i = 0;
  for (float& v : values) v = static_cast<float>(f(i++));
}

/// The largest errors of layers with random data, gammas and betas, and where they were; of
/// deviations from 10^low to 10^high.
struct Found {
  Errors worst;
  std::string where;
};
Found search(int trials, std::uint64_t seed, double low, double high) {
  testing::Random random(seed);
  const auto power = [&](double limit) { return std::pow(10, random.uniform(-limit, limit)); };
  Errors worst;
  std::string where = "nowhere";
  for (int trial = 0; trial < trials; ++trial) {
    const Layout& layout = layouts[random.bits() % 5];
    const Index n = 49 + static_cast<Index>(std::exp(random.uniform(0, 8)));
    const double offset = std::pow(10, random.uniform(-3, 6)),
                 deviation = std::pow(10, random.uniform(low, high));
    Data data = normal_data(n, random.bits() % 3 ? offset : 0, deviation, random.bits());
    const double log_normal = random.uniform(0.5, 3);
    if (random.bits() % 4 == 0) {
      set(data.x, [&](Index) { return deviation * std::exp(log_normal * random.normal()); });
    }
    if (random.bits() % 4 == 0)
      set(data.x, [&](Index i) { return deviation * static_cast<double>(i); });
    if (random.bits() % 4 == 0) {
      set(data.dy, [&](Index i) { return data.x[std::size_t(i)] > 0 ? 0.1 : -0.7; });
    }
    data.gamma = static_cast<float>(random.normal() * power(4));
    data.beta = random.bits() % 2 ? 0 : static_cast<float>(random.normal() * power(4));
    const Errors e = errors_of(data, layout, random.bits() % 2 ? 1e-5 : 1e-12);
    if (std::max({e.mean, e.var, e.y, e.dbeta, e.dgamma}) >
        std::max({worst.mean, worst.var, worst.y, worst.dbeta, worst.dgamma})) {
      where = "trial " + std::to_string(trial) + ", " + layout.name + ", n " + std::to_string(n) +
              ", gamma " + std::to_string(data.gamma) + ", beta " + std::to_string(data.beta);
    }
    worst.take(e);
  }
  return {worst, where};
}

}  // namespace

TEST_CASE("the promises hold at offsets up to a million sigma, in every layout", "[accuracy]") {
  for (const Layout& layout : layouts) {
    for (const Index n : {2, 3, 16, 49, 1000, 2048, 30011}) {
      if (n < layout.run) continue;
      for (const double offset : {0.0, 1.0, -1e3, 1e6}) {
        if (n < 16 && offset > 1e3) continue;  // the deviation of few may be much less than 1
        for (const double deviation : {1.0, 1e-3, 123.0}) {
          INFO(layout.name << ", n " << n << ", offset " << offset << " sigma of " << deviation);
          const auto seed = static_cast<std::uint64_t>(n);
          check(errors_of(normal_data(n, offset, deviation, seed), layout, 1e-10));
        }
      }
    }
  }
}

TEST_CASE("the promises hold for a million values", "[accuracy]") {
  for (const Layout& layout : layouts) {
    if (layout.channels > 2) continue;
    for (const double offset : {0.0, 1e6}) {
      INFO(layout.name << ", offset " << offset << " sigma");
      check(errors_of(normal_data(1000003, offset, 1, 1), layout));
    }
  }
}

TEST_CASE("the promises hold for ten million values", "[accuracy]") {
  Data data = normal_data(100000, 1e6, 1, 2);
  for (int doubled = 0; doubled < 100; ++doubled) {  // the same hundred times
    data.x.insert(data.x.end(), data.x.begin(), data.x.begin() + 100000);
  }
  data.x.resize(10000000);
  data.dy.assign(10000000, 0.1f);
  check(errors_of(data, {"one run", ChannelAxis::first, 0, 1}));
}

TEST_CASE("outliers where a sum or a block starts do no harm", "[accuracy]") {
  for (const Layout& layout : layouts) {
    for (const Index n : {49, 1000, 5000}) {
      for (const Index every : {Index(1) << 20, Index(7), Index(16), Index(32), Index(512)}) {
        for (const double size : {30.0, 1e3, 1e6}) {
          INFO(layout.name << ", n " << n << ", outliers of " << size << " every " << every);
          Data data = normal_data(n, 0, 1, 3);
          set(data.x, [&](Index i) {
            return i % every == 0 ? size : static_cast<double>(data.x[std::size_t(i)]);
          });
          check(errors_of(data, layout));
        }
      }
    }
  }
}

TEST_CASE("equal gradients, whose roundings do not cancel, sum up within the promise",
          "[accuracy]") {
  testing::Random random(4);
  for (const Layout& layout : layouts) {
    for (const Index n : {49, 98, 1024, 4999}) {
      for (int k = 0; k < 12; ++k) {
        const double value = k == 0 ? double{0.1f} : k == 1 ? 1.0 / 3 : random.uniform(0.5, 1);
        INFO(layout.name << ", n " << n << ", dy " << value);
        Data data = normal_data(n, 0, 1, 5);
        data.dy.assign(data.dy.size(), static_cast<float>(value));
        check(errors_of(data, layout));
        // and with terms dy * x_hat all alike
        const double high = random.normal(), low = random.normal();
        set(data.x, [&](Index i) { return i % 2 ? high : low; });
        set(data.dy, [&](Index i) { return (i % 2 ? high > low : low > high) ? value : -value; });
        check(errors_of(data, layout));
      }
    }
  }
}

TEST_CASE("gradients below float's normal numbers sum up within the promise", "[accuracy]") {
  // dy is 21 times the smallest float, and x_hat -0.577: a product in float would be off by 1 %.
  for (const Layout& layout : layouts) {
    INFO(layout.name);
    Data data = normal_data(4998, 0, 1, 5);
    set(data.x, [](Index i) { return i % 4 == 0 ? 1 : 0; });
    set(data.dy, [](Index i) { return i % 4 == 0 ? 0 : 21 * 0x1p-149; });
    check(errors_of(data, layout));
  }
}

TEST_CASE("two values in every pattern keep the promises", "[accuracy]") {
  // Deviations from the mean are all alike on either side of it, and so are their roundings.
  testing::Random random(6);
  Errors worst;
  std::string where = "nowhere";
  for (int trial = 0; trial < 1500; ++trial) {
    const Layout& layout = layouts[random.bits() % 5];
    const Index n = 49 + static_cast<Index>(random.bits() % 3000);
    Data data = normal_data(n, 0, 1, random.bits());
    const double a = random.normal(), b = random.normal(), c = random.normal(), d = random.normal();
    const Index period = Index(1) << (random.bits() % 6),
                on = 1 + static_cast<Index>(random.bits() % 20);
    const bool blocks = random.bits() % 2 == 0;
    const auto first = [&](Index i) { return blocks ? i / on % 2 == 0 : i % period == 0; };
    set(data.x, [&](Index i) { return first(i) ? a : b; });
    if (trial % 2) set(data.dy, [&](Index i) { return first(i) ? c : d; });
    const Errors e = errors_of(data, layout);
    if (std::max({e.mean, e.var, e.y, e.dbeta, e.dgamma}) >
        std::max({worst.mean, worst.var, worst.y, worst.dbeta, worst.dgamma})) {
      where = "trial " + std::to_string(trial) + ", " + layout.name + ", n " + std::to_string(n);
    }
    worst.take(e);
  }
  INFO("worst at " << where);
  check(worst);
}

TEST_CASE("random values of all sizes, gammas and betas keep the promises", "[accuracy]") {
  const Found found = search(1500, 7, -3, 3);
  INFO("worst at " << found.where);
  check(found.worst);
}

TEST_CASE("a long search finds nothing beyond the promises", "[.release]") {
  for (const auto& [low, high] : {std::pair(-3.0, 3.0), {-44.0, -18.0}, {-18.0, 17.0}}) {
    const Found found = search(30000, 11, low, high);
    const Errors& e = found.worst;
    WARN("deviations of 1e" << low << " to 1e" << high
                            << ", errors as parts of what is promised: y " << e.y << ", mean "
                            << e.mean << ", var " << e.var << ", dbeta " << e.dbeta << ", dgamma "
                            << e.dgamma << "; the worst at " << found.where);
    check(e);
  }
}

TEST_CASE("eval mode is within the promise of the exact function of the stored statistics",
          "[accuracy]") {
  testing::Random random(8);
  using Matrix = Eigen::MatrixXf;
  using Rows = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  const Index n = 500, channels = 23;
  for (const double offset : {0.0, 1.0, 1e3, 1e6}) {
    for (const double magnitude : {1.0, 1e-4, 1e4}) {
      BatchNorm1d<float> layer(channels);
      layer.eval();
      Matrix x(n, channels);
      for (Index c = 0; c < channels; ++c) {
        const double deviation = magnitude * random.uniform(0.5, 2);
        layer.running_mean()[c] = static_cast<float>(offset * deviation);
        layer.running_var()[c] = static_cast<float>(deviation * deviation);
        layer.gamma()[c] = static_cast<float>(std::pow(10, random.uniform(-3, 3)));
        layer.beta()[c] = static_cast<float>(random.normal() * std::pow(10, random.uniform(-3, 3)));
        for (Index i = 0; i < n; ++i) {
          x(i, c) = static_cast<float>(deviation * random.normal(offset));
        }
      }
      const Matrix y = layer.forward(x);
      const Rows z = layer.forward(Rows(x));
      double worst = 0;
      for (Index c = 0; c < channels; ++c) {
        const Real inv_std = 1 / std::sqrt(Real(layer.running_var()[c]) + Real(1e-5));
        for (Index i = 0; i < n; ++i) {
          const Real scaled =
              Real(layer.gamma()[c]) * ((Real(x(i, c)) - Real(layer.running_mean()[c])) * inv_std);
          const Real beta = layer.beta()[c];
          const Real allowed = 6e-7L * std::max({Real(1), std::abs(scaled), std::abs(beta)});
          worst = std::max(worst, ratio(y(i, c) - (scaled + beta), allowed));
          worst = std::max(worst, ratio(z(i, c) - (scaled + beta), allowed));
        }
      }
      INFO("offset " << offset << " sigma, magnitude " << magnitude);
      CHECK(worst <= 1);
    }
  }
}

TEMPLATE_TEST_CASE("half and bfloat16 give the float layer's results, rounded once", "[accuracy]",
                   Eigen::half, Eigen::bfloat16) {
  testing::Random random(9);
  for (const auto axis : {ChannelAxis::first, ChannelAxis::last}) {
    Options options;
    options.channel_axis = axis;
    using Narrow = Eigen::Tensor<TestType, 3, Eigen::RowMajor>;
    const bool last = axis == ChannelAxis::last;
    Narrow x = last ? Narrow(40, 9, 21) : Narrow(40, 21, 9), dy = x;
    random.fill(x, 3, 2);
    random.fill(dy, 0.5, 1);
    const Tensor wide_x = x.template cast<float>(), wide_dy = dy.template cast<float>();
    BatchNorm1d<TestType> layer(21, options);
    BatchNorm1d<float> wide(21, options);
    random.fill(layer.gamma());
    random.fill(layer.beta());
    wide.gamma() = layer.gamma();
    wide.beta() = layer.beta();
    for (const bool training : {true, false}) {
      layer.train(training);
      wide.train(training);
      const Narrow y = layer.forward(x), dx = layer.backward(x, dy);
      const Narrow wide_y = wide.forward(wide_x).template cast<TestType>();
      const Narrow wide_dx = wide.backward(wide_x, wide_dy).template cast<TestType>();
      // The two may add up in different blocks. Where that moves a float over the middle of two
      // narrow values the rounded ones are neighbours; for all others they are the same.
      Index different = 0;
      double worst = 0;
      const auto compare = [&](const Narrow& got, const Narrow& expected) {
        for (Index i = 0; i < got.size(); ++i) {
          const double a = static_cast<double>(got.data()[i]);
          const double b = static_cast<double>(expected.data()[i]);
          if (a == b) continue;
          ++different;
          worst = std::max(worst, std::abs(a - b) / std::max(std::abs(b), 1e-3));
        }
      };
      compare(y, wide_y);
      compare(dx, wide_dx);
      CHECK(different <= 2 * y.size() / 100);
      CHECK(worst <= (std::is_same_v<TestType, Eigen::half> ? 0x1p-10 : 0x1p-7));
      CHECK(layer.running_mean().isApprox(wide.running_mean(), 1e-6f));
      CHECK(layer.running_var().isApprox(wide.running_var(), 2e-6f));
      CHECK(layer.grad_gamma().isApprox(wide.grad_gamma(), 1e-6f));
      CHECK(layer.grad_beta().isApprox(wide.grad_beta(), 1e-6f));
    }
  }
}

TEST_CASE("a million halves per channel add up without loss", "[accuracy]") {
  // A sum of bfloat16 would stall at 256 ones, of halves at 2048.
  const auto check_sum = [](auto one) {
    using Scalar = decltype(one);
    Eigen::Matrix<Scalar, Eigen::Dynamic, 1> x(1000000);
    for (Index i = 0; i < x.size(); ++i) x[i] = Scalar(i % 4 == 0 ? 3.f : 1.f);
    BatchNorm1d<Scalar> layer(1);
    const auto y = layer.forward(x);
    // mean (3 + 3 * 1) / 4 = 1.5, variance (1.5^2 + 3 * 0.5^2) / 4 = 0.75
    CHECK(layer.saved().mean[0] == Approx(1.5).epsilon(1e-7));
    CHECK(layer.saved().inv_std[0] == Approx(1 / std::sqrt(0.75 + 1e-5)).epsilon(1e-6));
    CHECK(static_cast<float>(y[0]) == static_cast<float>(Scalar(1.7320393f)));
    x.setConstant(one);
    static_cast<void>(layer.backward(x, x));
    CHECK(layer.grad_beta()[0] == 1e6f);
  };
  check_sum(Eigen::half(1));
  check_sum(Eigen::bfloat16(1));
}

TEST_CASE("double layers are right to a few roundings", "[accuracy]") {
  // Some 1e3 additions about the mean, with a rounding of 1.1e-16 each, of values up to 5 sigma.
  testing::Random random(10);
  for (const double offset : {0.0, 1e3, 1e6}) {
    Eigen::MatrixXd x(1000, 23);
    random.fill(x, offset, 1);
    BatchNorm1d<double> layer(23);
    const Eigen::MatrixXd y = layer.forward(x);
    double worst = 0;
    for (Index c = 0; c < 23; ++c) {
      Real mean = 0, var = 0;
      for (Index i = 0; i < 1000; ++i) mean += Real(x(i, c)) / 1000;
      for (Index i = 0; i < 1000; ++i) var += (x(i, c) - mean) * (x(i, c) - mean) / 1000;
      for (Index i = 0; i < 1000; ++i) {
        const Real exact = (x(i, c) - mean) / std::sqrt(var + Real(1e-5));
        worst = std::max(worst, static_cast<double>(std::abs(y(i, c) - exact)));
      }
    }
    INFO("offset " << offset);
    CHECK(worst <= 1e-13 + 4e-16 * offset);  // and of the mean, half an ulp of the offset
  }
}

TEST_CASE("an outlier in the middle, where sums start, costs a double layer no digits",
          "[accuracy]") {
  // About the outlier the sum of squares is n times the variance, and so are its roundings.
  constexpr Index n = 100001;
  Eigen::MatrixXd x(n, 1);
  testing::Random random(12);
  random.fill(x, 0, 1e-3);
  x(n / 2, 0) = 1;
  Options options;
  options.eps = 1e-30;
  BatchNorm1d<double> layer(1, options);
  static_cast<void>(layer.forward(x));
  Real mean = 0, var = 0;
  for (Index i = 0; i < n; ++i) mean += Real(x(i, 0)) / n;
  for (Index i = 0; i < n; ++i) var += (x(i, 0) - mean) * (x(i, 0) - mean) / n;
  const Real exact = 1 / std::sqrt(var);
  CHECK(std::abs(layer.saved().inv_std[0] / static_cast<double>(exact) - 1) <= 1e-12);
}
