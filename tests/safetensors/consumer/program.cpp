// SPDX-License-Identifier: MIT
// Writes a layer and reads it again.
#include <batchnorm/batchnorm.hpp>
#include <batchnorm/safetensors.hpp>

int main() {
  batchnorm::BatchNorm1d<float> bn(2);
  bn.gamma()[1] = 5;
  batchnorm::save_safetensors("bn.safetensors", bn);
  batchnorm::BatchNorm1d<float> copy(2);
  batchnorm::load_safetensors("bn.safetensors", copy);
  return copy.gamma()[1] == 5 ? 0 : 1;
}
