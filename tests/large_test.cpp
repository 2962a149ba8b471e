// SPDX-License-Identifier: MIT
// Tensors larger than the caches, whose results take a way of their own to memory, at any alignment.
#include <batchnorm/batchnorm.hpp>
#include <cmath>
#include <cstdint>
#include <type_traits>
#include <unsupported/Eigen/CXX11/Tensor>
#include <vector>

#include "support/catch.hpp"
#include "support/random.hpp"

using batchnorm::BatchNorm2d;
using batchnorm::ChannelAxis;
using batchnorm::Options;
using Eigen::Index;

namespace {

struct Sums {
  double mean = 0, inv_std = 0, dbeta = 0, dgamma = 0;
};

/// A layer's y and dx beside the definition's, computed in double here. Value k of the memory is of
/// channel k / inner % channels.
struct Case {
  std::vector<float> x, dy, y, dx;
  Index channels, inner;
  std::vector<Sums> of;
  double n;

  Case(Index size, Index channel_count, Index inner_count, Index offset)
      : channels(channel_count), inner(inner_count), of(static_cast<std::size_t>(channel_count)) {
    for (auto* values : {&x, &dy, &y, &dx}) values->resize(static_cast<std::size_t>(size + offset));
    n = static_cast<double>(size / channels);
    testing::Random random(7);
    for (std::size_t k = 0; k < x.size(); ++k) {
      x[k] = static_cast<float>(random.uniform(0, 4));
      dy[k] = static_cast<float>(random.uniform(-1, 2));
    }
    const auto each = [&](const auto& f) {
      for (Index k = 0; k < size; ++k) f(k, of[channel(k)]);
    };
    const auto at = [&](const std::vector<float>& values, Index k) {
      return static_cast<double>(values[static_cast<std::size_t>(k + offset)]);
    };
    each([&](Index k, Sums& s) { s.mean += at(x, k) / n; });
    each([&](Index k, Sums& s) { s.inv_std += std::pow(at(x, k) - s.mean, 2) / n; });
    for (Sums& s : of) s.inv_std = 1 / std::sqrt(s.inv_std + 1e-5);
    each([&](Index k, Sums& s) {
      s.dbeta += at(dy, k);
      s.dgamma += at(dy, k) * (at(x, k) - s.mean) * s.inv_std;
    });
  }
  [[nodiscard]] std::size_t channel(Index k) const {
    return static_cast<std::size_t>(k / inner % channels);
  }
};

using Images = Eigen::Tensor<float, 4, Eigen::RowMajor>;

void check(Index a, Index b, Index c, Index d, ChannelAxis axis, Index offset) {
  INFO(a << " x " << b << " x " << c << " x " << d << ", " << offset << " past the start");
  const bool last = axis == ChannelAxis::last;
  const Index channels = last ? d : b, size = a * b * c * d;
  Case values(size, channels, last ? 1 : c * d, offset);
  const auto map = [&](std::vector<float>& v) {
    return Eigen::TensorMap<Images>(v.data() + offset, a, b, c, d);
  };
  Options options;
  options.channel_axis = axis;
  BatchNorm2d<float> layer(channels, options);
  layer.forward(map(values.x), map(values.y));
  layer.backward(map(values.x), map(values.dy), map(values.dx));

  double worst_y = 0, worst_dx = 0;
  for (Index k = 0; k < size; ++k) {
    const Sums& s = values.of[values.channel(k)];
    const auto at = [&](const std::vector<float>& v) {
      return static_cast<double>(v[static_cast<std::size_t>(k + offset)]);
    };
    const double x_hat = (at(values.x) - s.mean) * s.inv_std;
    const double dx =
        s.inv_std * (at(values.dy) - s.dbeta / values.n - x_hat * s.dgamma / values.n);
    worst_y = std::max(worst_y, std::abs(at(values.y) - x_hat));
    worst_dx = std::max(worst_dx, std::abs(at(values.dx) - dx));
  }
  CHECK(worst_y <= 6e-7 * 2);   // |x_hat| < 2 for uniform numbers, whose ends lie at sqrt(3)
  CHECK(worst_dx <= 6e-7 * 4);  // |dy| and the terms taken off it are below 4
}

}  // namespace

TEST_CASE("tensors larger than the caches are normalized like any", "[large]") {
  for (const Index offset : {0, 1, 5}) {
    check(2, 45, 187, 191, ChannelAxis::first, offset);  // long runs
    check(8, 130, 56, 56, ChannelAxis::first, offset);
    check(64, 1024, 7, 7, ChannelAxis::first, offset);  // small planes, whose rows step by lines
    check(67, 1001, 7, 7, ChannelAxis::first, offset);  // and not
    check(9, 75, 75, 64, ChannelAxis::last, offset);
    check(3, 101, 103, 103, ChannelAxis::last, offset);
    check(1, 1, 6200, 512, ChannelAxis::last, offset);  // samples that are whole lines
    check(1, 1, 786433, 4, ChannelAxis::last, offset);  // the last line has one of them
  }
}

