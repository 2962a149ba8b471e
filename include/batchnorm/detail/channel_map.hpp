// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>

#include "batchnorm/detail/exact.hpp"
#include "batchnorm/detail/plan.hpp"
#include "batchnorm/functional.hpp"

namespace batchnorm::detail {

/// y = scale * (x - center) + shift for at most most_columns channels, whose numbers lie on the
/// stack: calls share no memory and allocate none.
template <class T, class Param>
void map_some_channels(const View<const T>& x, const View<T>& y, const Param* scale_data,
                       const Param* center_data, const Param* shift_data) {
  using A = ParamOf<T>;
  ColumnArray<A> center, scale, shift;
  const auto fits = [=](Index c) {
    return fits_as_offset(static_cast<A>(center_data[c])) &
           fits_as_factor(static_cast<A>(scale_data[c])) &
           fits_as_offset(static_cast<A>(shift_data[c]));
  };
  const auto is_finite_map = [=](Index c) {
    return is_finite(static_cast<double>(center_data[c])) &&
           is_finite(static_cast<double>(scale_data[c]));
  };
  for (Index c = 0; c < x.channels; ++c) {
    center.data[c] = static_cast<A>(center_data[c]);
    scale.data[c] = static_cast<A>(scale_data[c]);
    shift.data[c] = static_cast<A>(shift_data[c]);
  }
  for_channels_but(0, x.channels, fits,
                   [&](Index c) {  // a copy, for the long way to follow, or NaN
                     center.data[c] = shift.data[c] = 0;
                     scale.data[c] = is_finite_map(c) ? A(1) : not_a_number<A>();
                   });

  Operands<T> operands{1, {x, {}}, y};
  const Plan plan = plan_for(operands, false);
  const A* const numbers[] = {center.data, scale.data, shift.data};
  with_kernels([&](auto kernels) {
    for (Index g = 0; g < plan.groups; ++g) {
      for (Index s = 0; s < plan.slabs; ++s) {
        kernels.normalize(plan.loops, plan.part(g, s), operands, numbers);
      }
    }
  });
  for_channels_but(0, x.channels, fits, [&](Index c) {
    if (!is_finite_map(c)) return;
    const auto around_center =
        exact::statistics(x, c, static_cast<double>(center_data[c]), 1.0, false);
    exact::normalize(x, y, c, around_center, static_cast<double>(scale_data[c]),
                     static_cast<double>(shift_data[c]));
  });
}

/// y = scale * (x - center) + shift for any number of channels.
template <class T, class Param>
void map_channels(View<const T> x, View<T> y, const Param* scale, const Param* center,
                  const Param* shift) {
  if (x.size() == 0) return;
  const Index channels = x.channels;
  for (Index c = 0; c < channels; c += most_columns) {
    const auto some = [&](auto view) {
      view.data = view.at(0, c, 0);
      view.channels = std::min(most_columns, channels - c);
      return view;
    };
    map_some_channels<T>(some(x), some(y), scale + c, center + c, shift + c);
  }
}

}  // namespace batchnorm::detail
