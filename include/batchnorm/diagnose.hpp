// SPDX-License-Identifier: MIT
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <limits>
#include <numeric>
#include <ostream>
#include <stdexcept>
#include <string>
#include <vector>

#include "batchnorm/layer.hpp"

// Why is eval mode so much worse than training mode? Training normalizes a batch by its own statistics,
// eval mode by the running ones; diagnose(bn, x) says, channel by channel, how far they are apart:
//
//   std::cout << batchnorm::diagnose(bn, x);
namespace batchnorm {

/// One channel's statistics on a batch, and what the layer would normalize it with in eval mode.
struct ChannelDiagnosis {
  double mean = 0, var = 0;                  ///< the batch's; var its population variance
  double running_mean = 0, running_var = 0;  ///< the layer's; the batch's own where it has none
  double shift =
      0;  ///< (mean - running_mean) / sqrt(running_var + eps): eval's x_hat has this mean
  double spread = 1;  ///< sqrt((var + eps) / (running_var + eps)): and about this deviation, not 1
  bool is_far = false;    ///< so far off that chance does not explain it
  bool is_flat = false;   ///< var is no more than eps, which then sets what comes out
  bool is_dead = false;   ///< gamma is 0: y is beta, whatever x
  bool is_finite = true;  ///< the batch's and the running statistics are
};

/// What diagnose found.
struct Diagnosis {
  std::vector<ChannelDiagnosis> channels;
  Eigen::Index count = 0;      ///< n, values per channel
  bool tracks = true;          ///< else eval mode uses batch statistics too
  bool never_updated = false;  ///< running statistics are as they were at first
  std::int64_t batches = 0;    ///< num_batches_tracked()

