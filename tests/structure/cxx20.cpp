// SPDX-License-Identifier: MIT
// Must compile as C++20.
#include <batchnorm/batchnorm.hpp>
#include <type_traits>

using batchnorm::Momentum;

static_assert(std::is_aggregate_v<batchnorm::Options>);
static_assert(std::is_aggregate_v<batchnorm::ChannelAffine<float>>);

batchnorm::BatchNorm2d<float> make() {
  return batchnorm::BatchNorm2d<float>(
      8, {.eps = 1e-3, .momentum = Momentum::weight_of_old(0.99), .shift = false});
}
