// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <array>

#include "batchnorm/detail/lanes.hpp"
#include "batchnorm/detail/moment.hpp"
#include "batchnorm/detail/view.hpp"

namespace batchnorm::detail {

/// The first of two loop shapes: a channel is made of runs, contiguous in memory (NCHW). A block is
/// some 2,000 values of every channel: a piece of one long run, or several short runs, which are
/// read in the order of memory, channel after channel.
struct Runs {
  static constexpr Index block_size = 2048;
  static constexpr Index most_channels = 64;  // of a part

  /// How channels are cut into blocks.
  struct Blocking {
    Index pieces, piece, runs, count;  // pieces of a run and their length; runs of a block; blocks
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

  /// One block: runs [o0, o1), of each `length` values from `i` on.
  struct Block {
    Index o0, o1, i, length;

    template <class T>
    Block(const View<T>& v, Index b) {
      const Blocking cut = blocking(v);
      o0 = b / cut.pieces * cut.runs;
      o1 = std::min(o0 + cut.runs, v.outer);
      i = b % cut.pieces * cut.piece;
      length = std::min(cut.piece, v.inner - i);
    }
    [[nodiscard]] double count() const { return static_cast<double>((o1 - o0) * length); }
  };

  /// How many of a channel's values lie before block b.
  template <class T>
  [[nodiscard]] static double count_before(const View<T>& v, Index b) {
    if (b == blocks(v)) return static_cast<double>(v.count());
    const Block block(v, b);
    return static_cast<double>(block.o0 * v.inner + block.i);
  }

  /// Values in a row as type A: where they lie, or gathered into a buffer.
  template <class A>
  using Buffer = std::array<A, block_size>;
  template <class A, class T>
  [[nodiscard]] static const A* read(const View<const T>& v, Index o, Index c, const Block& b,
                                     Buffer<A>& buffer) {
    const T* const from = v.at(o, c, b.i);
    if constexpr (std::is_same_v<T, A>) {
      if (v.inner_stride == 1) return from;
    }
    copy(from, v.inner_stride, buffer.data(), 1, b.length);
    return buffer.data();
  }
  /// Calls compute(to) to have values written in a row, in their place or by way of the buffer.
  template <class A, class T, class Compute>
  static void write(const View<T>& v, Index o, Index c, const Block& b, Buffer<A>& buffer,
                    const Compute& compute) {
    T* const to = v.at(o, c, b.i);
    if constexpr (std::is_same_v<T, A>) {
      if (v.inner_stride == 1) return compute(to);
    }
    compute(buffer.data());
    copy(buffer.data(), 1, to, v.inner_stride, b.length);
  }

  /// Two sums over many values, lane by lane in double.
  template <class A>
  struct Sums {
    double lanes[2][width_of<Lanes<A>>] = {};

    [[nodiscard]] double operator[](int k) const {
      double total = 0;
      for (const double lane : lanes[k]) total += lane;
      return total;
    }

    /// Adds two terms for each of n values: add(s, x, ...) adds those of x[i], ... to s[0] and
    /// s[1], and is called with vectors and with single values. A float sum takes a few values
    /// before it goes on in double, so that even roundings that are all alike stay below 5e-7 of
    /// it.
    template <class Add, class... X>
    void add(Index n, const Add& add, const X*... x) {
      using V = Lanes<A>;
      constexpr Index W = width_of<V>;
      constexpr int most_adds = 8;
      Index i = 0;
      while (i + 4 * W <= n) {  // four independent sums: an addition's result takes some cycles
        V a[2] = {}, b[2] = {}, c[2] = {}, d[2] = {};
        for (const Index stop = std::min(n, i + most_adds * 4 * W); i + 4 * W <= stop; i += 4 * W) {
          add(a, load<V>(x + i)...);
          add(b, load<V>(x + i + W)...);
          add(c, load<V>(x + i + 2 * W)...);
          add(d, load<V>(x + i + 3 * W)...);
        }
        for (int k = 0; k < 2; ++k) add_wide(lanes[k], V((a[k] + b[k]) + (c[k] + d[k])));
      }
      if (i + W <= n) {
        V a[2] = {};
        for (; i + W <= n; i += W) add(a, load<V>(x + i)...);
        for (int k = 0; k < 2; ++k) add_wide(lanes[k], a[k]);
      }
      for (; i < n; ++i) {
        A a[2] = {};
        add(a, x[i]...);
        for (int k = 0; k < 2; ++k) add_wide(lanes[k], a[k]);
      }
    }
  };

  /// y[i] = f(x[i], ...) for n values.
  template <class A, class F, class... X>
  static void map(Index n, const F& f, A* y, const X*... x) {
    using V = Lanes<A>;
    constexpr Index W = width_of<V>;
    Index i = 0;
    for (; i + W <= n; i += W) store<V>(y + i, f(load<V>(x + i)...));
    for (; i < n; ++i) y[i] = f(x[i]...);
  }

  // The four kernels. Arrays of numbers per channel are indexed by channel.

