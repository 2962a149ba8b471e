// SPDX-License-Identifier: MIT
// Needs batchnorm::compiled.
#include <batchnorm/batchnorm.hpp>

int main() { return batchnorm::BatchNorm1d<float>(2).num_features() == 2 ? 0 : 1; }
