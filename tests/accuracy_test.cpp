// SPDX-License-Identifier: MIT
// The bounds on rounding errors that support/accuracy.hpp lists, for float in every loop and data
// chosen to break them: large offsets, outliers where a sum starts, equal terms whose roundings do not
// cancel; and those of the other types. A search is in thorough/accuracy_search_test.cpp.
#include "support/accuracy.hpp"

#include <algorithm>
#include <batchnorm/batchnorm.hpp>
#include <cmath>
#include <string>
#include <unsupported/Eigen/CXX11/Tensor>
#include <vector>

#include "support/catch.hpp"
#include "support/random.hpp"

using batchnorm::BatchNorm1d;
using batchnorm::ChannelAxis;
using batchnorm::Options;
using Eigen::Index;
using testing::check;
using testing::Errors;
using testing::Layout;
using testing::layouts;
using testing::set;

namespace {

using Real = long double;
using Tensor = Eigen::Tensor<float, 3, Eigen::RowMajor>;  // (N, C, L) or (N, L, C)
using Data = testing::Data<float>;

Data normal_data(Index n, double offset, double deviation, std::uint64_t seed) {
  return testing::normal_data<float>(n, offset, deviation, seed);
}

Errors errors_of(const Data& data, const Layout& layout, double eps = 1e-5) {
  return testing::errors_of<Real>(data, layout, eps);
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

TEST_CASE("a gamma of any size adds to the error of y what the center lost, and no more",
          "[accuracy]") {
  // The exact mean is 0, and so is the exact y of the last value; sums have 1e9 and 1e-7 in them.
  for (const float gamma : {1.0f, 1e9f, 1e12f}) {
    Data data;
    data.x = {1.2345678e9f, -1.2345678e9f, 1.1e-7f, -1.1e-7f, 0};
    data.dy = {0, 0, 0, 0, 0};
    data.gamma = gamma;
    INFO("gamma " << gamma);
    CHECK(errors_of(data, layouts[0]).y <= 1);
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
    if (e.worst() > worst.worst()) {
      where = "trial " + std::to_string(trial) + ", " + layout.name + ", n " + std::to_string(n);
    }
    worst.take(e);
  }
  INFO("worst at " << where);
  check(worst);
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
          worst = std::max(worst, testing::ratio(y(i, c), scaled + beta, allowed));
          worst = std::max(worst, testing::ratio(z(i, c), scaled + beta, allowed));
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
