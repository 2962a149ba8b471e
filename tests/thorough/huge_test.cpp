// SPDX-License-Identifier: MIT
// Tensors of more than 2^31 values, whose places no 32-bit integer counts. Of halves they take 9 GB,
// so they are for a release; every day the same checks run on small ones.
#define EIGEN_USE_THREADS

#include <array>
#include <batchnorm/batchnorm.hpp>
#include <cmath>
#include <cstdint>
#include <fstream>
#include <memory>
#include <string>
#include <unsupported/Eigen/CXX11/Tensor>
#include <utility>
#include <vector>

#include "support/catch.hpp"
#include "support/devices.hpp"

using batchnorm::BatchNorm1d;
using batchnorm::BatchNorm2d;
using batchnorm::ChannelAxis;
using batchnorm::Options;
using Eigen::half;
using Eigen::Index;

namespace {

// Value j of a channel's n is x = mean + s * deviation * (3 in the last four, else 1), and
// dy = 1/2 + t + s / 4, where s goes + - + - and t goes + + - -. All are exact in half, and so with
// n a multiple of four
//   mu = mean,  var = deviation^2 * (n + 32) / n,  sum dy = n / 2,
//   sum dy * x_hat = deviation * inv_std * (n + 8) / 4.
struct Channel {
  double mean, deviation, gamma;
};
constexpr double beta = 0.25, eps = 1e-5;
constexpr std::array<Channel, 7> kinds{{{0, 1, 1.5},
                                        {1, 0.5, -0.75},
                                        {-2.5, 0.25, 1},
                                        {100, 2, 0.5},
                                        {0.125, 4, -3},
                                        {-1000, 1, 2},
                                        {7, 0.125, 1}}};
const Channel& kind_of(Index c) { return kinds[static_cast<std::size_t>(c % 7)]; }

/// Where values lie: (o, c, i) at o * outer_stride + c * channel_stride + i * inner_stride; value
/// o * inner + i of its channel.
struct Places {
  Index outer, channels, inner, outer_stride, channel_stride, inner_stride = 1;

  [[nodiscard]] Index n() const { return outer * inner; }
  /// Calls f(place, c, k) with k = 0..3 for the four values of s and t, and + 4 for the last four.
  template <class F>
  void each(const F& f) const {
    for (Index o = 0; o < outer; ++o) {
      for (Index c = 0; c < channels; ++c) {
        const Index start = o * outer_stride + c * channel_stride;
        for (Index i = 0; i < inner; ++i) {
          const Index j = o * inner + i;
          f(start + i * inner_stride, c, static_cast<int>(j % 4) + (j >= n() - 4 ? 4 : 0));
        }
      }
    }
  }
};
double s_of(int k) { return k % 2 == 0 ? 1 : -1; }
double t_of(int k) { return k % 4 < 2 ? 1 : -1; }
double x_of(const Channel& c, int k) { return c.mean + s_of(k) * c.deviation * (k < 4 ? 1 : 3); }
double dy_of(int k) { return 0.5 + t_of(k) + s_of(k) / 4; }

/// A number for each kind of channel and value.
using Table = std::array<std::array<double, 8>, 7>;
template <class F>
Table table(const F& f) {
  Table t{};
  for (std::size_t c = 0; c < 7; ++c) {
    for (int k = 0; k < 8; ++k) t[c][static_cast<std::size_t>(k)] = f(kinds[c], k);
  }
  return t;
}

std::uint16_t bits_of(half v) { return Eigen::numext::bit_cast<std::uint16_t>(v); }

void fill(half* data, const Places& places, const Table& values) {
  std::array<std::array<half, 8>, 7> halves;
  for (std::size_t c = 0; c < 7; ++c) {
    for (std::size_t k = 0; k < 8; ++k) halves[c][k] = half(static_cast<float>(values[c][k]));
  }
  places.each([&](Index at, Index c, int k) {
    data[at] = halves[static_cast<std::size_t>(c % 7)][static_cast<std::size_t>(k)];
  });
}

/// All values of one kind have the same bits, and these are the expected number's.
void check(const std::string& what, const half* data, const Places& places, const Table& expected) {
  INFO(what);
  std::array<std::array<std::uint16_t, 8>, 7> bits{};
  std::array<std::array<bool, 8>, 7> seen{};
  Index others = 0, first_other = -1;
  places.each([&](Index at, Index c, int k) {
    const auto kind = static_cast<std::size_t>(c % 7), value = static_cast<std::size_t>(k);
    if (!seen[kind][value]) {
      seen[kind][value] = true;
      bits[kind][value] = bits_of(data[at]);
    } else if (bits_of(data[at]) != bits[kind][value] && others++ == 0) {
      first_other = at;
    }
  });
  INFO("the first that differs from its like lies at " << first_other);
  CHECK(others == 0);
  for (std::size_t c = 0; c < 7; ++c) {
    for (std::size_t k = 0; k < 8; ++k) {
      if (!seen[c][k]) continue;
      const double got = static_cast<double>(Eigen::numext::bit_cast<half>(bits[c][k]));
      INFO("channel " << c << ", value " << k);
      // Rounded to half, by 2^-11 of it, from what is within 6e-7.
      CHECK(std::abs(got - expected[c][k]) <= std::abs(expected[c][k]) * 0x1p-11 + 2e-6);
    }
  }
}

/// What normalizes a channel: by the batch's variance, or by deviation^2.
struct Scale {
  double n;
  bool of_batch;

