// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <array>

#include "batchnorm/detail/lanes.hpp"
#include "batchnorm/detail/moment.hpp"
#include "batchnorm/detail/view.hpp"

namespace batchnorm::detail {

/// The first of two loop shapes: a channel is made of runs, contiguous in memory (NCHW). Its values
/// are taken a block at a time, small enough for the first-level cache.
struct Runs {
  static constexpr Index block_size = 2048;

  /// How channels are cut into blocks: pieces of one long run, or several short runs.
  struct Blocking {
    Index pieces_per_run, piece, runs_per_block, count;
  };
  template <class T>
  [[nodiscard]] static Blocking blocking(const View<T>& v) {
    if (v.inner > block_size / 2) {
      const Index pieces = (v.inner + block_size - 1) / block_size;
      return {pieces, (v.inner + pieces - 1) / pieces, 1, v.outer * pieces};
    }
    const Index runs = block_size / v.inner;
    return {1, v.inner, runs, (v.outer + runs - 1) / runs};
  }
  template <class T>
  [[nodiscard]] static Index blocks(const View<T>& v) {
    return blocking(v).count;
  }

  /// The values of one block of a channel: `runs` runs of `length`, `stride` apart.
  template <class A>
  struct Block {
    A* data;
    Index runs, length, stride;

    [[nodiscard]] A* run(Index r) const { return data + r * stride; }
  };

  /// The place of a block within every channel.
  struct At {
    Index outer, runs, inner, length;

    template <class T>
    At(const View<T>& v, const Blocking& b, Index block)
        : outer(block / b.pieces_per_run * b.runs_per_block),
          runs(std::min(b.runs_per_block, v.outer - outer)),
          inner(block % b.pieces_per_run * b.piece),
          length(std::min(b.piece, v.inner - inner)) {}

    [[nodiscard]] Index count() const { return runs * length; }
  };

  /// Room for a block whose values do not lie in memory as the kernels need them: one after
  /// another, of type A.
  template <class A>
  using Buffer = std::array<A, block_size>;

  template <class A, class T>
  [[nodiscard]] static Block<const A> read(const View<const T>& v, Index c, const At& at,
                                           Buffer<A>& buffer) {
    if constexpr (std::is_same_v<T, A>) {
      if (v.inner_stride == 1)
        return {v.at(at.outer, c, at.inner), at.runs, at.length, v.outer_stride};
    }
    for (Index r = 0; r < at.runs; ++r) {
      copy(v.at(at.outer + r, c, at.inner), v.inner_stride, buffer.data() + r * at.length, 1,
           at.length);
    }
    return {buffer.data(), at.runs, at.length, at.length};
  }

  /// Has `compute` write a block, in its place or, by way of the buffer, to it.
  template <class A, class T, class Compute>
  static void write(const View<T>& v, Index c, const At& at, Buffer<A>& buffer,
                    const Compute& compute) {
    if constexpr (std::is_same_v<T, A>) {
      if (v.inner_stride == 1) {
        return compute(Block<A>{v.at(at.outer, c, at.inner), at.runs, at.length, v.outer_stride});
      }
    }
    compute(Block<A>{buffer.data(), at.runs, at.length, at.length});
    for (Index r = 0; r < at.runs; ++r) {
      copy(buffer.data() + r * at.length, 1, v.at(at.outer + r, c, at.inner), v.inner_stride,
           at.length);
    }
  }

  /// The sums of K terms over a block. add(s, x, ...) adds the terms of the values x, ... to s[0]
  /// to s[K-1]; it is called with vectors and with single values. A float sum takes few values
  /// before it goes on in double, so that even equal roundings stay below 5e-7 of it.
  template <int K, class A, class Add, class... More>
  [[nodiscard]] static std::array<double, K> sums(const Add& add, const Block<const A>& x,
                                                  const More&... more) {
    using V = Lanes<A>;
    constexpr Index W = width_of<V>;
    constexpr int parts = 4;      // independent sums: an addition's result takes some cycles
    constexpr int most_adds = 8;  // to one of them
    V part[parts][K] = {};
    double wide[K][W] = {};
    std::array<double, K> total{};
    int adds = 0;
    const auto flush = [&]() __attribute__((always_inline)) {
#pragma GCC unroll 4
      for (int k = 0; k < K; ++k) {
        add_wide(wide[k], V((part[0][k] + part[1][k]) + (part[2][k] + part[3][k])));
        part[0][k] = part[1][k] = part[2][k] = part[3][k] = V{};
      }
      adds = 0;
    };
    for (Index r = 0; r < x.runs; ++r) {
      Index i = 0;
      for (; i + parts * W <= x.length; i += parts * W) {
#pragma GCC unroll 4
        for (int p = 0; p < parts; ++p) {
          add(part[p], load<V>(x.run(r) + i + p * W), load<V>(more.run(r) + i + p * W)...);
        }
        if (++adds == most_adds) flush();
      }
      for (; i + W <= x.length; i += W) {
        add(part[0], load<V>(x.run(r) + i), load<V>(more.run(r) + i)...);
        if (++adds == most_adds) flush();
      }
      for (; i < x.length; ++i) {
        A single[K] = {};
        add(single, x.run(r)[i], more.run(r)[i]...);
        for (std::size_t k = 0; k < K; ++k) total[k] += static_cast<double>(single[k]);
      }
    }
    flush();
    for (std::size_t k = 0; k < K; ++k) {
      for (const double lane : wide[k]) total[k] += lane;
    }
    return total;
  }

