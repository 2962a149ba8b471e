// SPDX-License-Identifier: MIT
// All headers, and layers of each scalar, in what users' programs may put around them: macros of
// other headers, and the warnings that some projects treat as errors. It is compiled, not run.

#define EIGEN_USE_THREADS
#if defined(MIN_AND_MAX_ARE_MACROS)  // as after windows.h, where Eigen was included before
#include <condition_variable>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <map>
#include <optional>
#include <random>
#include <thread>
#include <unsupported/Eigen/CXX11/Tensor>
#include <valarray>
#if __has_include(<nlohmann/json.hpp>)
#include <nlohmann/json.hpp>
#endif
#define min(a, b) write_parentheses_around_min
#define max(a, b) write_parentheses_around_max
#define check(a) macos_had_this_macro
#endif

#include <batchnorm/batchnorm.hpp>
#include <batchnorm/diagnose.hpp>
#include <batchnorm/extras/fixed.hpp>
#include <batchnorm/extras/fused.hpp>
#include <batchnorm/extras/in_place.hpp>
#include <batchnorm/extras/renorm.hpp>
#include <batchnorm/extras/second_order.hpp>
#include <batchnorm/extras/switched.hpp>
#include <batchnorm/extras/weighted.hpp>
#include <batchnorm/federated.hpp>
#include <batchnorm/fold.hpp>
#include <batchnorm/moments.hpp>
#include <batchnorm/state.hpp>
#include <batchnorm/sync.hpp>
#if __has_include(<nlohmann/json.hpp>)
#include <batchnorm/safetensors.hpp>
#endif

template <class Scalar>
struct Use {
  using Rows = Eigen::Matrix<Scalar, Eigen::Dynamic, Eigen::Dynamic>;
  static Rows rows(batchnorm::BatchNorm1d<Scalar>& layer, const Rows& x) {
    const Rows y = layer.forward(x.topRows(2));
    return layer.backward(x.topRows(2), y);
  }
  using X = Eigen::Tensor<Scalar, 4, Eigen::RowMajor>;
  static X all(batchnorm::BatchNorm2d<Scalar>& layer, const X& x,
               const Eigen::ThreadPoolDevice* device) {
    const X y = layer.forward(x), z = layer.infer(x), folded = layer.folded().apply(x);
    batchnorm::load_state_dict(layer, batchnorm::state_dict(layer));
    layer.set_device(device);
    return layer.backward(x, X(y + z + folded));
  }
};
template struct Use<float>;
template struct Use<double>;
template struct Use<Eigen::half>;
template struct Use<Eigen::bfloat16>;