TEST_CASE("doubles may lie where a struct has them, beyond the caches too", "[large]") {
  struct AfterHeader {
    int header;
    double value;  // at 4 bytes on i686, where a double lies at a multiple of 4; else at 8
  };
  constexpr Index rows = 600000, channels = 7;
  using Rows = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  std::vector<AfterHeader> memory(rows * channels);
  Eigen::Map<Rows> y(&memory[0].value, rows, channels);
  const Rows x = Eigen::Vector2d(-3, 5).replicate(rows / 2, channels);  // mean 1, deviation 4
  batchnorm::BatchNorm1d<double> layer(channels);
  layer.forward(x, y);
  const double one = 4 / std::sqrt(16 + 1e-5);
  CHECK((y - Eigen::Vector2d(-one, one).replicate(rows / 2, channels)).cwiseAbs().maxCoeff() <=
        1e-12);
}

TEMPLATE_TEST_CASE("two values give their two results, beyond the caches too", "[large]", float,
                   double, Eigen::half, Eigen::bfloat16) {
  using Batch = Eigen::Tensor<TestType, 4, Eigen::RowMajor>;
  // Four values of a channel are x = -s, s, -s, s and dy = -t, -t, t, t. The signs s and t change
  // from four to four in no order, so that values that change places are noticed. The mean is 0, the
  // variance 1, and dgamma and dbeta are 0, so y = x / sqrt(1 + eps) and dx = dy / sqrt(1 + eps).
  // A result is rounded to the scalar: 16-bit ones lose half an ulp of 1.
  const double allowed = std::is_same_v<TestType, double>        ? 1e-12
                         : std::is_same_v<TestType, float>       ? 6e-7
                         : std::is_same_v<TestType, Eigen::half> ? 6e-7 + 0x1p-11
                                                                 : 6e-7 + 0x1p-8;
  constexpr Index channels = 2, side = 1300, size = 2 * channels * side * side;
  for (const auto axis : {ChannelAxis::first, ChannelAxis::last}) {
    for (const Index offset : {0, 1}) {
      INFO((axis == ChannelAxis::first ? "channels first, " : "channels last, ") << offset);
      const auto position = [=](Index k) { return axis == ChannelAxis::first ? k : k / channels; };
      const TestType minus(-1.f), plus(1.f);
      const auto mixed = [=](Index k) {
        const auto block = static_cast<std::uint64_t>(position(k) / 4);
        return static_cast<std::uint32_t>(block * 2654435769u);
      };
      const auto sign = [=](bool is_plus) { return is_plus ? plus : minus; };
      const auto x_of = [=](Index k) {
        return sign((position(k) % 2 == 1) != (mixed(k) >> 31 == 1));
      };
      const auto dy_of = [=](Index k) {
        return sign((position(k) % 4 > 1) != ((mixed(k) >> 30) % 2 == 1));
      };
      std::vector<TestType> x(static_cast<std::size_t>(size + offset)), dy(x), y(x);
      for (Index k = 0; k < size; ++k) {
        x[static_cast<std::size_t>(k + offset)] = x_of(k);
        dy[static_cast<std::size_t>(k + offset)] = dy_of(k);
      }
      const auto map = [&](std::vector<TestType>& v) {
        TestType* const data = v.data() + offset;
        return axis == ChannelAxis::first ? Eigen::TensorMap<Batch>(data, 2, channels, side, side)
                                          : Eigen::TensorMap<Batch>(data, 2, side, side, channels);
      };
      const auto differ = [&](const std::vector<TestType>& got, const auto& expected) {
        Index wrong = 0;
        for (Index k = 0; k < size; ++k) {
          const double exact = static_cast<double>(expected(k)) / std::sqrt(1 + 1e-5);
          const double v = static_cast<double>(got[static_cast<std::size_t>(k + offset)]);
          wrong += !(std::abs(v - exact) <= allowed);
        }
        return wrong;
      };
      Options options;
      options.channel_axis = axis;
      BatchNorm2d<TestType> layer(channels, options);
      layer.forward(map(x), map(y));
      CHECK(differ(y, x_of) == 0);
      layer.backward(map(x), map(dy), map(y));
      CHECK(differ(y, dy_of) == 0);
    }
  }
}
