// SPDX-License-Identifier: MIT
// ONNX's own test vectors of BatchNormalization, as Debian's libonnx-testdata brings them: those of
// the operator, and those converted from PyTorch.

#include <batchnorm/batchnorm.hpp>
#include <batchnorm/state.hpp>
#include <cmath>

#include "onnx/onnx_file.hpp"
#include "support/any_layer.hpp"
#include "support/catch.hpp"

using batchnorm::Momentum;
using batchnorm::Options;
using Eigen::Index;

namespace {

Eigen::VectorXd numbers(const onnx::Tensor& t) {
  return Eigen::Map<const Eigen::VectorXf>(t.values.data(), static_cast<Index>(t.values.size()))
      .cast<double>();
}

/// The vectors are in float, made by NumPy or PyTorch: a few roundings of 6e-8 from exact, as are
/// results here.
template <class Values>
void check_close(const Values& got, const onnx::Tensor& expected) {
  REQUIRE(static_cast<std::size_t>(got.size()) == expected.values.size());
  float worst = 0;
  for (std::size_t i = 0; i < expected.values.size(); ++i) {
    const float e = expected.values[i];
    worst = std::max(worst, std::abs(got.data()[i] - e) / std::max(1.0f, std::abs(e)));
  }
  CHECK(worst < 2e-6f);
}

/// The vectors in `folder`, through a layer that takes tensors of this rank.
template <class Layer, int rank>
void run(const std::filesystem::path& folder, const onnx::Node& node,
         const std::vector<onnx::Tensor>& inputs) {
  const auto data = folder / "test_data_set_0";
  const auto output = [&](int k) {
    return onnx::Tensor(onnx::file(data / ("output_" + std::to_string(k) + ".pb")));
  };
  Options options = Options::onnx();
  options.eps = node.attribute("epsilon", 1e-5);
  options.momentum = Momentum::weight_of_old(node.attribute("momentum", 0.9));
  Layer layer(static_cast<Index>(inputs[1].values.size()), options);
  load_state_dict(layer, {{"weight", numbers(inputs[1])},
                          {"bias", numbers(inputs[2])},
                          {"running_mean", numbers(inputs[3])},
                          {"running_var", numbers(inputs[4])}});
  const bool training = node.attribute("training_mode", 0) != 0;
  layer.train(training);

  using Tensor = Eigen::Tensor<float, rank, Eigen::RowMajor>;
  std::array<Index, rank> extents{};
  std::copy(inputs[0].dims.begin(), inputs[0].dims.end(), extents.begin());
  const Tensor x = Eigen::TensorMap<const Tensor>(inputs[0].values.data(), extents);
  REQUIRE(static_cast<std::size_t>(x.size()) == inputs[0].values.size());
  const Tensor y = layer.forward(x);
  check_close(y, output(0));
  if (training) {
    check_close(layer.running_mean(), output(1));
    check_close(layer.running_var(), output(2));
  } else {
    check_close(layer.folded().apply(x), output(0));
  }
}

/// Runs the vectors in a folder and gives the operator's node.
onnx::Node run(const std::string& name) {
  INFO(name);
  const std::filesystem::path folder = std::filesystem::path(ONNX_DATA) / name;
  const onnx::Graph graph(onnx::file(folder / "model.onnx"));
  const auto data = folder / "test_data_set_0";
  for (const onnx::Node& node : graph.nodes) {
    if (node.op_type != "BatchNormalization") continue;
    std::vector<onnx::Tensor> inputs;
    for (const std::string& input : node.inputs) {
      const auto it = graph.initializers.find(input);
      inputs.push_back(it != graph.initializers.end()
                           ? it->second
                           : onnx::Tensor(onnx::file(
                                 data / ("input_" + std::to_string(inputs.size()) + ".pb"))));
    }
    REQUIRE(inputs.size() == 5);
    const bool found = testing::with_rank(inputs[0].dims.size(), [&](auto rank) {
      run<testing::LayerOf<float, decltype(rank)::value>, decltype(rank)::value>(folder, node,
                                                                                 inputs);
    });
    if (!found) FAIL("unexpected rank " << inputs[0].dims.size());
    return node;
  }
  FAIL("no BatchNormalization in " << folder);
  return onnx::Node({});
}

}  // namespace

TEST_CASE("ONNX's vectors of BatchNormalization, in eval mode", "[onnx]") {
  CHECK(run("node/test_batchnorm_example").attributes.count("training_mode") == 0);
  CHECK(run("node/test_batchnorm_epsilon").attribute("epsilon", 0) == Approx(0.01));
}

TEST_CASE("ONNX's vectors of BatchNormalization, in training mode", "[onnx]") {
  CHECK(run("node/test_batchnorm_example_training_mode").attribute("training_mode", 0) == 1);
  CHECK(run("node/test_batchnorm_epsilon_training_mode").attribute("epsilon", 0) == Approx(0.01));
}

TEST_CASE("ONNX's vectors that were converted from PyTorch", "[onnx]") {
  run("pytorch-converted/test_BatchNorm1d_3d_input_eval");
  run("pytorch-converted/test_BatchNorm2d_eval");
  run("pytorch-converted/test_BatchNorm2d_momentum_eval");
  run("pytorch-converted/test_BatchNorm3d_eval");
}
