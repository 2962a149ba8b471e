// SPDX-License-Identifier: MIT
// Calls of a layer that the input chooses: scalar, rank, storage order, strides, extents, options,
// modes, valid and not, against the slow model that the random calls are tested against.
#include <cstddef>
#include <cstdint>
#include <string>

#include "fuzz/choices.hpp"
#include "fuzz/require.hpp"
#include "support/walk.hpp"

namespace {

constexpr std::size_t bytes_of_call = 8;  // or more, and then the last calls are of zeros

template <class Scalar, int spatial>
std::string walk(fuzz::Choices& choices, int calls) {
  testing::Count count;
  return testing::walk_of_layer<Scalar, spatial>(choices, calls, count);
}

/// Every scalar and every rank; each with each would take minutes to compile.
std::string walk(fuzz::Choices& choices, int calls) {
  switch (choices.below(6)) {
    case 0:
      return walk<float, 1>(choices, calls);
    case 1:
      return walk<float, 2>(choices, calls);
    case 2:
      return walk<float, 3>(choices, calls);
    case 3:
      return walk<double, 1>(choices, calls);
    case 4:
      return walk<Eigen::half, 2>(choices, calls);
    default:
      return walk<Eigen::bfloat16, 3>(choices, calls);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  fuzz::Choices choices(data, size);
  const std::string wrong = walk(choices, static_cast<int>(size / bytes_of_call));
  fuzz::require(wrong.empty(), wrong.c_str());
  return 0;
}
