// SPDX-License-Identifier: MIT
#pragma once

#include "batchnorm/detail/core.hpp"

// The explicit instantiations of the target batchnorm::compiled. Its one source file includes this
// header; no other file may. With BATCHNORM_COMPILED, which the target defines for its users, the
// other headers declare the same instantiations extern. Both kinds of build compute the same bits.
namespace batchnorm::detail {

template struct Core<float>;
template struct Core<double>;
template <>
int library_of_the_same_flags<(EIGEN_MAX_ALIGN_BYTES), malloc_is_aligned, debug_containers>() {
  return 0;
}

template const Elements* elements_of<float>();
template const Elements* elements_of<double>();
template const Elements* elements_of<Eigen::half>();
template const Elements* elements_of<Eigen::bfloat16>();

}  // namespace batchnorm::detail
