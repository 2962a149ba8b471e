// SPDX-License-Identifier: MIT
// Two files of one program, one built with EIGEN_USE_THREADS and one without, share these.
#pragma once

#include <batchnorm/batchnorm.hpp>
#include <unsupported/Eigen/CXX11/Tensor>

using Batch = Eigen::Tensor<float, 4, Eigen::RowMajor>;
using Layer = batchnorm::BatchNorm2d<float>;

// In with_threads.cpp:
void use_threads(Layer& layer);  // lends it a pool that lives as long as the program
Batch forward_with_threads(Layer& layer, const Batch& x);
Batch backward_with_threads(Layer& layer, const Batch& x, const Batch& dy);
