// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>

#include "batchnorm/detail/lanes.hpp"
#include "batchnorm/detail/view.hpp"

namespace batchnorm::detail {

/// What a step of a pass works on: channels [c0, c1), of which blocks [b0, b1), in slab s.
struct Part {
  Index c0, c1, s, b0, b1;
};

/// The first of two loop shapes: a channel is made of runs, contiguous in memory (NCHW). A block is
/// some 2,000 values of every channel: a piece of one long run, or several short runs, which are
/// read in the order of memory, channel after channel.
struct Runs {
  static constexpr Index most_channels = 64;  // of a part

  template <class T>
  [[nodiscard]] static Index blocks(const View<T>& v) {
    return Blocking(v).count;
  }

  /// first[c] and second[c] += two terms of every value of channel c in the part. terms(of) returns
  /// add(s, x, ...), which adds the terms of values x, ... to s[0] and s[1]; of(array) gives it the
  /// channel's number in an array.
  template <class Terms, class... T>
  static void sum(const Part& part, double* first, double* second, const Terms& terms,
                  const View<const T>&... x) {
    using V = Lanes<double>;
    for (Index b = part.b0; b < part.b1; ++b) {  // each on its own: parts do not change the bits
      V lanes[most_channels][2] = {};
      double rest[most_channels][1][2] = {};
      const auto add_run = [&](Index c, Index length, const T*... from) {
        const auto add = terms([c](const double* array) { return array[c]; });
        const auto add_of = [&add](int) -> const auto& { return add; };
        V s[4][2] = {};  // four independent sums: an addition's result takes some cycles
        for_strips<double>(0, length, [&](auto strip, Index i) {
          using S = decltype(strip);
          if constexpr (S::width == 1) {
            add_strip(strip, rest[c - part.c0], add_of, Values<S, T>{from + i}...);
          } else {
            add_strip(strip, s, add_of, Values<S, T>{from + i}...);
          }
        });
        for (int k = 0; k < 2; ++k) {
          lanes[c - part.c0][k] += (s[0][k] + s[1][k]) + (s[2][k] + s[3][k]);
        }
      };
      for_runs({part.c0, part.c1, part.s, b, b + 1}, add_run, x...);
      for (Index c = part.c0; c < part.c1; ++c) {
        double total[2] = {rest[c - part.c0][0][0], rest[c - part.c0][0][1]};
        for (int k = 0; k < 2; ++k) {
          for (Index l = 0; l < width_of<V>; ++l) total[k] += lanes[c - part.c0][k][l];
        }
        first[c] += total[0];
        second[c] += total[1];
      }
    }
  }

  /// y = f(x, ...) for every value of the part, f = formula(of), with of(array) as above.
  template <class Formula, class T, class... X>
  static void map(const Part& part, const View<T>& y, const Formula& formula,
                  const View<const X>&... x) {
    using A = ParamOf<T>;
    for_runs(
        part,
        [&](Index c, Index length, T* to, const X*... from) {
          const auto f = formula([c](const A* array) { return array[c]; });
          const auto f_of = [&f](int) -> const auto& { return f; };
          for_strips<A>(0, length, [&](auto strip, Index i) {
            map_strip(strip, f_of, to + i, Values<decltype(strip), X>{from + i}...);
          });
        },
        y, x...);
  }

 private:
  /// How channels are cut into blocks: a run's pieces and their length, a block's runs, all blocks.
  struct Blocking {
    Index pieces = 1, length, runs = 1, count;

    template <class T>
    explicit Blocking(const View<T>& v) : length(v.inner) {
      constexpr Index size = 2048;
      if (v.inner > size / 2) {
        pieces = (v.inner + size - 1) / size;
        length = (v.inner + pieces - 1) / pieces;
      } else {
        runs = size / v.inner;
      }
      count = (v.outer + runs - 1) / runs * pieces;
    }
  };

  /// Calls f(c, length, pointer, ...) for the runs, or pieces of runs, of a part, in memory's
  /// order, with pointers to their first value in each view.
  template <class F, class First, class... Rest>
  static void for_runs(const Part& part, const F& f, const View<First>& v,
                       const View<Rest>&... more) {
    const Blocking cut(v);
    for (Index b = part.b0; b < part.b1; ++b) {
      const Index first = b / cut.pieces * cut.runs, last = std::min(first + cut.runs, v.outer);
      const Index i = b % cut.pieces * cut.length, length = std::min(cut.length, v.inner - i);
      for (Index o = first; o < last; ++o) {
        for (Index c = part.c0; c < part.c1; ++c) f(c, length, v.at(o, c, i), more.at(o, c, i)...);
      }
    }
  }
};

}  // namespace batchnorm::detail