  /// Adds the part's values to mean and m2 of each channel, which hold those of `before` values.
  ///
  /// Deviations are taken from a value near the mean: that of the values before, or at first of a
  /// few values. Their sums d and dd give the block's mean and m2 with as many digits as dd has,
  /// unless the block's own mean is more than about half a deviation away: then it is done again
  /// about that, while it is in the cache. Exact for a constant.
  template <class T>
  static void moments(const View<const T>& x, const Part& part, double before, double* mean,
                      double* m2) {
    using A = ParamOf<T>;
    Buffer<A> room;
    A about[most_channels];
    for (Index b = part.b0; b < part.b1; ++b) {
      const Block block(x, b);
      const double n = block.count(), share = n / (before + n);
      Sums<A> sums[most_channels];
      const auto add = [&](Index o, Index c) {
        const A near = about[c - part.c0];
        sums[c - part.c0].add(
            block.length,
            [near](auto& s, const auto& v) {
              const auto d = v - near;
              s[0] += d;
              s[1] += d * d;
            },
            read(x, o, c, block, room));
      };
      for (Index c = part.c0; c < part.c1; ++c) {
        about[c - part.c0] = before > 0 ? narrow<A>(mean[c])
                                        : guess(read(x, block.o0, c, block, room), block.length);
      }
      for (Index o = block.o0; o < block.o1; ++o) {
        for (Index c = part.c0; c < part.c1; ++c) add(o, c);
      }
      for (Index c = part.c0; c < part.c1; ++c) {
        A& near = about[c - part.c0];
        Sums<A>& s = sums[c - part.c0];
        double d = s[0], dd = s[1];
        if (d * d > 0.25 * n * dd) {
          near += narrow<A>(d / n);
          s = {};
          for (Index o = block.o0; o < block.o1; ++o) add(o, c);
          d = s[0];
          dd = s[1];
        }
        merge(before, share, static_cast<double>(near) + d / n, dd - d * (d / n), mean[c], m2[c]);
      }
      before += n;
    }
  }

  /// A value near the mean of x: that of some values about the first. Exact for a constant.
  template <class A>
  [[nodiscard]] static A guess(const A* x, Index n) {
    const Index some = std::min<Index>(n, 32);
    double d = 0;
    for (Index i = 1; i < some; ++i) d += static_cast<double>(x[i]) - static_cast<double>(x[0]);
    return narrow<A>(static_cast<double>(x[0]) + d / static_cast<double>(some));
  }

  /// y = (x - mean) * scale + shift
  template <class T>
  static void normalize(const View<const T>& x, const View<T>& y, const Part& part,
                        const Coefficients<ParamOf<T>>& k) {
    using A = ParamOf<T>;
    Buffer<A> room;
    for_each_run(x, part, [&](Index o, Index c, const Block& block) {
      const A mean = k.mean[c], scale = k.scale[c], shift = k.shift[c];
      const A* const from = read(x, o, c, block, room);
      write(y, o, c, block, room, [&](A* to) {
        map(
            block.length, [=](const auto& v) { return (v - mean) * scale + shift; }, to, from);
      });
    });
  }

  /// Adds the part's sum dy and sum dy * x_hat of each channel.
  template <class T>
  static void gradient_sums(const View<const T>& x, const View<const T>& dy, const Part& part,
                            const Coefficients<ParamOf<T>>& k, double* sum_dy,
                            double* sum_dy_x_hat) {
    using A = ParamOf<T>;
    Buffer<A> room_x, room_dy;
    Sums<A> sums[most_channels];
    for_each_run(x, part, [&](Index o, Index c, const Block& block) {
      const A mean = k.mean[c], inv_std = k.inv_std[c];
      sums[c - part.c0].add(
          block.length,
          [=](auto& s, const auto& vx, const auto& vdy) {
            const auto x_hat = (vx - mean) * inv_std;
            s[0] += vdy;
            s[1] += vdy * x_hat;
          },
          read(x, o, c, block, room_x), read(dy, o, c, block, room_dy));
    });
    for (Index c = part.c0; c < part.c1; ++c) {
      sum_dy[c] += sums[c - part.c0][0];
      sum_dy_x_hat[c] += sums[c - part.c0][1];
    }
  }

  /// dx = (dy - mean_dy) * scale + ((x - mean) * slope + shift)
  template <class T>
  static void input_gradient(const View<const T>& x, const View<const T>& dy, const View<T>& dx,
                             const Part& part, const Coefficients<ParamOf<T>>& k) {
    using A = ParamOf<T>;
    Buffer<A> room_x, room_dy;
    for_each_run(x, part, [&](Index o, Index c, const Block& block) {
      const A mean = k.mean[c], mean_dy = k.mean_dy[c];
      const A scale = k.scale[c], slope = k.slope[c], shift = k.shift[c];
      const A* const from_x = read(x, o, c, block, room_x);
      const A* const from_dy = read(dy, o, c, block, room_dy);
      write(dx, o, c, block, room_dy, [&](A* to) {
        map(
            block.length,
            [=](const auto& vx, const auto& vdy) {
              return (vdy - mean_dy) * scale + ((vx - mean) * slope + shift);
            },
            to, from_x, from_dy);
      });
    });
  }

 private:
  /// Calls f(o, c, block) for the runs of a part, in the order of memory.
  template <class T, class F>
  static void for_each_run(const View<T>& v, const Part& part, const F& f) {
    for (Index b = part.b0; b < part.b1; ++b) {
      const Block block(v, b);
      for (Index o = block.o0; o < block.o1; ++o) {
        for (Index c = part.c0; c < part.c1; ++c) f(o, c, block);
      }
    }
  }
};

}  // namespace batchnorm::detail
