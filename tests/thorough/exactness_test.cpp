// SPDX-License-Identifier: MIT
// Data whose sums are exact in any order: small whole numbers times powers of two. Whatever the
// layout, the scalar, the size and the number of threads, only one result is then right. What is
// expected comes from sums of 64-bit integers.
#define EIGEN_USE_THREADS

#include <algorithm>
#include <array>
#include <batchnorm/batchnorm.hpp>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <type_traits>
#include <vector>

#include "support/catch.hpp"
#include "support/devices.hpp"
#include "support/layouts.hpp"
#include "support/random.hpp"

using batchnorm::BatchNorm;
using batchnorm::Momentum;
using batchnorm::Options;
using batchnorm::VarianceEstimate;
using Eigen::Index;
using testing::Extents;
using testing::Strides;

namespace {

using Real = long double;

std::size_t at(Index i) { return static_cast<std::size_t>(i); }

/// How far a double is from a number, in units in the last place of that number.
double ulps(double got, Real exact) {
  if (static_cast<Real>(got) == exact) return 0;
  const Real ulp = std::ldexp(Real(1), std::ilogb(exact) - 52);
  const auto distance = static_cast<double>(std::abs(static_cast<Real>(got) - exact) / ulp);
  return distance <= std::numeric_limits<double>::max() ? distance : HUGE_VAL;
}

/// The largest distance in ulps of a double; a float must be the number, rounded once.
class Distance {
 public:
  void see(double got, Real exact) { worst = std::max(worst, ulps(got, exact)); }
  void see(float got, Real exact) {
    if (!(got == static_cast<float>(exact))) worst = HUGE_VAL;
  }
  double worst = 0;
};

/// Memory for an argument; places between its values hold NaN, which must not be read.
template <class Scalar>
std::vector<Scalar> memory(const Strides& strides, const Extents& e) {
  return std::vector<Scalar>(at(strides.room(e)), std::numeric_limits<Scalar>::quiet_NaN());
}

/// x = (offset + k) * 2^exponent with k in [1, 16]: as large an offset as the scalar holds exactly.
struct Grid {
  Index offset;
  int exponent;
};
template <class Scalar>
Grid grid_of(Index c) {
  const int third = static_cast<int>(c % 3), step = static_cast<int>(c * 7 % 41);
  if (std::is_same_v<Scalar, Eigen::half>) return {third * 500, step % 11 - 8};
  if (std::is_same_v<Scalar, Eigen::bfloat16>) return {third * 56, step - 20};
  if (std::is_same_v<Scalar, float>) return {third * 500000, step - 20};
  return {third * (Index(1) << 40), step - 20};
}

struct IntegerSums {
  std::int64_t k = 0, k2 = 0;
};

template <class Scalar, int spatial, class Layout>
void check_statistics(const Layout& layout, const Extents& e, const std::vector<int>& threads) {
  const Strides strides = layout.strides(e);
  std::vector<Scalar> x = memory<Scalar>(strides, e), y = x;
  std::vector<IntegerSums> sums(at(e.channels));
  testing::Random random(static_cast<std::uint64_t>(e.size()));
  std::vector<std::array<Scalar, 17>> values(at(e.channels));  // x by channel and k
  for (Index c = 0; c < e.channels; ++c) {
    const Grid grid = grid_of<Scalar>(c);
    for (Index k = 1; k <= 16; ++k) {
      values[at(c)][at(k)] =
          static_cast<Scalar>(std::ldexp(static_cast<double>(grid.offset + k), grid.exponent));
    }
  }
  std::uint64_t bits = 1;  // a draw gives 15 numbers
  strides.each(e, [&](Index place, Index, Index c) {
    if (bits == 1) bits = random.bits() >> 4 | std::uint64_t(1) << 60;
    const auto k = static_cast<std::int64_t>(bits % 16) + 1;
    bits /= 16;
    sums[at(c)].k += k;
    sums[at(c)].k2 += k * k;
    x[at(place)] = values[at(c)][at(k)];
  });
  const std::int64_t n = e.count();
  for (const int count : threads) {
    for (const auto estimate : {VarianceEstimate::population, VarianceEstimate::unbiased}) {
      if (count > 0 && estimate == VarianceEstimate::unbiased) continue;
      INFO(layout.name << ", " << e.channels << " channels of " << n << " values, " << count
                       << " threads");
      Options options;
      options.channel_axis = layout.axis;
      options.momentum = Momentum::weight_of_new(1);
      options.running_variance = estimate;
      BatchNorm<Scalar, spatial> layer(e.channels, options);
      if (count > 0) layer.set_device(&testing::device_of(count).device);
      layout.forward(layer, {x.data(), e}, {y.data(), e});
      Distance mean, var, saved_mean, saved_inv_std;
      for (Index c = 0; c < e.channels; ++c) {
        const Grid grid = grid_of<Scalar>(c);
        const IntegerSums& s = sums[at(c)];
        const Real exact_mean = std::ldexp(
            static_cast<Real>(grid.offset * n + s.k) / static_cast<Real>(n), grid.exponent);
        const Real m2 = static_cast<Real>(n * s.k2 - s.k * s.k) / static_cast<Real>(n);
        const auto variance = [&](std::int64_t divisor) {
          return std::ldexp(m2 / static_cast<Real>(divisor), 2 * grid.exponent);
        };
        const bool unbiased = estimate == VarianceEstimate::unbiased;
        mean.see(layer.running_mean()[c], exact_mean);
        var.see(layer.running_var()[c], variance(unbiased ? n - 1 : n));
        saved_mean.see(layer.saved().mean[c], exact_mean);
        saved_inv_std.see(layer.saved().inv_std[c], 1 / std::sqrt(variance(n) + Real(options.eps)));
      }
      // Sums are about one of the values. Of few it may lie two sigma out: sums of squares are then
      // five times the variance, and so are their roundings in its ulps.
      CHECK(mean.worst <= 4);
      CHECK(var.worst <= (n < 16 ? 8 : 4));
      CHECK(saved_mean.worst <= 4);
      CHECK(saved_inv_std.worst <= (n < 16 ? 8 : 4));
    }
  }
}

/// x = (m + s) * 2^exponent, where s is 1 for half of a channel's values and -1 for the others: its
/// variance is 4^exponent. With eps three times that, inv_std = 2^-(exponent + 1) and x_hat = s / 2.
template <class Scalar, int spatial, class Layout>
void check_gradients(const Layout& layout, const Extents& e, const std::vector<int>& threads) {
  const int exponent = std::is_same_v<Scalar, Eigen::half> ? -3 : 9;
  const Strides strides = layout.strides(e);
  std::vector<Scalar> x = memory<Scalar>(strides, e), dy = x, y = x, dx = x;
  struct Channel {
    int s = 0;  // of the value before
    bool again = false;
    std::int64_t dy = 0, dy_s = 0;  // sums
  };
  std::vector<Channel> channels(at(e.channels));
  const auto value = [&](Index c, int s) {
    return static_cast<Scalar>(static_cast<double>(c % 100 + s) * (1 << (exponent + 3)) / 8);
  };
  Scalar quarters[8];
  for (int d = 0; d < 8; ++d) quarters[d] = static_cast<Scalar>((d - 3) / 4.0);
  testing::Random random(static_cast<std::uint64_t>(e.size()));
  strides.each(e, [&](Index place, Index, Index c) {
    Channel& channel = channels[at(c)];
    const std::uint64_t bits = random.bits();
    channel.s = channel.again ? -channel.s : bits % 2 ? 1 : -1;  // in pairs of opposites
    channel.again = !channel.again;
    const int d = static_cast<int>(bits / 2 % 8) - 3;
    channel.dy += d;
    channel.dy_s += d * channel.s;
    x[at(place)] = value(c, channel.s);
    dy[at(place)] = quarters[d + 3];
  });
  const Index n = e.count();
  const bool power_of_two = (n & (n - 1)) == 0;
  const auto gamma = [](Index c) { return static_cast<double>(c % 3 + 1) / 2; };
  const auto beta = [](Index c) { return static_cast<double>(c % 5 - 2); };
  struct Right {
    Scalar high, y[2], dx[2][8];  // the larger value, results by s and dy
  };
  std::vector<Right> right(at(e.channels));
  for (Index c = 0; c < e.channels; ++c) {
    right[at(c)].high = value(c, 1);
    const double mean_dy = static_cast<double>(channels[at(c)].dy) / 4 / static_cast<double>(n);
    const double mean_dy_x_hat =
        static_cast<double>(channels[at(c)].dy_s) / 8 / static_cast<double>(n);
    for (const int s : {0, 1}) {
      const double x_hat = s - 0.5;
      right[at(c)].y[s] = static_cast<Scalar>(gamma(c) * x_hat + beta(c));
      for (int d = 0; d < 8; ++d) {
        const double of_batch = (d - 3) / 4.0 - mean_dy - x_hat * mean_dy_x_hat;
        right[at(c)].dx[s][d] = static_cast<Scalar>(gamma(c) * std::ldexp(of_batch, -exponent - 1));
      }
    }
  }
  for (const int count : threads) {
    INFO(layout.name << ", " << e.channels << " channels of " << n << " values, " << count
                     << " threads");
    Options options;
    options.channel_axis = layout.axis;
    options.eps = 3 * std::ldexp(1.0, 2 * exponent);
    BatchNorm<Scalar, spatial> layer(e.channels, options);
    for (Index c = 0; c < e.channels; ++c) {
      layer.gamma()[c] = static_cast<typename BatchNorm<Scalar, spatial>::Param>(gamma(c));
      layer.beta()[c] = static_cast<typename BatchNorm<Scalar, spatial>::Param>(beta(c));
    }
    if (count > 0) layer.set_device(&testing::device_of(count).device);
    layout.forward(layer, {x.data(), e}, {y.data(), e});
    layout.backward(layer, {x.data(), e}, {dy.data(), e}, {dx.data(), e});

    Distance dbeta, dgamma;
    for (Index c = 0; c < e.channels; ++c) {
      dbeta.see(layer.grad_beta()[c], static_cast<Real>(channels[at(c)].dy) / 4);
      dgamma.see(layer.grad_gamma()[c], static_cast<Real>(channels[at(c)].dy_s) / 8);
    }
    // Where n is no power of two, 1 / n is rounded, and with it a double layer's mean: by an ulp,
    // which moves x_hat, and a sum that cancels by more than its own ulps.
    const bool exact = power_of_two || !std::is_same_v<Scalar, double>;
    CHECK(dbeta.worst == 0);
    if (exact) CHECK(dgamma.worst == 0);

    if (count != threads.front()) continue;
    Index wrong_y = 0, wrong_dx = 0;
    strides.each(e, [&](Index place, Index, Index c) {
      const Right& r = right[at(c)];
      const bool s = x[at(place)] == r.high;
      wrong_y += y[at(place)] != r.y[s];
      wrong_dx += dx[at(place)] != r.dx[s][at(static_cast<Index>(dy[at(place)] * Scalar(4)) + 3)];
    });
    if (exact) CHECK(wrong_y == 0);
    if (power_of_two) CHECK(wrong_dx == 0);  // or else dbeta / n is rounded
  }
}

// Few channels of many values, and many channels; more of either than a task takes.
const std::vector<Extents> large = {
    {7, 3, {10, 50, 70}}, {4, 45, {4, 32, 32}}, {66, 2500, {1, 2, 2}}};

/// Calls f(layout, extents, threads) for all layouts of a layer and sizes from the smallest to some
/// that are cut into tasks for several threads: of these one, or all for images of floats.
template <class Scalar, int spatial, class F>
void for_all(const std::vector<Extents>& small, const F& f) {
  const std::vector<int> alone = {0};
  const std::vector<int> threads =
      std::is_same_v<Scalar, float> ? std::vector<int>{0, 1, 2, 3, 4, 8} : std::vector<int>{0, 3};
  std::size_t turn = spatial;
  for (const auto& layout : testing::layouts<Scalar, spatial>()) {
    for (const Extents& e : small) f(layout, e.of_rank(layout.rank), alone);
    for (std::size_t k = 0; k < large.size(); ++k) {
      const bool all = std::is_same_v<Scalar, float> && spatial == 2;
      if (all || k == turn % 3) f(layout, large[k].of_rank(layout.rank), threads);
    }
    ++turn;
  }
}

}  // namespace

