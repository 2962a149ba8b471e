// SPDX-License-Identifier: MIT
#pragma once

#include <cmath>
#include <vector>

#include "batchnorm/detail/exact.hpp"
#include "batchnorm/detail/sweep.hpp"

// The arguments of functional.hpp, and the steps that its functions consist of.
namespace batchnorm::functional {

using detail::Index, detail::Step, detail::View;

// Arguments.
// -------------------------------------------------------------------------------------

/// gamma and beta, (C) each; a null pointer stands for ones or zeros.
template <class A>
struct Affine {
  const A* gamma;
  const A* beta;
  [[nodiscard]] double gamma_of(Index c) const { return gamma ? double{gamma[c]} : 1.0; }
  [[nodiscard]] double beta_of(Index c) const { return beta ? double{beta[c]} : 0.0; }
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
/// One channel's y = gamma * (x - mean) * inv_std + beta.
struct ChannelMap {
  double mean, inv_std, gamma, beta;
};
/// Memory for numbers per channel. It grows in the first calls, so that later ones allocate
/// nothing.
struct alignas(detail::line_bytes) Line {
  char bytes[detail::line_bytes];
};
using Workspace = std::vector<Line>;
struct Resources {
  const detail::Workers& workers;
  Workspace& workspace;
};

// Steps, for channels [c0, c1).
// --------------------------------------------------------------------

/// y = (x - mean) * scale + shift, (C) each, for the loops. A channel with numbers beyond the range
/// of A is set aside: the loops only copy it, or write NaN if its statistics are not finite. The
/// slow path does the rest.
template <class A>
struct MapCoefficients {
  A *mean, *scale, *shift;
  char* is_beyond;

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

/// Calls f(c) for the channels for which `holds`, an integer, is 0. They are rare: a loop without
/// branches finds out whether there are any.
template <class Holds, class F>
void for_channels_but(Index c0, Index c1, const Holds& holds, const F& f) {
  auto all = holds(c0);
  for (Index c = c0; c < c1; ++c) all &= holds(c);
  for (Index c = c0; c < c1 && !all; ++c) {
    if (!holds(c)) f(c);
  }
}

/// Sums are taken about one of the channel's values, v0. So a mean that is large against the
/// deviation takes no digits from them, and a constant channel has variance 0.
template <class A>
[[nodiscard]] Step sum_moments(const Call<A>& call) {
  const View& x = call.v.in[0];
  const void* const middle = x.at(x.outer / 2, 0, x.inner / 2);
  x.elements->read(middle, x.channels, x.channel_stride, call.v0);
  return {x.elements->moments, sizeof(double), {call.v0}, {{x, {}}, {}}};
}
/// mu = v0 + sum d / n,  var = (sum d^2 - (sum d)^2 / n) / n,  inv_std = 1 /
/// sqrt(var + eps)
template <class A>
void finish_moments(const Call<A>& call, Index c0, Index c1, double eps, const Statistics& out) {
  const double *const v0 = call.v0, *const d = call.sums.of(0).of[0];
  const double *const dd = call.sums.of(0).of[1], n = call.n, one_nth = 1 / n;
  double *const mean = out.mean, *const var = out.var;
  for (Index c = c0; c < c1; ++c) {
    mean[c] = v0[c] + d[c] * one_nth;
    var[c] = (dd[c] - d[c] * d[c] * one_nth) * one_nth;
  }
  detail::inverse_roots(var + c0, c1 - c0, eps, out.inv_std + c0);
  // Not so if v0 lies far out, if squares overflowed or lost bits, or if var + eps is 0.
  const std::int64_t has_eps = eps > 0;
  const auto is_good = [=](Index c) {
    const std::int64_t has_bits = dd[c] >= 0x1p-960, is_constant = dd[c] == 0;
    return detail::is_finite(d[c]) & detail::is_finite(dd[c]) &
           std::int64_t(var[c] * n >= 0.01 * dd[c]) & (has_bits | (is_constant & has_eps));
  };
  for_channels_but(c0, c1, is_good, [&](Index c) {
    const auto exactly = detail::exact::measure<A>(call.v.in[0], c, eps);
    mean[c] = detail::narrow<double>(exactly.mean);
    var[c] = detail::narrow<double>(exactly.var);
    out.inv_std[c] = detail::narrow<double>(exactly.inv_std);
  });
}

/// Channels [c0, c1) of a parameter; if it is null, what stands for it.
template <class A>
void copy_or_fill(const A* parameter, A otherwise, Index c0, Index c1, A* to) {
  for (Index c = c0; c < c1; ++c) to[c] = parameter ? parameter[c] : otherwise;
}
/// From the statistics, and gamma in k.scale and beta in k.shift.
template <class A>
void prepare_map(Index c0, Index c1, const double* mu, const double* inv_std,
                 const MapCoefficients<A>& k) {
  A *const mean = k.mean, *const scale = k.scale, *const shift = k.shift;
  std::fill(k.is_beyond + c0, k.is_beyond + c1, false);
  for (Index c = c0; c < c1; ++c) {
    const double gamma = static_cast<double>(scale[c]), factor = gamma * inv_std[c];
    const double correction = detail::rounding_error<A>(mu[c]) * factor;
    mean[c] = static_cast<A>(mu[c]);
    scale[c] = detail::as_factor<A>(factor, gamma, inv_std[c]);
    shift[c] = static_cast<A>(static_cast<double>(shift[c]) - correction);
  }
  const auto fits = [=](Index c) {
    return detail::fits_as_offset(mean[c]) & detail::fits_as_factor(scale[c]) &
           detail::fits_as_offset(shift[c]) & detail::fits_as_offset_times(mean[c], scale[c]) &
           detail::fits_as_inv_std(static_cast<A>(inv_std[c]));
  };
  for_channels_but(c0, c1, fits, [&](Index c) {
    k.set_aside(c, detail::is_finite(mu[c]) && detail::is_finite(inv_std[c]));
  });
}
template <class A>
void prepare_normalize(const Call<A>& call, Index c0, Index c1, const Normalizer& by,
                       const Affine<A>& affine) {
  copy_or_fill<A>(affine.gamma, 1, c0, c1, call.k.scale);
  copy_or_fill<A>(affine.beta, 0, c0, c1, call.k.shift);
  prepare_map(c0, c1, by.mean, by.inv_std, call.k);
}

/// Calls f(c, statistics) for the channels that were set aside. A batch's inv_std that is too small
/// for a double is measured again.
template <class A, class F>
void for_beyond(const Call<A>& call, const Normalizer& by, const F& f) {
  for (Index c = 0; c < call.plan.channels; ++c) {
    if (call.k.is_beyond[c]) f(c, exactly(call, c, by));
  }
}
template <class A>
[[nodiscard]] detail::exact::Statistics<A> exactly(const Call<A>& call, Index c,
                                                   const Normalizer& by) {
  const auto bits = detail::magnitude_bits(by.inv_std[c]);
  const auto least = detail::magnitude_bits(std::numeric_limits<double>::min());
  const bool is_subnormal = by.of_batch && bits != 0 && bits < least;
  if (is_subnormal) return detail::exact::measure<A>(call.v.in[0], c, 0);
  return {by.mean[c], 0, by.inv_std[c]};
}
template <class A, class Y = detail::exact::Z>
void normalize_beyond(const Call<A>& call, const Normalizer& by, const Affine<A>& affine,
                      const Y& y_of = {}) {
  for_beyond(call, by, [&](Index c, const detail::exact::Statistics<A>& s) {
    detail::exact::normalize<A>(call.v.in[0], call.v.out, c, s, affine.gamma_of(c),
                                affine.beta_of(c), y_of);
  });
}

/// The factor of inv_std in the sums, so that products of small numbers keep their bits.
inline constexpr double enlarged = 0x1p40;

template <class A>
[[nodiscard]] Step sum_gradients(const Call<A>& call, const Normalizer& by) {
  for (Index c = 0; c < call.plan.channels; ++c) {
    call.k.mean[c] = static_cast<A>(by.mean[c]);
    call.inv_std[c] = static_cast<A>(by.inv_std[c] * enlarged);
  }
  const View &x = call.v.in[0], &dy = call.v.in[1];
  return {x.elements->gradients, sizeof(A), {call.k.mean, call.inv_std}, {{x, dy}, {}}};
}
/// dbeta = sum dy,  dgamma = sum dy * x_hat.  The loops used the mean as an A.
/// With an activation, dz(x, dy) stands for dy.
template <class A, class Dz = detail::exact::Dy>
void finish_gradients(const Call<A>& call, Index c0, Index c1, const Normalizer& by,
                      const GradientSums& out, const Dz& dz = {}) {
  const A *const mean = call.k.mean, *const inv_std = call.inv_std;
  const double *const sum_dy = call.sums.of(0).of[0], *const sum_dy_x_hat = call.sums.of(0).of[1];
  double *const dbeta = out.dbeta, *const dgamma = out.dgamma;
  for (Index c = c0; c < c1; ++c) {
    const double too_much = detail::rounding_error<A>(by.mean[c]) * by.inv_std[c];
    dbeta[c] = sum_dy[c];
    dgamma[c] = sum_dy_x_hat[c] * (1 / enlarged) - sum_dy[c] * too_much;
  }
  const auto is_good = [=](Index c) {
    return detail::fits_as_offset(mean[c]) & detail::fits_as_factor(inv_std[c]) &
           detail::is_finite(dbeta[c]) & detail::is_finite(dgamma[c]);
  };
  for_channels_but(c0, c1, is_good, [&](Index c) {
    if (!by.is_finite(c)) return;
    const View &x = call.v.in[0], &dy = call.v.in[1];
    const auto sums = detail::exact::sum_gradients<A>(x, dy, c, exactly(call, c, by), dz);
    dbeta[c] = detail::narrow<double>(sums.dbeta);
    dgamma[c] = detail::narrow<double>(sums.dgamma);
  });
}

/// dx = gamma * inv_std * (dy - dbeta / n - x_hat * dgamma / n) as
///   (dy - mean_dy) * scale + ((x - mean) * slope + shift)
/// By given statistics dx = gamma * inv_std * dy: a map of dy by mean 0 and beta 0.
template <class A>
void prepare_input_gradient(const Call<A>& call, Index c0, Index c1, const Normalizer& by,
                            const Affine<A>& affine, const GradientSums& sums, double n) {
  const MapCoefficients<A>& k = call.k;
  A *const mean = k.mean, *const scale = k.scale, *const shift = k.shift;
  A *const mean_dy = call.mean_dy, *const slope = call.slope;
  const double *const dbeta = sums.dbeta, *const dgamma = sums.dgamma;
  const double *const mu = by.mean, *const inv_std = by.inv_std, one_nth = 1 / n;
  copy_or_fill<A>(affine.gamma, 1, c0, c1, scale);
  if (!by.of_batch) {
    std::fill(call.v0 + c0, call.v0 + c1, 0.0), std::fill(shift + c0, shift + c1, A(0));
    return prepare_map(c0, c1, call.v0, inv_std, k);
  }
  std::fill(k.is_beyond + c0, k.is_beyond + c1, false);
  for (Index c = c0; c < c1; ++c) {
    const double gamma = static_cast<double>(scale[c]);
    const double m_dy = dbeta[c] * one_nth, m_dy_x_hat = dgamma[c] * one_nth;
    const double factor = gamma * inv_std[c], factor_x = -factor * (inv_std[c] * m_dy_x_hat);
    const double correction =
        -detail::rounding_error<A>(m_dy) * factor - detail::rounding_error<A>(mu[c]) * factor_x;
    mean[c] = static_cast<A>(mu[c]);
    scale[c] = detail::as_factor<A>(factor, gamma, inv_std[c]);
    slope[c] = detail::as_factor<A>(factor_x, gamma, inv_std[c], m_dy_x_hat);
    mean_dy[c] = static_cast<A>(m_dy);
    shift[c] = static_cast<A>(correction);
  }
  const auto fits = [=](Index c) {
    return detail::fits_as_offset(mean[c]) & detail::fits_as_factor(scale[c]) &
           detail::fits_as_offset(shift[c]) & detail::fits_as_offset(mean_dy[c]) &
           detail::fits_as_factor(slope[c]) & detail::fits_as_inv_std(static_cast<A>(inv_std[c]));
  };
  for_channels_but(c0, c1, fits, [&](Index c) {
    mean_dy[c] = slope[c] = 0;
    k.set_aside(c, by.is_finite(c));
  });
}
template <class A>
[[nodiscard]] Step map_input_gradient(const Call<A>& call, const Normalizer& by) {
  const View &x = call.v.in[0], &dy = call.v.in[1];
  const MapCoefficients<A>& k = call.k;
  if (!by.of_batch) return k.step(dy, call.v.out);
  return {x.elements->input_gradient,
          sizeof(A),
          {k.mean, k.scale, k.shift, call.mean_dy, call.slope},
          call.v};
}
/// dx of the channels that were set aside. `sums` are those of the whole batch, of which x may be a
/// part; null if x is the whole batch.
template <class A, class Dz = detail::exact::Dy>
void input_gradient_beyond(const Call<A>& call, const Normalizer& by, const Affine<A>& affine,
                           const GradientSums* sums, double n, const Dz& dz = {}) {
  const View &x = call.v.in[0], &dy = call.v.in[1];
  for_beyond(call, by, [&](Index c, const detail::exact::Statistics<A>& s) {
    detail::exact::GradientSums<A> both;
    if (by.of_batch && sums) {
      const double dbeta = sums->dbeta[c], dgamma = sums->dgamma[c];
      both = {dbeta, dgamma, detail::is_finite(dbeta) && detail::is_finite(dgamma)};
    } else if (by.of_batch) {
      both = detail::exact::sum_gradients<A>(x, dy, c, s, dz);
    }
    const double gamma = both.finite ? affine.gamma_of(c) : detail::not_a_number<double>();
    const auto count = static_cast<detail::Wide<A>>(n);
    detail::exact::input_gradient<A>(x, dy, call.v.out, c, s, gamma, both.dbeta / count,
                                     both.dgamma / count, dz);
  });
}

inline constexpr Index most_on_stack = 512;  // channels

/// y by map_of(c) for so few channels that their numbers lie on the stack.
template <class A, class MapOf>
void apply_some_maps(const View& x, const View& y, const MapOf& map_of) {
  A mean[most_on_stack], scale[most_on_stack], shift[most_on_stack];
  double mu[most_on_stack], inv_std[most_on_stack];
  char is_beyond[most_on_stack];
  const MapCoefficients<A> k{mean, scale, shift, is_beyond};
  for (Index c = 0; c < x.channels; ++c) {
    const ChannelMap m = map_of(c);
    mu[c] = m.mean, inv_std[c] = m.inv_std;
    scale[c] = static_cast<A>(m.gamma), shift[c] = static_cast<A>(m.beta);
  }
  prepare_map(0, x.channels, mu, inv_std, k);
  detail::Operands v{{x, {}}, y};
  const detail::Plan plan = detail::plan_for(v, false);
  detail::map_all(plan, detail::Workers(), k.step(v.in[0], v.out));
  for (Index c = 0; c < x.channels; ++c) {
    if (!is_beyond[c]) continue;
    const ChannelMap m = map_of(c);
    detail::exact::normalize<A>(x, y, c, {m.mean, 0, m.inv_std}, m.gamma, m.beta);
  }
}

}  // namespace batchnorm::functional
