// SPDX-License-Identifier: MIT
#pragma once

#include <cmath>
#include <vector>

#include "batchnorm/detail/exact.hpp"
#include "batchnorm/detail/sweep.hpp"

// The arguments of functional.hpp, and what its functions need for one call.
namespace batchnorm::functional {

using detail::Index, detail::Step, detail::View;

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
  [[nodiscard]] double inv_std() const { return detail::inv_std_of(var_eps, 0); }
};
/// A line of the cache.
struct alignas(detail::line_bytes) Line {
  char bytes[detail::line_bytes];
};
/// Memory for numbers per channel. It grows in the first calls, so that later ones allocate
/// nothing.
using Workspace = std::vector<Line>;
struct Resources {
  const detail::Workers& workers;
  Workspace& workspace;
};

// Steps, for channels [c0, c1). -------------------------------------------------------------------

/// y = (x - mean) * scale + shift, (C) each, for the loops. A channel with numbers beyond the range
/// of A is set aside: the loops only copy it, or write NaN if its statistics are not finite. The
/// slow path does the rest.
template <class A>
struct MapCoefficients {
  A *mean, *scale, *shift;
  char* is_beyond;

  void set_none_aside(Index c0, Index c1) const {
    for (Index c = c0; c < c1; ++c) is_beyond[c] = false;
  }
  void set_aside(Index c, bool finite) const {
    mean[c] = shift[c] = 0;
    scale[c] = finite ? A(1) : detail::not_a_number<A>();
    is_beyond[c] = finite;
  }
  [[nodiscard]] Step step(const View& from, const View& to) const {
    return {from.elements->normalize, sizeof(A), {mean, scale, shift}, {{from, {}}, to}};
  }
};

/// A call of functional.hpp: its operands, how they are cut, and its numbers per channel.
template <class A>
struct Call {
  detail::Operands v;
  detail::Plan plan;
  double n;  // values per channel
  detail::SlabSums sums;
  double* v0;
  MapCoefficients<A> k;
  A *inv_std, *mean_dy, *slope;

  Call(const detail::Operands& operands, bool twice, Workspace& memory)
      : v(operands), plan(detail::plan_for(v, twice)), n(static_cast<double>(v.in[0].count())) {
    const auto lines = [&](std::size_t bytes) {  // for one number per channel
      return (static_cast<std::size_t>(plan.channels) * bytes + sizeof(Line) - 1) / sizeof(Line);
    };
    const std::size_t of_double = lines(sizeof(double)), of_a = lines(sizeof(A));
    const std::size_t slabs = static_cast<std::size_t>(plan.slabs);
    const std::size_t all = (1 + 2 * slabs) * of_double + 6 * of_a + lines(1);
    if (memory.size() < all) memory.resize(all);
    Line* next = memory.data();
    const auto take = [&next](auto*& numbers, std::size_t count) {
      numbers = reinterpret_cast<std::remove_reference_t<decltype(numbers)>>(next);
      next += count;
    };
    take(v0, of_double), take(sums.first, 2 * slabs * of_double);
    sums.stride = static_cast<Index>(of_double * sizeof(Line) / sizeof(double));
    for (A** const numbers : {&k.mean, &k.scale, &k.shift, &inv_std, &mean_dy, &slope}) {
      take(*numbers, of_a);
    }
    take(k.is_beyond, lines(1));
  }
};

/// Calls f(numbers of channel c) for channels [c0, c1). An array that f writes must overlap no
/// other, so that compilers can vectorize the loop.
template <class F, class... N>
void for_channels(Index c0, Index c1, const F& f, N* __restrict... arrays) {
  for (Index c = c0; c < c1; ++c) f(arrays[c]...);
}
/// Calls f(c) for the channels for which holds(numbers of channel c), an integer, is 0. They are
/// rare: a loop without branches finds out whether there are any.
template <class Holds, class F, class... N>
void for_channels_but(Index c0, Index c1, const Holds& holds, const F& f, const N*... arrays) {
  decltype(holds(*arrays...)) exceptions = 0;
  for (Index c = c0; c < c1; ++c) exceptions += holds(arrays[c]...) == 0;
  for (Index c = c0; c < c1 && exceptions != 0; ++c) {
    if (!holds(arrays[c]...)) f(c);
  }
}

}  // namespace batchnorm::functional
