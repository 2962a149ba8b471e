// SPDX-License-Identifier: MIT
#pragma once

#include "batchnorm/detail/loops.hpp"

namespace batchnorm::detail {

/// What the library has to know about the elements of a tensor: how to read and write them, and the
/// loops over them. Code outside the loops is the same for all scalars of one Param; half and
/// bfloat16 have other tables.
struct Elements {
  Index bytes;
  Index number_bytes;  // of Param
  /// Reads `count` elements that are `step` elements apart.
  void (*read)(const void* from, Index count, Index step, double* to);
  /// Writes v, a number of Param, rounded to the element's type.
  void (*write)(void* to, double v);
  Loops moments, gradients, normalize, input_gradient;
};

template <class T>
void read_elements(const void* from, Index count, Index step, double* to) {
  const T* const elements = static_cast<const T*>(from);
  for (Index i = 0; i < count; ++i) to[i] = static_cast<double>(elements[i * step]);
}
/// NaN is written by its bits: Eigen's rounding to 16 bits may change it to infinity.
template <class T>
void write_element(void* to, double v) {
  T element = static_cast<T>(static_cast<ParamOf<T>>(v));
  if constexpr (sizeof(T) == 2) {
    if (is_nan(v)) element = bit_cast<T>(std::uint16_t{0x7fff});
  }
  *static_cast<T*>(to) = element;
}

template <class T>
[[nodiscard]] Elements make_elements() {
  return {sizeof(T),
          sizeof(ParamOf<T>),
          read_elements<T>,
          write_element<T>,
          loops_of<Moments, T>(),
          loops_of<Gradients, T>(),
          loops_of<Normalize, T>(),
          loops_of<InputGradient, T>()};
}
/// The table for T. The first call finds out what the processor can do. The table is not a list
/// here: g++ would write the constants of a list before the program starts, and clang when it runs,
/// so that a program of files from both could have a table without them.
template <class T>
[[nodiscard]] const Elements* elements_of() {
  static const Elements table = make_elements<T>();
  return &table;
}

#if defined(BATCHNORM_COMPILED)
extern template const Elements* elements_of<float>();
extern template const Elements* elements_of<double>();
extern template const Elements* elements_of<Eigen::half>();
extern template const Elements* elements_of<Eigen::bfloat16>();
#endif

}  // namespace batchnorm::detail