  /// y = f(x, ...), value by value.
  template <class A, class F, class... X>
  static void map(const F& f, const Block<A>& y, const X&... x) {
    using V = Lanes<A>;
    constexpr Index W = width_of<V>;
    for (Index r = 0; r < y.runs; ++r) {
      Index i = 0;
      for (; i + W <= y.length; i += W) store<V>(y.run(r) + i, f(load<V>(x.run(r) + i)...));
      for (; i < y.length; ++i) y.run(r)[i] = f(x.run(r)[i]...);
    }
  }

  /// Mean and sum of squared deviations of a block: a mean about the first value, then deviations
  /// from that, corrected by their own sum; the second reading comes from the cache. Exact for a
  /// constant.
  template <class A>
  [[nodiscard]] static Moment block_moment(const Block<const A>& x) {
    const A first = x.data[0];
    const double n = static_cast<double>(x.runs * x.length);
    const double rough = sums<1>([=](auto& s, const auto& v) { s[0] += v - first; }, x)[0];
    const A m = first + narrow<A>(rough / n);
    const auto add_deviation = [=](auto& s, const auto& v) {
      const auto d = v - m;
      s[0] += d;
      s[1] += d * d;
    };
    const auto [d, dd] = sums<2>(add_deviation, x);
    return {n, static_cast<double>(m) + d / n, dd - d * (d / n)};
  }

  // The four kernels. Arrays of numbers per channel are indexed by channel.

  /// mean and m2 of the part's values of each channel. Returns their number.
  template <class T>
  static double moments(const View<const T>& x, const Part& part, double* mean, double* m2) {
    const Blocking blocks = blocking(x);
    Buffer<ParamOf<T>> room;
    Moment total;
    for (Index c = part.c0; c < part.c1; ++c) {
      total = {};
      for (Index b = part.b0; b < part.b1; ++b) {
        merge(total, block_moment(read(x, c, At(x, blocks, b), room)));
      }
      mean[c] = total.mean;
      m2[c] = total.m2;
    }
    return total.count;
  }

  /// y = (x - mean) * scale + shift
  template <class T>
  static void normalize(const View<const T>& x, const View<T>& y, const Part& part,
                        const Coefficients<ParamOf<T>>& k) {
    using A = ParamOf<T>;
    const Blocking blocks = blocking(x);
    Buffer<A> room;
    for (Index c = part.c0; c < part.c1; ++c) {
      const A mean = k.mean[c], scale = k.scale[c], shift = k.shift[c];
      for (Index b = part.b0; b < part.b1; ++b) {
        const At at(x, blocks, b);
        const Block<const A> from = read(x, c, at, room);
        write(y, c, at, room, [&](const Block<A>& to) {
          map([=](const auto& v) { return (v - mean) * scale + shift; }, to, from);
        });
      }
    }
  }

  /// sum dy and sum dy * x_hat over the part's values of each channel
  template <class T>
  static void gradient_sums(const View<const T>& x, const View<const T>& dy, const Part& part,
                            const Coefficients<ParamOf<T>>& k, double* sum_dy,
                            double* sum_dy_x_hat) {
    using A = ParamOf<T>;
    const Blocking blocks = blocking(x);
    Buffer<A> room_x, room_dy;
    for (Index c = part.c0; c < part.c1; ++c) {
      const A mean = k.mean[c], inv_std = k.inv_std[c];
      const auto add_terms = [=](auto& s, const auto& vx, const auto& vdy) {
        const auto x_hat = (vx - mean) * inv_std;
        s[0] += vdy;
        s[1] += vdy * x_hat;
      };
      sum_dy[c] = sum_dy_x_hat[c] = 0;
      for (Index b = part.b0; b < part.b1; ++b) {
        const At at(x, blocks, b);
        const auto terms = sums<2>(add_terms, read(x, c, at, room_x), read(dy, c, at, room_dy));
        sum_dy[c] += terms[0];
        sum_dy_x_hat[c] += terms[1];
      }
    }
  }

  /// dx = (dy - mean_dy) * scale + ((x - mean) * slope + shift)
  template <class T>
  static void input_gradient(const View<const T>& x, const View<const T>& dy, const View<T>& dx,
                             const Part& part, const Coefficients<ParamOf<T>>& k) {
    using A = ParamOf<T>;
    const Blocking blocks = blocking(x);
    Buffer<A> room_x, room_dy;
    for (Index c = part.c0; c < part.c1; ++c) {
      const A mean = k.mean[c], mean_dy = k.mean_dy[c];
      const A scale = k.scale[c], slope = k.slope[c], shift = k.shift[c];
      for (Index b = part.b0; b < part.b1; ++b) {
        const At at(x, blocks, b);
        const Block<const A> from_x = read(x, c, at, room_x), from_dy = read(dy, c, at, room_dy);
        write(dx, c, at, room_dy, [&](const Block<A>& to) {
          map(
              [=](const auto& vx, const auto& vdy) {
                return (vdy - mean_dy) * scale + ((vx - mean) * slope + shift);
              },
              to, from_x, from_dy);
        });
      }
    }
  }
};

}  // namespace batchnorm::detail
