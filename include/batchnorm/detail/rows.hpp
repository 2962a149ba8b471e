// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <array>
#include <tuple>

#include "batchnorm/detail/lanes.hpp"
#include "batchnorm/detail/moment.hpp"
#include "batchnorm/detail/view.hpp"

namespace batchnorm::detail {

/// The second of two loop shapes: channels lie side by side (NHWC, a row-major matrix), a row for
/// each position. A block is some rows, taken a tile of columns at a time: small enough for the
/// first-level cache.
struct Rows {
  static constexpr Index block_rows = 32;
  static constexpr Index tile_columns = 128;

  template <class T>
  [[nodiscard]] static Index blocks(const View<T>& v) {
    return (v.outer + block_rows - 1) / block_rows;
  }
  /// How many of a channel's values lie before block b.
  template <class T>
  [[nodiscard]] static double count_before(const View<T>& v, Index b) {
    return static_cast<double>(std::min(b * block_rows, v.outer));
  }

  /// Values of some rows and columns, rows `stride` apart.
  template <class A>
  struct Tile {
    A* data;
    Index rows, columns, stride;

    [[nodiscard]] A* row(Index r) const { return data + r * stride; }
  };

  /// Room for a tile whose values are not of the kernels' type.
  template <class A>
  using Buffer = std::array<A, block_rows * tile_columns>;

  template <class A, class T>
  [[nodiscard]] static Tile<const A> read(const View<const T>& v, Index row, Index rows, Index c,
                                          Index columns, Buffer<A>& buffer) {
    if constexpr (std::is_same_v<T, A>) {
      return {v.at(row, c, 0), rows, columns, v.outer_stride};
    } else {
      for (Index r = 0; r < rows; ++r) {
        copy(v.at(row + r, c, 0), 1, buffer.data() + r * columns, 1, columns);
      }
      return {buffer.data(), rows, columns, columns};
    }
  }

  /// Has `compute` write a tile, in its place or, by way of the buffer, to it.
  template <class A, class T, class Compute>
  static void write(const View<T>& v, Index row, Index rows, Index c, Index columns,
                    Buffer<A>& buffer, const Compute& compute) {
    if constexpr (std::is_same_v<T, A>) {
      compute(Tile<A>{v.at(row, c, 0), rows, columns, v.outer_stride});
    } else {
      compute(Tile<A>{buffer.data(), rows, columns, columns});
      for (Index r = 0; r < rows; ++r) {
        copy(buffer.data() + r * columns, 1, v.at(row + r, c, 0), 1, columns);
      }
    }
  }

  /// Calls f(strip, j) for strips of four vectors, of one vector, and of single columns from column
  /// j on. `strip` is an array of as many vectors, or of one value, to carry its type and size.
  template <class A, class F>
  static void for_strips(Index columns, const F& f) {
    using V = Lanes<A>;
    constexpr Index W = width_of<V>;
    Index j = 0;
    for (; j + 4 * W <= columns; j += 4 * W) f(Strip<V, 4>{}, j);
    for (; j + W <= columns; j += W) f(Strip<V, 1>{}, j);
    for (; j < columns; ++j) f(Strip<A, 1>{}, j);
  }
  template <class V_, int size_>
  struct Strip {
    using V = V_;
    static constexpr int size = size_;
  };

  /// sum[k][j] += the k-th of K terms of column j, over the rows. add(s, r, j) adds row r's terms
  /// to s[0] to s[K-1], for as many columns from j on as s has lanes. A float sum takes few rows
  /// before it goes on in double.
  template <class A, int K, class Add>
  static void sums(Index rows, Index columns, const Add& add, double* const (&sum)[K]) {
    constexpr Index most_adds = 16;
    for_strips<A>(columns, [&](auto strip, Index j) {
      using V = typename decltype(strip)::V;
      constexpr int U = decltype(strip)::size;
      for (Index r = 0; r < rows;) {
        V s[U][K] = {};
        for (const Index stop = std::min(r + most_adds, rows); r < stop; ++r) {
#pragma GCC unroll 4
          for (int u = 0; u < U; ++u) add(s[u], r, j + u * width_of<V>);
        }
#pragma GCC unroll 4
        for (int u = 0; u < U; ++u) {
          for (int k = 0; k < K; ++k) add_wide(sum[k] + j + u * width_of<V>, s[u][k]);
        }
      }
    });
  }

  /// y = f(j, x, ...) for each value of the rows and its column j.
  template <class A, class F, class... X>
  static void map(const F& f, const Tile<A>& y, const X&... x) {
    for (Index r = 0; r < y.rows; ++r) {
      for_strips<A>(y.columns, [&](auto strip, Index j) {
        using V = typename decltype(strip)::V;
#pragma GCC unroll 4
        for (int u = 0; u < decltype(strip)::size; ++u, j += width_of<V>) {
          store<V>(y.row(r) + j, f(j, load<V>(x.row(r) + j)...));
        }
      });
    }
  }