  [[nodiscard]] double var(const Channel& c) const {
    return c.deviation * c.deviation * (of_batch ? (n + 32) / n : 1);
  }
  [[nodiscard]] double inv_std(const Channel& c) const { return 1 / std::sqrt(var(c) + eps); }
  [[nodiscard]] double x_hat(const Channel& c, int k) const {
    return (x_of(c, k) - c.mean) * inv_std(c);
  }
  [[nodiscard]] double dgamma(const Channel& c) const {
    return c.deviation * inv_std(c) * (n + 8) / 4;
  }
};

/// Training, backward, a folded layer and eval mode in place. `as_argument` makes an argument of
/// values in memory.
template <class Layer, class AsArgument>
void check_layer(Index values, const Places& places, const Options& options,
                 const AsArgument& as_argument) {
  INFO(values << " values in " << places.channels << " channels");
  const auto xs = std::make_unique<half[]>(static_cast<std::size_t>(values));
  const auto others = std::make_unique<half[]>(static_cast<std::size_t>(values));
  const auto x = [&] { return as_argument(xs.get()); };
  const auto other = [&] { return as_argument(others.get()); };
  fill(xs.get(), places, table(x_of));

  Layer layer(places.channels, options);
  layer.set_device(&testing::device_of(2).device);
  for (Index c = 0; c < places.channels; ++c) {
    layer.gamma()[c] = static_cast<float>(kind_of(c).gamma);
    layer.beta()[c] = static_cast<float>(beta);
  }
  const double n = static_cast<double>(places.n());
  const Scale batch{n, true}, given{n, false};

  layer.forward(x(), other());
  check("forward", others.get(), places,
        table([&](const Channel& c, int k) { return c.gamma * batch.x_hat(c, k) + beta; }));
  fill(others.get(), places, table([](const Channel&, int k) { return dy_of(k); }));
  layer.backward(x(), other(), other());
  check("backward", others.get(), places, table([&](const Channel& c, int k) {
          const double of_x = batch.x_hat(c, k) * batch.dgamma(c) / n;
          return c.gamma * batch.inv_std(c) * (dy_of(k) - 0.5 - of_x);
        }));
  double worst = 0;  // relative; promised are 1e-6 for sums and variances, floats hold them to 6e-8
  const auto compare = [&](double got, double expected) {
    worst = std::max(worst, std::abs(got - expected) / std::max(std::abs(expected), 1e-3));
  };
  for (Index c = 0; c < places.channels; ++c) {
    const Channel& kind = kind_of(c);
    compare(layer.grad_beta()[c], n / 2);
    compare(layer.grad_gamma()[c], batch.dgamma(kind));
    compare(layer.running_mean()[c], 0.1 * kind.mean);
    compare(layer.running_var()[c], 0.9 + 0.1 * batch.var(kind) * n / (n - 1));
    layer.running_mean()[c] = static_cast<float>(kind.mean);
    layer.running_var()[c] = static_cast<float>(kind.deviation * kind.deviation);
  }
  CHECK(worst <= 1e-6);

  layer.eval();
  const Table y =
      table([&](const Channel& c, int k) { return c.gamma * given.x_hat(c, k) + beta; });
  layer.folded().apply(x(), other(), options.channel_axis);
  check("folded", others.get(), places, y);
  layer.forward(x(), x());
  check("eval, in place", xs.get(), places, y);
}

void check_images(Index a, Index b, Index c, Index d, ChannelAxis axis) {
  using Images = Eigen::Tensor<half, 4, Eigen::RowMajor>;
  Options options;
  options.channel_axis = axis;
  const Places places = axis == ChannelAxis::first ? Places{a, b, c * d, b * c * d, c * d}
                                                   : Places{a * b * c, d, 1, d, 1};
  check_layer<BatchNorm2d<half>>(a * b * c * d, places, options, [&](half* data) {
    return Eigen::TensorMap<Images>(data, a, b, c, d);
  });
}
/// Every step-th value of a column-major matrix.
void check_strided(Index rows, Index columns, Index step) {
  using Stride = Eigen::Stride<Eigen::Dynamic, Eigen::Dynamic>;
  using Matrix = Eigen::Matrix<half, Eigen::Dynamic, Eigen::Dynamic>;
  const Index column = step * rows, size = column * columns;
  check_layer<BatchNorm1d<half>>(size, {1, columns, rows, size, column, step}, {}, [&](half* data) {
    return Eigen::Map<Matrix, 0, Stride>(data, rows, columns, Stride(column, step));
  });
}

/// Says so where there is not enough.
bool has_memory() {
  std::ifstream file("/proc/meminfo");
  for (std::string name, unit; file >> name;) {
    if (name != "MemAvailable:") continue;
    double kilobytes = 0;
    file >> kilobytes;
    if (kilobytes >= 10e6) return true;
    WARN("not tested: more than 2^31 values take 10 GB, available are " << kilobytes / 1e6);
    return false;
  }
  return true;
}

}  // namespace

