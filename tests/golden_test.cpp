// SPDX-License-Identifier: MIT
// Golden numbers: PyTorch's, computed in float64 by golden/make_golden.py, which says how to make
// them again.

#include <batchnorm/batchnorm.hpp>
#include <string>
#include <unsupported/Eigen/CXX11/Tensor>

#include "golden/golden_file.hpp"
#include "golden/replay.hpp"
#include "support/any_layer.hpp"
#include "support/catch.hpp"

namespace {

using batchnorm::BatchNorm1d;

/// The layer and the tensor that the shape of a case asks for.
template <typename Scalar, int Order>
void replay_tensors(const golden::Case& one) {
  const bool found = testing::with_rank(one.steps.at(0).shape.size(), [&](auto rank) {
    using Layer = testing::LayerOf<Scalar, decltype(rank)::value>;
    golden::replay_everywhere<Layer, Eigen::Tensor<Scalar, decltype(rank)::value, Order>>(one);
  });
  if (!found) FAIL("no layer has the rank of case " << one.name);
}

template <typename Scalar, int Order>
void replay_matrices(const golden::Case& one) {
  using Matrix = Eigen::Matrix<Scalar, Eigen::Dynamic, Eigen::Dynamic, Order>;
  if (one.steps.at(0).shape.size() == 2) {
    golden::replay_everywhere<BatchNorm1d<Scalar>, Matrix>(one);
  }
}

/// Calls replay for every case of every group, and makes sure that none was lost on the way.
template <typename Replay>
void for_all_cases(Replay replay) {
  const std::vector<std::pair<const char*, std::size_t>> groups = {{"module_matrix", 52},
                                                                   {"op_matrix", 6},
                                                                   {"tensorflow_shapes", 22},
                                                                   {"onednn_channels", 26},
                                                                   {"running_statistics", 9}};
  for (const auto& [group, count] : groups) {
    INFO("golden/" << group << ".txt");
    const auto cases = golden::read_cases(GOLDEN_FOLDER "/" + std::string(group) + ".txt");
    CHECK(cases.size() == count);
    for (const golden::Case& one : cases) replay(one);
  }
}

}  // namespace

TEMPLATE_TEST_CASE("tensors of every rank and order give PyTorch's numbers", "[golden]", float,
                   double) {
  for_all_cases([](const golden::Case& one) {
    replay_tensors<TestType, Eigen::RowMajor>(one);
    replay_tensors<TestType, Eigen::ColMajor>(one);
  });
}

TEMPLATE_TEST_CASE("matrices of N rows and C columns give PyTorch's numbers", "[golden]", float,
                   double) {
  for_all_cases([](const golden::Case& one) {
    replay_matrices<TestType, Eigen::RowMajor>(one);
    replay_matrices<TestType, Eigen::ColMajor>(one);
  });
}

TEMPLATE_TEST_CASE("half and bfloat16 give PyTorch's numbers, rounded once", "[golden]",
                   Eigen::half, Eigen::bfloat16) {
  for_all_cases([](const golden::Case& one) { replay_tensors<TestType, Eigen::RowMajor>(one); });
}
