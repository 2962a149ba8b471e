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
#include <vector>

#include "batchnorm/layer.hpp"

// Why is eval mode so much worse than training mode? Training normalizes a batch by its own
// statistics, eval mode by the running ones. How far are they apart, channel by channel?
//
//   std::cout << batchnorm::diagnose(bn, x);
namespace batchnorm {

/// One channel: its statistics on a batch, and what eval mode normalizes it with.
struct ChannelDiagnosis {
  double mean = 0, var = 0;                  ///< of the batch; var is the population variance
  double running_mean = 0, running_var = 0;  ///< of the layer, or the batch's if it tracks none
  double shift = 0;   ///< (mean - running_mean) / sqrt(running_var + eps): the mean of eval's x_hat
  double spread = 1;  ///< sqrt((var + eps) / (running_var + eps)): the deviation of eval's x_hat
  bool is_far = false;    ///< so far from shift 0 and spread 1 that chance does not explain it
  bool is_flat = false;   ///< var is at most eps, so eps sets the scale of y
  bool is_dead = false;   ///< gamma is 0: y is beta for every x
  bool is_finite = true;  ///< the statistics of the batch and of the layer are finite
};

/// The result of diagnose.
struct Diagnosis {
  std::vector<ChannelDiagnosis> channels;
  Eigen::Index count = 0;      ///< n, values per channel
  bool tracks = true;          ///< false: eval mode uses batch statistics too
  bool never_updated = false;  ///< the running statistics have their initial values
  std::int64_t batches = 0;    ///< num_batches_tracked()

  /// The number of channels of a kind: diagnosis.number_of(&ChannelDiagnosis::is_far).
  [[nodiscard]] std::ptrdiff_t number_of(bool ChannelDiagnosis::*what) const {
    return std::count_if(channels.begin(), channels.end(),
                         [what](const ChannelDiagnosis& c) { return c.*what; });
  }
  /// Was a reason found why eval mode differs from training mode?
  [[nodiscard]] bool explains_eval() const {
    return never_updated || number_of(&ChannelDiagnosis::is_far) > 0 ||
           number_of(&ChannelDiagnosis::is_finite) < static_cast<std::ptrdiff_t>(channels.size());
  }
};

/// Compares the batch x with the layer's running statistics. The layer does not change. A channel
/// is far off if
///   |shift| > max(1/2, 4 / sqrt(n))   or   |log(spread)| > max(log(2), 4 / sqrt(2 n)).
/// The terms with n are four standard errors, which chance seldom reaches. Throws
/// std::invalid_argument if x does not fit the layer or is empty, and std::logic_error if a vector
/// of the layer has another length than C.
template <class Scalar, int spatial, class X>
[[nodiscard]] Diagnosis diagnose(const BatchNorm<Scalar, spatial>& bn, const X& x) {
  const detail::Where where{"batchnorm", "diagnose"};
  bn.core().check_lengths(where);
  Options options;
  options.scale = options.shift = options.track_running_stats = false;
  options.channel_axis = bn.options().channel_axis;
  options.single_value = SingleValue::accept;
  BatchNorm<Scalar, spatial> own(bn.num_features(), options);  // normalizes by x's own statistics
  static_cast<void>(own.forward(x));
  const Saved& batch = own.saved();
  if (batch.count == 0)
    where.invalid({"expected values, got an empty batch of shape ", batch.shape.text()});
  Diagnosis d;
  d.count = batch.count;
  d.tracks = bn.options().track_running_stats;
  d.batches = bn.num_batches_tracked();
  d.never_updated = d.tracks && d.batches == 0 && (bn.running_mean().array() == 0).all() &&
                    (bn.running_var().array() == 1).all();
  const double eps = bn.options().eps, n = static_cast<double>(d.count);
  for (Eigen::Index c = 0; c < bn.num_features(); ++c) {
    ChannelDiagnosis one;
    one.mean = batch.mean[c];
    one.var = batch.var[c];
    one.running_mean = d.tracks ? static_cast<double>(bn.running_mean()[c]) : one.mean;
    one.running_var = d.tracks ? static_cast<double>(bn.running_var()[c]) : one.var;
    one.shift = (one.mean - one.running_mean) * detail::inv_std_of(one.running_var, eps);
    one.spread = one.var == one.running_var
                     ? 1
                     : std::sqrt(one.var + eps) * detail::inv_std_of(one.running_var, eps);
    one.is_finite = detail::is_finite(one.shift) && detail::is_finite(one.spread) &&
                    detail::is_finite(one.running_var);
    one.is_far = one.is_finite &&
                 (std::abs(one.shift) > (std::max)(0.5, 4 / std::sqrt(n)) ||
                  std::abs(std::log(one.spread)) > (std::max)(std::log(2.0), 4 / std::sqrt(2 * n)));
    one.is_flat = one.is_finite && one.var <= eps;
    one.is_dead = bn.options().scale && bn.gamma()[c] == 0;
    d.channels.push_back(one);
  }
  return d;
}

namespace detail {

inline constexpr std::size_t most_printed = 20;  // channels
/// The channels to print: all in order, or the worst if there are more than most_printed.
[[nodiscard]] inline std::vector<std::size_t> worst_of(const Diagnosis& d) {
  const auto badness = [&](std::size_t c) {
    const ChannelDiagnosis& one = d.channels[c];
    if (!one.is_finite) return (std::numeric_limits<double>::max)();
    return std::abs(one.shift) + std::abs(std::log(one.spread));
  };
  std::vector<std::size_t> order(d.channels.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  if (order.size() <= most_printed) return order;
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return badness(a) > badness(b); });
  order.resize(most_printed);
  return order;
}

}  // namespace detail

