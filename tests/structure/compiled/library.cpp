// SPDX-License-Identifier: MIT
// The source file of batchnorm::compiled.
#include <batchnorm/detail/compiled.hpp>
