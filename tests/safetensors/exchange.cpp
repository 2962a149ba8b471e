// SPDX-License-Identifier: MIT
// exchange FROM TO: the C++ side of exchange.py. Reads the layers of file FROM and their inputs x,
// evaluates each, trains it by one batch and evaluates it again; writes the results and the trained
// layers to file TO.

#include <batchnorm/batchnorm.hpp>
#include <batchnorm/safetensors.hpp>
#include <cstdio>
#include <exception>

namespace {

using batchnorm::Options;
using batchnorm::SafetensorsReader;
using batchnorm::SafetensorsWriter;

template <int rank, class Layer>
void exchange(SafetensorsReader& from, SafetensorsWriter& to, const std::string& name, Layer bn) {
  using Scalar =
      typename std::conditional_t<std::is_same_v<typename Layer::Param, double>,
                                  std::common_type<double>, std::common_type<float>>::type;
  const auto x = from.tensor<Scalar, rank>("data." + name + ".x");
  bn.eval();
  to.add(name + ".before", bn.forward(x));
  bn.train();
  to.add(name + ".training", bn.forward(x));
  bn.eval();
  to.add(name + ".after", bn.forward(x));
  to.add(name + ".", bn);
}

}  // namespace

int main(int, char** arguments) try {
  using batchnorm::BatchNorm1d;
  using batchnorm::BatchNorm2d;
  using batchnorm::BatchNorm3d;
  SafetensorsReader from(arguments[1]);
  SafetensorsWriter to;
  // What the file says of eps, momentum and variance.
  exchange<4>(from, to, "float", from.layer<BatchNorm2d<float>>("float."));
  exchange<5>(from, to, "double", from.layer<BatchNorm3d<double>>("double."));
  exchange<3>(from, to, "average", from.layer<BatchNorm1d<double>>("average."));
  exchange<2>(from, to, "half", from.layer<BatchNorm1d<float>>("half."));
  exchange<4>(from, to, "bfloat16", from.layer<BatchNorm2d<float>>("bfloat16."));
  // What the caller says.
  Options bare;
  bare.scale = bare.shift = false;
  exchange<4>(from, to, "bare", from.layer<BatchNorm2d<double>>("bare.", bare));
  exchange<2>(from, to, "keras", from.layer<BatchNorm1d<double>>("keras.", Options::keras()));
  exchange<2>(from, to, "flax", from.layer<BatchNorm1d<double>>("flax.", Options::flax()));
  exchange<2>(from, to, "onnx", from.layer<BatchNorm1d<double>>("onnx.", Options::onnx()));
  to.write(arguments[2]);
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "%s\n", error.what());
  return 1;
}