/// Prints a table of the channels, the 20 worst if there are more, and what to do.
inline std::ostream& operator<<(std::ostream& out, const Diagnosis& d) {
  char line[1024];  // %f takes up to 312 characters for a double
  std::snprintf(line, sizeof line, "%7s %11s %11s %11s %11s %9s %9s\n", "channel", "mean",
                "run. mean", "std", "run. std", "shift", "spread");
  out << line;
  const auto all = static_cast<std::ptrdiff_t>(d.channels.size());
  const std::vector<std::size_t> printed = detail::worst_of(d);
  for (const std::size_t c : printed) {
    const ChannelDiagnosis& one = d.channels[c];
    std::snprintf(line, sizeof line, "%7zu %11.4g %11.4g %11.4g %11.4g %9.2f %9.2f%s%s%s%s\n", c,
                  one.mean, one.running_mean, std::sqrt(one.var), std::sqrt(one.running_var),
                  one.shift, one.spread, one.is_finite ? "" : "  not finite",
                  one.is_far ? "  far off" : "", one.is_flat ? "  flat" : "",
                  one.is_dead ? "  dead" : "");
    out << line;
  }
  const auto say = [&](std::ptrdiff_t number, const char* what) {
    if (number > 0) out << number << " of " << all << " channels " << what << "\n";
  };
  if (printed.size() < d.channels.size())
    out << "The " << printed.size() << " worst of " << all << " channels.\n";
  if (d.never_updated)
    out << "The running statistics were never updated: the layer saw no batch in training mode, "
           "and no state was loaded.\n";
  if (!d.tracks) out << "The layer tracks no statistics: eval mode uses the batch's too.\n";
  say(all - d.number_of(&ChannelDiagnosis::is_finite),
      "have statistics that are not finite: look for NaN and infinity in x and in the loaded "
      "state.");
  say(d.number_of(&ChannelDiagnosis::is_far),
      "are far off: eval mode does not normalize them. Is x prepared as in training? Did the "
      "statistics see enough batches of this kind? Recalibration (moments.hpp) computes them "
      "again. "
      "If the weights change faster than the statistics follow, lower the learning rate.");
  say(d.number_of(&ChannelDiagnosis::is_flat),
      "are flat: they hardly vary, and eps sets their scale.");
  say(d.number_of(&ChannelDiagnosis::is_dead), "are dead: gamma is 0.");
  if (!d.explains_eval()) out << "Eval mode normalizes this batch as training mode does.\n";
  return out;
}

}  // namespace batchnorm