  /// How many channels are so: diagnosis.number_of(&ChannelDiagnosis::is_far).
  [[nodiscard]] std::ptrdiff_t number_of(bool ChannelDiagnosis::*what) const {
    return std::count_if(channels.begin(), channels.end(),
                         [what](const ChannelDiagnosis& c) { return c.*what; });
  }
  /// Has a reason been found for eval mode to differ from training mode?
  [[nodiscard]] bool explains_eval() const {
    return never_updated || number_of(&ChannelDiagnosis::is_far) > 0 ||
           number_of(&ChannelDiagnosis::is_finite) < static_cast<std::ptrdiff_t>(channels.size());
  }
};

/// Compares the batch x, as forward takes it, with the layer's running statistics; the layer is not
/// changed. A channel is far off where |shift| is over 1/2 or spread beyond a factor of 2, and also
/// over 4 / sqrt(n) and exp(4 / sqrt(2 n)), four standard errors, which chance seldom reaches. Throws
/// what forward throws, and std::invalid_argument for an empty batch.
template <class Scalar, int spatial, class X>
[[nodiscard]] Diagnosis diagnose(const BatchNorm<Scalar, spatial>& bn, const X& x) {
  using Index = Eigen::Index;
  // With all weight on the new batch, running statistics are the batch's.
  Options options;
  options.momentum = Momentum::weight_of_new(1);
  options.running_variance = VarianceEstimate::population;
  options.scale = options.shift = false;
  options.channel_axis = bn.options().channel_axis;
  options.single_value = SingleValue::accept;
  options.non_finite = NonFinite::propagate;
  BatchNorm<Scalar, spatial> batch(bn.num_features(), options);
  static_cast<void>(batch.forward(x));
  if (batch.saved().count == 0) {
    detail::fail<std::invalid_argument>("[diagnose] expected values, got an empty batch of shape " +
                                        batch.saved().shape.text());
  }

  Diagnosis d;
  d.count = batch.saved().count;
  d.tracks = bn.options().track_running_stats;
  d.batches = bn.num_batches_tracked();
  d.never_updated = d.tracks && d.batches == 0 && (bn.running_mean().array() == 0).all() &&
                    (bn.running_var().array() == 1).all();
  const double eps = bn.options().eps, n = static_cast<double>(d.count);
  for (Index c = 0; c < bn.num_features(); ++c) {
    ChannelDiagnosis one;
    one.mean = batch.saved().mean[c];
    one.var = static_cast<double>(batch.running_var()[c]);
    one.running_mean = d.tracks ? static_cast<double>(bn.running_mean()[c]) : one.mean;
    one.running_var = d.tracks ? static_cast<double>(bn.running_var()[c]) : one.var;
    one.shift = (one.mean - one.running_mean) / std::sqrt(one.running_var + eps);
    one.spread = std::sqrt((one.var + eps) / (one.running_var + eps));
    one.is_finite = detail::is_finite(one.shift) && detail::is_finite(one.running_var);
    one.is_far = one.is_finite &&
                 (std::abs(one.shift) > std::max(0.5, 4 / std::sqrt(n)) ||
                  std::abs(std::log(one.spread)) > std::max(std::log(2.0), 4 / std::sqrt(2 * n)));
    one.is_flat = one.is_finite && one.var <= eps;
    one.is_dead = bn.options().scale && bn.gamma()[c] == 0;
    d.channels.push_back(one);
  }
  return d;
}

/// A table of the channels, the 20 worst where there are more, and what to do.
inline std::ostream& operator<<(std::ostream& out, const Diagnosis& d) {
  constexpr std::size_t most = 20;
  const auto badness = [](const ChannelDiagnosis& c) {
    if (!c.is_finite) return std::numeric_limits<double>::max();
    return std::abs(c.shift) + std::abs(std::log(c.spread));
  };
  std::vector<std::size_t> order(d.channels.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  if (order.size() > most) {
    std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
      return badness(d.channels[a]) > badness(d.channels[b]);
    });
    order.resize(most);
  }
  char line[160];
  std::snprintf(line, sizeof line, "%7s %11s %11s %11s %11s %9s %9s\n", "channel", "mean",
                "running", "deviation", "running", "shift", "spread");
  out << line;
  for (const std::size_t c : order) {
    const ChannelDiagnosis& one = d.channels[c];
    std::snprintf(line, sizeof line, "%7zu %11.4g %11.4g %11.4g %11.4g %9.2f %9.2f%s%s%s%s\n", c,
                  one.mean, one.running_mean, std::sqrt(one.var), std::sqrt(one.running_var),
                  one.shift, one.spread, one.is_finite ? "" : "  not finite",
                  one.is_far ? "  far off" : "", one.is_flat ? "  flat" : "",
                  one.is_dead ? "  dead" : "");
    out << line;
  }
  const std::size_t all = d.channels.size();
  if (order.size() < all) out << "The " << order.size() << " worst of " << all << " channels.\n";

  const auto say = [&](std::ptrdiff_t number, const char* what) {
    if (number > 0) out << number << " of " << all << " channels " << what << "\n";
  };
  if (d.never_updated) {
    out << "The running statistics were never updated: no batch went through in training mode, and "
           "none were loaded.\n";
  } else if (!d.tracks) {
    out << "The layer tracks no statistics: eval mode uses the batch's too.\n";
  }
  say(static_cast<std::ptrdiff_t>(all) - d.number_of(&ChannelDiagnosis::is_finite),
      "have statistics that are not finite: look for NaN and infinity in x and in what was "
      "loaded.");
  say(d.number_of(&ChannelDiagnosis::is_far),
      "are far off: eval mode does not normalize them. Is x prepared as in training? Did the "
      "statistics see enough batches at this momentum, and of this kind?");
  say(d.number_of(&ChannelDiagnosis::is_flat),
      "are flat: they hardly vary, and eps sets their scale.");
  say(d.number_of(&ChannelDiagnosis::is_dead), "are dead: gamma is 0.");
  if (!d.explains_eval()) out << "Eval mode normalizes this batch as training mode does.\n";
  return out;
}

}  // namespace batchnorm
