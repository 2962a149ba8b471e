// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <array>

#include "batchnorm/detail/lanes.hpp"
#include "batchnorm/detail/runs.hpp"
#include "batchnorm/detail/view.hpp"

namespace batchnorm::detail {

/// The second of two loop shapes: channels lie side by side (NHWC, a row-major matrix), a row for
/// each position. A block is some rows. sum and map are those of Runs, but that of(array) gives the
/// numbers of neighbouring channels.
struct Rows {
  static constexpr Index most_channels = 1024;  // of a part

  template <class T>
  [[nodiscard]] static Index blocks(const View<T>& v) {
    return (v.outer + block_rows - 1) / block_rows;
  }

  /// Goes down a strip of columns at a time, whose sums then stay in registers.
  template <class Terms, class T, class... More>
  static void sum(const Part& part, double* first, double* second, const Terms& terms,
                  const View<const T>& x, const View<const More>&... more) {
    for (Index b = part.b0; b < part.b1; ++b) {
      const Index end = std::min((b + 1) * block_rows, x.outer);
      for_strips<double>(part.c0, part.c1, [&](auto strip, Index c) {
        using S = decltype(strip);
        using V = typename S::V;
        const auto adds = of_columns<S>(c, terms);
        const auto add_of = [&adds](int u) -> const auto& {
          return adds[static_cast<std::size_t>(u)];
        };
        V s[S::count][2] = {};
        for (Index r = b * block_rows; r < end; ++r) {
          add_strip(strip, s, add_of, Values<S, T>{x.at(r, c, 0)},
                    Values<S, More>{more.at(r, c, 0)}...);
        }
        for (int u = 0; u < S::count; ++u, c += width_of<V>) {
          store(first + c, V(load<V>(first + c) + s[u][0]));
          store(second + c, V(load<V>(second + c) + s[u][1]));
        }
      });
    }
  }

  /// Goes along the rows.
  template <class Formula, class T, class... X>
  static void map(const Part& part, const View<T>& y, const Formula& formula,
                  const View<const X>&... x) {
    const Index end = std::min(part.b1 * block_rows, y.outer);
    for (Index r = part.b0 * block_rows; r < end; ++r) {
      for_strips<ParamOf<T>>(part.c0, part.c1, [&](auto strip, Index c) {
        using S = decltype(strip);
        const auto fs = of_columns<S>(c, formula);
        const auto f_of = [&fs](int u) -> const auto& { return fs[static_cast<std::size_t>(u)]; };
        map_strip(strip, f_of, y.at(r, c, 0), Values<S, X>{x.at(r, c, 0)}...);
      });
    }
  }

 private:
  static constexpr Index block_rows = 64;

  /// make(of) for each vector of the strip S at column c.
  template <class S, class Make>
  [[nodiscard]] static auto of_columns(Index c, const Make& make) {
    using V = typename S::V;
    const auto at = [&](int u) {
      return make([c = c + u * width_of<V>](const auto* array) { return load<V>(array + c); });
    };
    if constexpr (S::count == 4) {
      return std::array{at(0), at(1), at(2), at(3)};
    } else {
      return std::array{at(0)};
    }
  }
};

}  // namespace batchnorm::detail
