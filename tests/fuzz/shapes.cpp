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

template <class Scalar>
std::string walk(int spatial, fuzz::Choices& choices, int calls) {
  testing::Count count;
  if (spatial == 1) return testing::walk_of_layer<Scalar, 1>(choices, calls, count);
  if (spatial == 2) return testing::walk_of_layer<Scalar, 2>(choices, calls, count);
  return testing::walk_of_layer<Scalar, 3>(choices, calls, count);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  fuzz::Choices choices(data, size);
  const int calls = static_cast<int>(size / bytes_of_call);
  const int scalar = choices.below(4), spatial = 1 + choices.below(3);
  const std::string wrong = scalar == 0   ? walk<float>(spatial, choices, calls)
                            : scalar == 1 ? walk<double>(spatial, choices, calls)
                            : scalar == 2 ? walk<Eigen::half>(spatial, choices, calls)
                                          : walk<Eigen::bfloat16>(spatial, choices, calls);
  fuzz::require(wrong.empty(), wrong.c_str());
  return 0;
}
