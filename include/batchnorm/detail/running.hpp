// SPDX-License-Identifier: MIT
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <cstdint>

#include "batchnorm/detail/for_channels.hpp"
#include "batchnorm/detail/scalar.hpp"
#include "batchnorm/options.hpp"

namespace batchnorm::detail {

/// Is a batch of n values per channel normalized by its own statistics? Throws if n is too small.
[[nodiscard]] inline bool is_by_batch(const Options& options, bool training, Index n,
                                      const Where& where) {
  if (!training && options.track_running_stats) return false;
  const bool too_few = n == 1 || (n == 0 && training);
  const bool has_eval = training && options.track_running_stats;
  const char* const advice =
      has_eval ? ": call eval() for inference, leave the batch out, or see Options::single_value"
               : ": leave the batch out, or see Options::single_value";
  if (too_few && options.single_value == SingleValue::reject)
    where.invalid({"expected more than one value per channel, got ", n, advice});
  return n != 1 || options.single_value == SingleValue::accept;
}

/// The statistics that eval mode normalizes with: per channel an average over training batches,
///   running = (1 - w) * running + w * batch
/// Vector is Eigen::Matrix<Param, C, 1>, where C is a number or Eigen::Dynamic.
template <class Vector>
struct RunningStatistics {
  using Param = typename Vector::Scalar;
  Vector mean, var;          // (C) each
  std::int64_t batches = 0;  // accepted training batches; a user may set any number up to 2^53
  std::int64_t counted = 0;  // batches after the last take(); a user may have lowered `batches`
  // (C, 2) how many of the accepted batches did not move a channel's mean, and its variance.
  Eigen::Array<std::int64_t, Vector::RowsAtCompileTime, 2> skipped;

  void resize(Index channels) {
    mean.resize(channels), var.resize(channels), skipped.resize(channels, 2);
    reset();
  }
  /// Mean 0, variance 1, no batches. Lengths stay as they are.
  void reset() { mean.setZero(), var.setOnes(), skipped.setZero(), batches = counted = 0; }

  /// Takes in a batch of n values per channel, batch_var (C) its population variance.
  void take(const double* batch_mean, const double* batch_var, Index n, const Options& options) {
    const bool unbiased = options.running_variance == VarianceEstimate::unbiased;
    const double correction = unbiased ? static_cast<double>(n) / static_cast<double>(n - 1) : 1;
    const Momentum momentum = options.momentum;
    constexpr std::int64_t most = std::int64_t{1} << 53;  // the most that a state can say
    batches = std::clamp<std::int64_t>(batches, 0, most - 1);
    if (batches < counted) skipped = (skipped.min)(batches);
    if (const double w = momentum.weight_of_new();
        w > 0 && n > 1 && are_ordinary(batch_mean, batch_var)) {
      const auto move_both = [=](Param& m, Param& v, double of_mean, double of_var) {
        m = static_cast<Param>(moved(m, of_mean, w));
        v = static_cast<Param>(moved(v, of_var * correction, w));
      };
      for_channels(0, mean.size(), move_both, mean.data(), var.data(), batch_mean, batch_var);
    } else {
      for (Index c = 0; c < mean.size(); ++c) {
        const bool finite = is_finite(batch_mean[c]) && !is_nan(batch_var[c]);  // the values
        const bool skip = !finite && options.non_finite == NonFinite::skip_update;
        const bool skip_var = skip || (unbiased && n == 1);  // n - 1 is 0
        if (!skip) move(mean[c], c, 0, batch_mean[c], momentum, finite);
        if (!skip_var) move(var[c], c, 1, batch_var[c] * correction, momentum, finite);
        skipped(c, 0) += skip, skipped(c, 1) += skip_var;
      }
    }
    counted = ++batches;
  }

 private:
  /// Are all numbers far from the ends of Param's range? Then a loop without branches can do it.
  [[nodiscard]] bool are_ordinary(const double* batch_mean, const double* batch_var) const {
    Bits<Param> all = 1;
    const auto compare = [&all](Param m, Param v, double of_mean, double of_var) {
      all &= fits_as_offset(static_cast<Param>(of_mean)) & fits_as_offset(m) &
             fits_as_offset(static_cast<Param>(of_var)) & fits_as_offset(v);
    };
    for_channels(0, mean.size(), compare, mean.data(), var.data(), batch_mean, batch_var);
    return all != 0;
  }
  [[nodiscard]] static double moved(Param running, double batch, double w) {
    return (1 - w) * static_cast<double>(running) + w * batch;
  }
  /// Moves channel c's mean (which = 0) or variance (which = 1).
  void move(Param& running, Index c, int which, double batch, Momentum momentum, bool finite) {
    const auto moves = static_cast<double>(batches - skipped(c, which));
    const double w = momentum.is_cumulative() ? 1 / (1 + moves) : momentum.weight_of_new();
    if (w == 0) return;
    const double v = moved(running, batch, w);
    finite = finite && is_finite(static_cast<double>(running));
    running = finite ? saturated<Param>(v) : narrow<Param>(v);
  }
};

}  // namespace batchnorm::detail