TEST_CASE("values of few kinds are normalized as computed by hand", "[huge]") {
  check_images(2, 3, 32, 36, ChannelAxis::first);
  check_images(17, 64, 8, 16, ChannelAxis::first);
  check_images(2, 32, 36, 3, ChannelAxis::last);
  check_images(4, 8, 4, 2000, ChannelAxis::last);
  check_images(1, 1, 64, 68, ChannelAxis::first);
  check_strided(1028, 2, 3);
}

TEST_CASE("more than 2^31 values with channels first", "[.release][huge]") {
  if (has_memory()) check_images(2, 3, 32768, 10928, ChannelAxis::first);
}
TEST_CASE("more than 2^31 values with channels last", "[.release][huge]") {
  if (has_memory()) check_images(2, 32768, 10928, 3, ChannelAxis::last);
}
TEST_CASE("more than 2^31 values in one channel", "[.release][huge]") {
  if (has_memory()) check_images(1, 1, 65536, 32784, ChannelAxis::first);
}
TEST_CASE("more than 2^31 values in a million channels", "[.release][huge]") {
  if (has_memory()) check_images(17, 1 << 20, 8, 16, ChannelAxis::first);
}
TEST_CASE("more than 2^31 values with many channels last", "[.release][huge]") {
  if (has_memory()) check_images(64, 32, 32, 32771, ChannelAxis::last);
}
TEST_CASE("a matrix whose strides reach beyond 2^31", "[.release][huge]") {
  if (has_memory()) check_strided((1 << 25) + 8, 2, 32);
}
