// SPDX-License-Identifier: MIT
#define EIGEN_USE_THREADS
#include "odr.hpp"

void use_threads(Layer& layer) {
  static Eigen::ThreadPool pool(2);
  static const Eigen::ThreadPoolDevice device(&pool, 2);
  layer.set_device(&device);
}

Batch forward_with_threads(Layer& layer, const Batch& x) { return layer.forward(x); }

Batch backward_with_threads(Layer& layer, const Batch& x, const Batch& dy) {
  return layer.backward(x, dy);
}
