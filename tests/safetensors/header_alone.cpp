// SPDX-License-Identifier: MIT
// The header stands alone, and twice.
#include <batchnorm/safetensors.hpp>
//
#include <batchnorm/safetensors.hpp>