TEMPLATE_TEST_CASE("statistics of exactly summable data are exact to the last bit", "[exactness]",
                   float, double, Eigen::half, Eigen::bfloat16) {
  const std::vector<Extents> small = {{2, 1},
                                      {1, 3, {1, 1, 2}},
                                      {3, 5},
                                      {1, 1, {1, 1, 7}},
                                      {4, 19},
                                      {5, 23, {1, 3, 3}},
                                      {8, 16, {2, 4, 8}},
                                      {33, 257},
                                      {2, 33, {3, 7, 7}},
                                      {1, 2, {1, 1, 4099}},
                                      {64, 3, {2, 9, 9}},
                                      {2, 2100, {1, 1, 3}}};
  for_all<TestType, 1>(small, check_statistics<TestType, 1, testing::LayoutOf<TestType, 1>>);
  for_all<TestType, 2>(small, check_statistics<TestType, 2, testing::LayoutOf<TestType, 2>>);
  for_all<TestType, 3>(small, check_statistics<TestType, 3, testing::LayoutOf<TestType, 3>>);
}

TEMPLATE_TEST_CASE("gradients are exact to the last bit where inv_std is a power of two",
                   "[exactness]", float, double, Eigen::half, Eigen::bfloat16) {
  const std::vector<Extents> small = {{2, 1},
                                      {1, 3, {1, 1, 2}},
                                      {6, 5},
                                      {1, 1, {1, 1, 8}},
                                      {4, 19},
                                      {6, 23, {1, 3, 3}},
                                      {8, 16, {2, 4, 8}},
                                      {34, 257},
                                      {2, 33, {3, 7, 7}},
                                      {1, 2, {1, 1, 4096}},
                                      {64, 3, {2, 9, 9}},
                                      {2, 2100, {1, 1, 4}}};
  for_all<TestType, 1>(small, check_gradients<TestType, 1, testing::LayoutOf<TestType, 1>>);
  for_all<TestType, 2>(small, check_gradients<TestType, 2, testing::LayoutOf<TestType, 2>>);
  for_all<TestType, 3>(small, check_gradients<TestType, 3, testing::LayoutOf<TestType, 3>>);
}
