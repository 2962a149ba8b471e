// SPDX-License-Identifier: MIT
// Slow linear layers and convolutions, written from their definitions one product at a time, to
// compare networks with. They share nothing with the library.
#pragma once

#include <array>
#include <vector>

#include "support/values.hpp"

namespace testing {

/// A convolution over three axes; one or two are as good with extents of 1. Weights are stored in the
/// order (O, I / groups, D, H, W), transposed (I, O / groups, D, H, W).
struct Convolution {
  using Three = std::array<Index, 3>;

  Index inputs = 1, outputs = 1, groups = 1;
  Three kernel{1, 1, 1}, stride{1, 1, 1}, padding{0, 0, 0}, dilation{1, 1, 1};
  bool transposed = false;
  std::vector<double> weight, bias;  // bias: one for each output

  /// The first two extents of the weights.
  std::array<Index, 2> channel_extents() const {
    return transposed ? std::array<Index, 2>{inputs, outputs / groups}
                      : std::array<Index, 2>{outputs, inputs / groups};
  }
  Index weight_size() const {
    return channel_extents()[0] * channel_extents()[1] * kernel[0] * kernel[1] * kernel[2];
  }
  double weight_of(Index input, Index output, const Three& k) const {
    const Index in_group = input % (inputs / groups), out_group = output % (outputs / groups);
    const Index first = transposed ? input : output, second = transposed ? out_group : in_group;
    Index i = first * channel_extents()[1] + second;
    for (std::size_t d = 0; d < 3; ++d) i = i * kernel[d] + k[d];
    return weight[at(i)];
  }

  /// y(n, o, q) = bias(o) + sum x(n, i, p) * w(i, o, k) over all i of o's group and all k, with
  /// p = q * stride - padding + k * dilation, or transposed q = p * stride - padding + k * dilation.
  Values forward(const Values& x) const {
    std::vector<Index> extents;
    for (std::size_t d = 0; d < 3; ++d) {
      const Index reach = dilation[d] * (kernel[d] - 1), n = x.spatial[d];
      extents.push_back(transposed ? (n - 1) * stride[d] - 2 * padding[d] + reach + 1
                                   : (n + 2 * padding[d] - reach - 1) / stride[d] + 1);
    }
    Values y(x.samples, outputs, extents);
    y.each([&](Index n, Index o, Index q) { y(n, o, q) = bias[at(o)]; });
    const Three from{x.spatial[0], x.spatial[1], x.spatial[2]};
    const Three to{extents[0], extents[1], extents[2]};
    for_each_place(transposed ? from : to, [&](const Three& anchor) {
      for_each_place(kernel, [&](const Three& k) {
        Three other{};
        for (std::size_t d = 0; d < 3; ++d) {
          other[d] = anchor[d] * stride[d] - padding[d] + k[d] * dilation[d];
          if (other[d] < 0 || other[d] >= (transposed ? to : from)[d]) return;
        }
        const Index p = place(from, transposed ? anchor : other);
        const Index q = place(to, transposed ? other : anchor);
        for (Index o = 0; o < outputs; ++o) {
          const Index group = o / (outputs / groups), size = inputs / groups;
          for (Index i = group * size; i < (group + 1) * size; ++i) {
            for (Index n = 0; n < x.samples; ++n) y(n, o, q) += x(n, i, p) * weight_of(i, o, k);
          }
        }
      });
    });
    return y;
  }

 private:
  static Index place(const Three& extents, const Three& i) {
    return (i[0] * extents[1] + i[1]) * extents[2] + i[2];
  }
  template <class F>
  static void for_each_place(const Three& extents, const F& f) {
    for (Index a = 0; a < extents[0]; ++a) {
      for (Index b = 0; b < extents[1]; ++b) {
        for (Index c = 0; c < extents[2]; ++c) f(Three{a, b, c});
      }
    }
  }
};

}  // namespace testing