  /// Calls f(row, rows, column, columns) for the tiles of a part.
  template <class T, class F>
  static void for_tiles(const View<T>& v, const Part& part, const F& f) {
    const Index end = std::min(part.b1 * block_rows, v.outer);
    for (Index row = part.b0 * block_rows; row < end; row += block_rows) {
      for (Index c = part.c0; c < part.c1; c += tile_columns) {
        f(row, std::min(block_rows, end - row), c, std::min(tile_columns, part.c1 - c));
      }
    }
  }

  // The four kernels. Arrays of numbers per channel are indexed by channel.

  /// Adds the part's values to mean and m2 of each channel, which hold those of `before` rows. See
  /// Runs::moments, whose way this is.
  template <class T>
  static void moments(const View<const T>& x, const Part& part, double before, double* mean,
                      double* m2) {
    using A = ParamOf<T>;
    Buffer<A> room;
    const Index first = part.b0 * block_rows;
    for_tiles(x, part, [&](Index row, Index rows, Index c, Index columns) {
      const auto tile = read<A>(x, row, rows, c, columns, room);
      const double n = static_cast<double>(rows);
      const double so_far = before + static_cast<double>(row - first);
      A about[tile_columns];
      double d[tile_columns], dd[tile_columns];
      const auto add_deviation = [&](auto& s, Index r, Index j) {
        using V = std::decay_t<decltype(s[0])>;
        const V v = load<V>(tile.row(r) + j) - load<V>(about + j);
        s[0] += v;
        s[1] += v * v;
      };
      const auto sum_up = [&] {
        std::fill_n(d, columns, 0.0);
        std::fill_n(dd, columns, 0.0);
        sums<A, 2>(rows, columns, add_deviation, {d, dd});
      };
      for (Index j = 0; j < columns; ++j) {
        about[j] = so_far > 0 ? narrow<A>(mean[c + j]) : tile.data[j];
      }
      sum_up();
      bool again = false;
      for (Index j = 0; j < columns; ++j) again |= d[j] * d[j] > 0.25 * n * dd[j];
      if (again) {
        for (Index j = 0; j < columns; ++j) about[j] += narrow<A>(d[j] / n);
        sum_up();
      }
      const double share = n / (so_far + n);
      for (Index j = 0; j < columns; ++j) {
        merge(so_far, share, static_cast<double>(about[j]) + d[j] / n, dd[j] - d[j] * (d[j] / n),
              mean[c + j], m2[c + j]);
      }
    });
  }

  /// y = (x - mean) * scale + shift
  template <class T>
  static void normalize(const View<const T>& x, const View<T>& y, const Part& part,
                        const Coefficients<ParamOf<T>>& k) {
    using A = ParamOf<T>;
    Buffer<A> room;
    for_tiles(x, part, [&](Index row, Index rows, Index c, Index columns) {
      const auto from = read<A>(x, row, rows, c, columns, room);
      write(y, row, rows, c, columns, room, [&](const Tile<A>& to) {
        map(
            [&](Index j, const auto& v) {
              using V = std::decay_t<decltype(v)>;
              return V((v - load<V>(k.mean + c + j)) * load<V>(k.scale + c + j) +
                       load<V>(k.shift + c + j));
            },
            to, from);
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
    for_tiles(x, part, [&](Index row, Index rows, Index c, Index columns) {
      const auto from_x = read<A>(x, row, rows, c, columns, room_x);
      const auto from_dy = read<A>(dy, row, rows, c, columns, room_dy);
      const auto add_terms = [&](auto& s, Index r, Index j) {
        using V = std::decay_t<decltype(s[0])>;
        const V x_hat =
            (load<V>(from_x.row(r) + j) - load<V>(k.mean + c + j)) * load<V>(k.inv_std + c + j);
        const V d = load<V>(from_dy.row(r) + j);
        s[0] += d;
        s[1] += d * x_hat;
      };
      sums<A, 2>(rows, columns, add_terms, {sum_dy + c, sum_dy_x_hat + c});
    });
  }

  /// dx = (dy - mean_dy) * scale + ((x - mean) * slope + shift)
  template <class T>
  static void input_gradient(const View<const T>& x, const View<const T>& dy, const View<T>& dx,
                             const Part& part, const Coefficients<ParamOf<T>>& k) {
    using A = ParamOf<T>;
    Buffer<A> room_x, room_dy;
    for_tiles(x, part, [&](Index row, Index rows, Index c, Index columns) {
      const auto from_x = read<A>(x, row, rows, c, columns, room_x);
      const auto from_dy = read<A>(dy, row, rows, c, columns, room_dy);
      write(dx, row, rows, c, columns, room_dy, [&](const Tile<A>& to) {
        map(
            [&](Index j, const auto& vx, const auto& vdy) {
              using V = std::decay_t<decltype(vx)>;
              const auto of = [&](const A* array) { return load<V>(array + c + j); };
              return V((vdy - of(k.mean_dy)) * of(k.scale) +
                       ((vx - of(k.mean)) * of(k.slope) + of(k.shift)));
            },
            to, from_x, from_dy);
      });
    });
  }
};

}  // namespace batchnorm::detail
