// SPDX-License-Identifier: MIT
#pragma once

// Layers in safetensors files, as Python's frameworks write and read them. This header needs
// nlohmann-json. The CMake target is batchnorm::safetensors, of the component safetensors.
//
//   batchnorm::save_safetensors("bn.safetensors", bn);          // one layer
//   batchnorm::load_safetensors("bn.safetensors", bn);
//
//   batchnorm::SafetensorsWriter network;                       // the layers of a network
//   network.add("layer1.0.bn1.", bn1).add("fc.weight", w).write("net.safetensors");
//
//   batchnorm::SafetensorsReader file("net.safetensors");
//   file.entries();                                             // names with dtype and shape
//   file.batch_norm_prefixes();                                 // {"layer1.0.bn1."}
//   auto bn1 = file.layer<batchnorm::BatchNorm2d<float>>("layer1.0.bn1.");
//   auto w = file.matrix<float>("fc.weight");                   // row-major Eigen::Matrix
//   auto b = file.vector<float>("fc.bias");                     // column Eigen::Matrix
//   auto k = file.tensor<float, 4>("conv.weight");              // row-major Eigen::Tensor
//   auto q = file.bytes("quantized.weight");                    // any dtype; add() writes it again
//
// SafetensorsWriter does not copy tensors that have a name: they must live until write() returns.
//
// Layers are written with PyTorch's names after a prefix. They are read with the names of PyTorch,
// Keras, Flax and others, see safetensors/names.hpp. The file's metadata hold, under the same
// prefix, the layer's options:
//   eps "1e-05",  momentum "weight_of_new 0.1" or "cumulative",  running_variance "unbiased" or
//   "population",  channel_axis,  single_value,  non_finite
// Files that Python wrote seldom have such metadata: there the caller must state the options, as in
// layer(prefix, Options::pytorch()). If both have eps, momentum and running_variance, these must
// agree. Whether there is a gamma and a beta, the file says. A layer from a file is in training
// mode. A layer with scale, shift and track_running_stats off has no numbers, so a file has only its
// options: it cannot be read from there.
//
// Errors are std::invalid_argument, which names the file and what is wrong with it,
// and std::runtime_error if the file cannot be read or written. An entry that nobody asks for is no
// error, whatever its dtype, unless it stands under a layer's prefix.

#include <filesystem>
#include <string>

#include "batchnorm/layer.hpp"
#include "batchnorm/safetensors/reader.hpp"
#include "batchnorm/safetensors/writer.hpp"

namespace batchnorm {

/// Writes one layer.
template <class Scalar, int spatial>
void save_safetensors(const std::filesystem::path& path, const BatchNorm<Scalar, spatial>& bn,
                      const std::string& prefix = "") {
  SafetensorsWriter().add(prefix, bn).write(path);
}
/// Reads one layer. If that fails, the layer is unchanged. The file's eps, momentum and variance
/// estimate, if it has them, must be the layer's.
template <class Scalar, int spatial>
void load_safetensors(const std::filesystem::path& path, BatchNorm<Scalar, spatial>& bn,
                      const std::string& prefix = "") {
  SafetensorsReader(path).load(bn, prefix);
}

}  // namespace batchnorm
