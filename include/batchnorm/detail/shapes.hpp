// SPDX-License-Identifier: MIT
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <cstdint>

#include "batchnorm/detail/view.hpp"

// How loops go over a tensor: in runs of a channel's values, or in rows of all channels' values.
namespace batchnorm::detail {

/// What a step of a pass works on: channels [c0, c1), of which blocks [b0, b1), in slab s.
struct Part {
  Index c0, c1, s, b0, b1;
};

/// What a pass reads and writes: x, or x and dy; y or dx.
template <class T>
struct Operands {
  int inputs;
  View<const T> in[2];
  View<T> out;
};

/// How the loops go over a tensor.
struct Loops {
  bool are_rows;     // else runs
  Index fold;        // rows of the tensor in a row of the loops
  bool past_caches;  // the tensors are too large to stay there
};

/// Where rows start in some views. By value, so that compilers may keep them in registers.
template <class T, int rows, int views>
struct Starts {
  T* at[rows][views];
};

inline constexpr Index line_bytes = 64;
inline constexpr Index a_line = 16, prefetched = 4096;  // values; a line of floats

template <class T>
[[nodiscard]] Index values_to_next_line(const T* p) {
  const auto past = static_cast<Index>(reinterpret_cast<std::uintptr_t>(p) % line_bytes);
  return (line_bytes - past) % line_bytes / static_cast<Index>(sizeof(T));
}

/// A tensor whose channels are made of runs. A block is a run, or a piece of a long one, of every
/// channel.
struct Runs {
  template <class T>
  explicit Runs(const View<T>& v)
      : pieces((v.inner + longest - 1) / longest),
        piece((v.inner + pieces - 1) / pieces),
        inner(v.inner) {}

  template <class T>
  [[nodiscard]] static Index blocks(const View<T>& v) {
    return v.outer * Runs(v).pieces;
  }
  /// Where block b starts, in channel 0.
  template <int views, class T>
  [[nodiscard]] Starts<T, 1, views> starts(const View<T>* v, Index b) const {
    Starts<T, 1, views> starts;
    for (int j = 0; j < views; ++j) starts.at[0][j] = v[j].at(b / pieces, 0, b % pieces * piece);
    return starts;
  }
  [[nodiscard]] Index length(Index b) const { return std::min(piece, inner - b % pieces * piece); }

  static constexpr Index longest = 16 * 1024;
  Index pieces, piece, inner;
};

inline constexpr Index most_columns = 2048;

/// Numbers for the columns of a row, with room to read a vector from each of them. They lie on the
/// stack, at most eight at a time: up to 130 KiB.
template <class A>
struct ColumnArray {
  static constexpr Index room = line_bytes / 2;  // a line of the smallest values
  alignas(line_bytes) A data[most_columns + room];
};

/// A tensor whose channels lie side by side, or nearly so, `inner` values each. A block is a row of
/// them, or `fold` rows that follow one another. The values of a row are its columns.
struct Rows {
  template <class T>
  Rows(const View<T>& v, const Part& part, Index rows)
      : fold(rows),
        c0(part.c0),
        channels(part.c1 - part.c0),
        inner(v.inner),
        outer(v.outer),
        step(v.outer_stride * rows),
        width(rows * channels * inner),
        bytes(static_cast<Index>(sizeof(T))) {}

  /// Where rows b, b + 1, ... start.
  template <int rows, int views, class T>
  [[nodiscard]] Starts<T, rows, views> starts(const View<T>* v, Index b) const {
    Starts<T, rows, views> starts;
    for (Index u = 0; u < rows; ++u) {
      for (Index j = 0; j < views; ++j) {
        starts.at[u][j] = v[j].at((b + u) * fold, c0, 0);
      }
    }
    return starts;
  }
  /// The last row may be short of some that it was to hold.
  [[nodiscard]] Index width_of(Index b) const {
    return std::min(fold, outer - b * fold) * channels * inner;
  }
  /// b, or the first row that is short.
  [[nodiscard]] Index whole(Index b) const { return std::min(b, outer / fold); }
  /// Do all rows start alike in a line of the cache?
  [[nodiscard]] bool step_by_lines() const { return step * bytes % line_bytes == 0; }

  /// What to call into the cache: some rows on, or a row's worth of prefetching.
  [[nodiscard]] Index ahead() const { return (prefetched / width + 4) * step; }

  /// How many values after its start, up to a line, dense rows of a part may be cut instead.
  template <class T>
  [[nodiscard]] Index shift_to_line(const View<T>& v, const Part& part) const {
    const Index shift = values_to_next_line(v.at(part.b0 * fold, c0, 0));
    return step == width && step_by_lines() && shift < width_of(part.b1 - 1) ? shift : 0;
  }
  /// A number for each channel as one for each column; `around`: and as many of the first again as
  /// there is room.
  template <class A>
  [[nodiscard]] const A* spread(const A* of_channels, ColumnArray<A>& of_columns,
                                bool around = false) const {
    if (fold * inner == 1 && !around) return of_channels + c0;
    A* to = of_columns.data;
    for (Index f = 0; f < fold && inner == 1; ++f) to = std::copy_n(of_channels + c0, channels, to);
    for (Index c = c0; c < c0 + channels && inner > 1; ++c) {
      to = std::fill_n(to, inner, of_channels[c]);
    }
    if (around) std::copy_n(of_columns.data, std::min(width, of_columns.room), to);
    return of_columns.data;
  }
  /// Where columns are summed: in place, or apart from 0, to be collected.
  [[nodiscard]] double* start_sums(double* of_channels, ColumnArray<double>& of_columns) const {
    if (fold * inner == 1) return of_channels + c0;
    std::fill_n(of_columns.data, width + of_columns.room, 0.0);
    return of_columns.data;
  }
  void collect(const ColumnArray<double>& of_columns, double* of_channels) const {
    if (fold * inner == 1) return;
    const double* from = of_columns.data;
    for (Index f = 0; f < fold && inner == 1; ++f) {
      for (Index c = 0; c < channels; ++c) of_channels[c] += *from++;
    }
    for (Index c = c0; c < c0 + channels && inner > 1; ++c, from += inner) {
      of_channels[c] += Eigen::Map<const Eigen::ArrayXd>(from, inner).sum();
    }
  }

  Index fold, c0, channels, inner, outer, step, width, bytes;
};

}  // namespace batchnorm::detail
