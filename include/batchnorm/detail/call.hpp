// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <type_traits>
#include <vector>

#include "batchnorm/detail/exact.hpp"
#include "batchnorm/detail/for_channels.hpp"
#include "batchnorm/detail/sweep.hpp"

// The arguments of functional.hpp, and what its functions need for one call.
namespace batchnorm::functional {

using namespace detail;  // the sweep, the formulas and exact::

// Arguments. --------------------------------------------------------------------------------------

/// gamma and beta, (C) each; a null pointer stands for ones or zeros.
template <class A>
struct Affine {
  const A* gamma;
  const A* beta;
  [[nodiscard]] double gamma_of(Index c) const { return gamma ? static_cast<double>(gamma[c]) : 1; }
  [[nodiscard]] double beta_of(Index c) const { return beta ? static_cast<double>(beta[c]) : 0; }
};
/// A batch's own statistics, (C) each, to be written. var is the population variance.
struct Statistics {
  double* mean;
  double* var;
  double* inv_std;
};
/// What x is normalized with, (C) each.
struct Normalizer {
  const double* mean;
  const double* inv_std;
  bool of_batch;  // the batch's own statistics, which depend on x
  [[nodiscard]] bool is_finite(Index c) const {
    return detail::is_finite(mean[c]) && detail::is_finite(inv_std[c]);
  }
};
/// dbeta and dgamma, (C) each.
struct GradientSums {
  double* dbeta;
  double* dgamma;
};
/// One channel's y = gamma * (x - mean) / sqrt(var_eps) + beta, where var_eps is var + eps.
struct ChannelMap {
  double mean, var_eps, gamma, beta;
  [[nodiscard]] double inv_std() const { return inv_std_of(var_eps, 0); }
};
/// A cache line.
struct alignas(line_bytes) Line {
  char bytes[line_bytes];
};
/// Memory for numbers per channel. It grows in the first calls, so that later ones allocate
/// nothing.
using Workspace = std::vector<Line>;
struct Resources {
  const Workers& workers;
  Workspace& workspace;
};

// Steps, for channels [c0, c1). -------------------------------------------------------------------

/// y = (x - mean) * scale + shift, (C) each, for the loops. A channel with numbers beyond the range
/// of A does not fit: the loops only copy it, and the slow path computes it. If its statistics are
/// not finite, the loops write NaN.
template <class A>
struct MapCoefficients {
  A *mean, *scale, *shift;
  std::int64_t* fits;  // 0: the slow path computes the channel

  void set_aside(Index c, bool finite) const {
    mean[c] = shift[c] = 0;
    scale[c] = finite ? A(1) : not_a_number<A>();
    fits[c] = !finite;
  }
  /// Calls f(c) for the channels in [c0, c1) that do not fit. They are rare: it skips 32 at once.
  template <class F>
  void for_each_unfit(Index c0, Index c1, const F& f) const {
    for (Index end; c0 < c1; c0 = end) {
      end = (std::min)(c0 + 32, c1);
      std::int64_t all_fit = 1;
      for (Index c = c0; c < end; ++c) all_fit &= fits[c];
      for (Index c = c0; c < end && !all_fit; ++c) {
        if (!fits[c]) f(c);
      }
    }
  }
  [[nodiscard]] Step step(const View& from, const View& to) const {
    return {from.elements->normalize, sizeof(A), {mean, scale, shift}, {{from, {}}, to}};
  }
};

/// A call of functional.hpp: its operands, how they are cut, and its numbers per channel.
template <class A>
struct Call {
  Operands v;
  Plan plan;
  double n;  // values per channel
  SlabSums sums;
  double* v0;            // (C) of Moments: one value of each channel; see prepare_input_gradient
  MapCoefficients<A> k;  // (C) of Normalize; InputGradient has mean, scale and shift too
  A* inv_std;            // (C) of Gradients, enlarged
  A *mean_dy, *slope;    // (C) of InputGradient alone

  Call(const Operands& operands, bool with_sums, Workspace& memory)
      : v(operands), plan(plan_for(v, with_sums)), n(static_cast<double>(v.in[0].count())) {
    const auto lines = [&](std::size_t bytes) {  // for one number per channel
      return (static_cast<std::size_t>(plan.channels) * bytes + sizeof(Line) - 1) / sizeof(Line);
    };
    const std::size_t of_double = lines(sizeof(double)), of_a = lines(sizeof(A));
    // v0, fits and two sums for each slab; mean, scale, shift, inv_std, mean_dy and slope
    const std::size_t all = static_cast<std::size_t>(2 + 2 * plan.slabs) * of_double + 6 * of_a;
    if (memory.size() < all) memory.resize(all);
    Line* next = memory.data();
    const auto take = [&next, &lines](auto*& numbers) {
      numbers = reinterpret_cast<std::remove_reference_t<decltype(numbers)>>(next);
      next += lines(sizeof *numbers);
    };
    take(v0), take(k.mean), take(k.scale), take(k.shift), take(k.fits);
    take(inv_std), take(mean_dy), take(slope);
    take(sums.first);  // and all that is left: 2 arrays for each slab
    sums.stride = static_cast<Index>(of_double * sizeof(Line) / sizeof(double));
  }
};

}  // namespace batchnorm::functional
