// SPDX-License-Identifier: MIT
// The values of a batch by sample, channel and position, whatever tensor or matrix they came from.
// Tests that run over types, ranks and layouts speak of these.
#pragma once

#include <Eigen/Core>
#include <array>
#include <batchnorm/batchnorm.hpp>
#include <cstddef>
#include <unsupported/Eigen/CXX11/Tensor>
#include <utility>
#include <vector>

#include "support/random.hpp"

namespace testing {

using Eigen::Index;

inline std::size_t at(Index i) { return static_cast<std::size_t>(i); }

/// N samples of C channels of `positions` values each.
struct Values {
  Index samples, channels;
  std::vector<Index> spatial;  // the extents whose product is `positions`
  Index positions;
  std::vector<double> data;

  Values(Index n, Index c, std::vector<Index> extents)
      : samples(n), channels(c), spatial(std::move(extents)), positions(1) {
    for (const Index extent : spatial) positions *= extent;
    data.resize(at(samples * channels * positions));
  }

  Index count() const { return samples * positions; }
  Index size() const { return count() * channels; }
  double& operator()(Index n, Index c, Index p) {
    return data[at((n * channels + c) * positions + p)];
  }
  double operator()(Index n, Index c, Index p) const {
    return data[at((n * channels + c) * positions + p)];
  }

  /// Calls f(n, c, p) for every value.
  template <class F>
  void each(const F& f) const {
    for (Index n = 0; n < samples; ++n) {
      for (Index c = 0; c < channels; ++c) {
        for (Index p = 0; p < positions; ++p) f(n, c, p);
      }
    }
  }
  /// The same values, each through f.
  template <class F>
  Values mapped(const F& f) const {
    Values result = *this;
    for (double& v : result.data) v = f(v);
    return result;
  }
};

/// Normal numbers; channel c has a mean and a deviation of its own.
inline Values random_values(Index n, Index c, std::vector<Index> spatial, std::uint64_t seed) {
  Values v(n, c, std::move(spatial));
  Random random(seed);
  v.each([&](Index sample, Index channel, Index position) {
    const double k = static_cast<double>(channel % 7);
    v(sample, channel, position) = random.normal(0.5 * k - 1, 0.5 + 0.25 * k);
  });
  return v;
}

/// Extents for the positions of a tensor of this rank: none, L, H x W or D x H x W.
inline std::vector<Index> small_spatial(int rank) {
  const std::vector<Index> extents = {2, 3, 5};
  return {extents.end() - (rank - 2), extents.end()};
}

/// A tensor of rank R holding Values.
template <class Scalar_, int rank_, int order_>
struct TensorForm {
  using Scalar = Scalar_;
  using X = Eigen::Tensor<Scalar, rank_, order_>;
  static constexpr int rank = rank_;
  static constexpr int order = order_;
  static constexpr const char* name = "tensor";

  static X make(const Values& v, batchnorm::ChannelAxis axis) {
    const std::size_t channel = axis == batchnorm::ChannelAxis::first ? 1 : rank - 1;
    std::array<Index, rank> extents{};
    extents[0] = v.samples;
    extents[channel] = v.channels;
    for (std::size_t d = 1, s = 0; d < rank; ++d) {
      if (d != channel) extents[d] = v.spatial.at(s++);
    }
    X x(extents);
    v.each([&](Index n, Index c, Index p) {
      x(place(v, axis, n, c, p)) = static_cast<Scalar>(v(n, c, p));
    });
    return x;
  }
  static Values read(const X& x, batchnorm::ChannelAxis axis) {
    const std::size_t channel = axis == batchnorm::ChannelAxis::first ? 1 : rank - 1;
    std::vector<Index> spatial;
    for (std::size_t d = 1; d < rank; ++d) {
      if (d != channel) spatial.push_back(x.dimensions()[d]);
    }
    Values v(x.dimensions()[0], x.dimensions()[channel], spatial);
    v.each([&](Index n, Index c, Index p) {
      v(n, c, p) = static_cast<double>(x(place(v, axis, n, c, p)));
    });
    return v;
  }

 private:
  static std::array<Index, rank> place(const Values& v, batchnorm::ChannelAxis axis, Index n,
                                       Index c, Index p) {
    const std::size_t channel = axis == batchnorm::ChannelAxis::first ? 1 : rank - 1;
    std::array<Index, rank> i{};
    i[0] = n;
    i[channel] = c;
    std::size_t s = v.spatial.size();
    for (std::size_t d = rank; d-- > 1;) {
      if (d == channel) continue;
      --s;
      i[d] = p % v.spatial[s];
      p /= v.spatial[s];
    }
    return i;
  }
};

/// A matrix of N rows and C columns.
template <class Scalar_, int order_>
struct MatrixForm {
  using Scalar = Scalar_;
  using X = Eigen::Matrix<Scalar, Eigen::Dynamic, Eigen::Dynamic, order_>;
  static constexpr int rank = 2;
  static constexpr int order = order_;
  static constexpr const char* name = "matrix";

  static X make(const Values& v, batchnorm::ChannelAxis) {
    X x(v.samples, v.channels);
    v.each([&](Index n, Index c, Index p) { x(n, c) = static_cast<Scalar>(v(n, c, p)); });
    return x;
  }
  static Values read(const X& x, batchnorm::ChannelAxis) {
    Values v(x.rows(), x.cols(), {});
    v.each([&](Index n, Index c, Index p) { v(n, c, p) = static_cast<double>(x(n, c)); });
    return v;
  }
};

}  // namespace testing
