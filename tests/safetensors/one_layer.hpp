// SPDX-License-Identifier: MIT
// Layers for the tests, and a file of a layer that is put together by hand.
#pragma once

#include <batchnorm/batchnorm.hpp>
#include <cstdint>
#include <string>

#include "safetensors/files.hpp"
#include "support/random.hpp"
#include "support/same_state.hpp"

namespace testing {

template <class Layer>
Layer random_layer(Eigen::Index channels, const batchnorm::Options& options = {}) {
  Layer bn(channels, options);
  Random random(static_cast<std::uint64_t>(channels));
  random.fill(bn.gamma());
  random.fill(bn.beta());
  random.fill(bn.running_mean());
  random.fill(bn.running_var());
  bn.running_var() = bn.running_var().array().square();
  bn.num_batches_tracked() = 12345678901;
  return bn;
}

template <class Layer>
bool same_layer(const Layer& a, const Layer& b) {
  return same_bits(a.gamma(), b.gamma()) && same_bits(a.beta(), b.beta()) &&
         same_bits(a.running_mean(), b.running_mean()) &&
         same_bits(a.running_var(), b.running_var()) &&
         a.num_batches_tracked() == b.num_batches_tracked();
}

/// A file by hand: a layer of one channel, and metadata.
inline std::string one_channel(const std::string& metadata) {
  return safetensors(
      "{" + (metadata.empty() ? "" : "\"__metadata__\":{" + metadata + "},") +
          R"("bn.weight":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},)"
          R"("bn.bias":{"dtype":"F64","shape":[1],"data_offsets":[4,12]},)"
          R"("bn.running_mean":{"dtype":"F16","shape":[1],"data_offsets":[12,14]},)"
          R"("bn.running_var":{"dtype":"BF16","shape":[1],"data_offsets":[14,16]},)"
          R"("bn.num_batches_tracked":{"dtype":"I64","shape":[],"data_offsets":[16,24]}}   )",
      // 1.5, -0.1, 1.5 and 1.5, by their IEEE bits; 258
      little_endian(0x3fc00000, 4) + little_endian(0xbfb999999999999a, 8) +
          little_endian(0x3e00, 2) + little_endian(0x3fc0, 2) + little_endian(258, 8));
}
inline const char* const all_metadata =
    R"("bn.eps":"1e-3","bn.momentum":"weight_of_new 0.25","bn.running_variance":"population")";

}  // namespace testing
