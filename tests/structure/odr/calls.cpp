// SPDX-License-Identifier: MIT
// Calls of every kind, compiled by two compilers, CALLS being the name for one of them. Of an inline
// function that both define the linker keeps one, which must suit the other's callers too.
#include "calls.hpp"

#include <batchnorm/batchnorm.hpp>
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
#include <vector>

namespace {

using Eigen::MatrixXf;
using Layer = batchnorm::BatchNorm1d<float>;

double of_layer(const MatrixXf& x) {
  Layer bn(3);
  const MatrixXf y = bn.forward(x), dx = bn.backward(x, y);
  const MatrixXf earlier = bn.backward(bn.saved(), x, y), z = bn.infer(x);
  batchnorm::load_state_dict(bn, batchnorm::state_dict(bn));
  return static_cast<double>((y + dx + earlier + z + bn.folded().apply(x)).sum());
}
double of_tensors() {
  Eigen::Tensor<double, 4, Eigen::RowMajor> x(4, 3, 5, 5);
  for (Eigen::Index i = 0; i < x.size(); ++i) x.data()[i] = static_cast<double>(i * i % 17);
  batchnorm::BatchNorm2d<double> bn(3);
  batchnorm::Fused fused(bn, batchnorm::LeakyRelu{0.5});
  auto y = fused.forward(x), dx = fused.backward(x, y), dr = x;
  fused.forward(x, y, batchnorm::plus(x));
  fused.backward(x, y, x, dx, dr);
  const Eigen::Tensor<double, 0, Eigen::RowMajor> sum = (y + dx + dr).sum();
  return sum();
}
double of_extras(const MatrixXf& x) {
  Layer bn(3);
  batchnorm::InPlace in_place(bn, batchnorm::Identity());
  MatrixXf y = x, dx = x;
  in_place.forward(y);
  in_place.backward(y, x, dx);
  batchnorm::BatchRenorm renorm(bn, batchnorm::RenormSchedule{});
  const MatrixXf renormed = renorm.forward(x), of_renorm = renorm.backward(x, renormed);
  batchnorm::Switched switched(bn, batchnorm::Normalize::batch, batchnorm::Update::never);
  const MatrixXf of_switched = switched.forward(x);
  static_cast<void>(bn.forward(x));
  const auto second = batchnorm::backward_of_backward(bn, x, x, y);
  batchnorm::Weighted weighted(bn);
  const Eigen::VectorXf w = Eigen::VectorXf::LinSpaced(x.rows(), 0.5f, 1);
  const MatrixXf of_weights = weighted.forward(x, batchnorm::weights(w));
  y += weighted.backward(x, of_weights);
  return static_cast<double>((y + dx + renormed + of_renorm + of_switched + second.x).sum());
}
double of_parts(const MatrixXf& x) {
  Layer bn(3);
  batchnorm::GhostBatches ghosts(bn, 4);
  const MatrixXf y = ghosts.forward(x), dx = ghosts.backward(x, y);
  batchnorm::MicroBatches micro(bn);
  micro.measure(x);
  const MatrixXf of_micro = micro.forward(x);
  micro.measure(x, of_micro);
  const MatrixXf folded =
      batchnorm::fold_into_linear(MatrixXf(x.topRows(3)), Eigen::VectorXf::Ones(3), bn).weight;
  std::vector<MatrixXf> of_ranks(2);
  batchnorm::Replicas replicas(2);
  replicas.run([&](batchnorm::Communicator& world) {
    Layer mine(3);
    batchnorm::SyncBatchNorm sync(mine, world);
    MatrixXf& of_rank = of_ranks[static_cast<std::size_t>(world.rank())];
    of_rank = sync.forward(x);
    of_rank += sync.backward(x, of_rank);
  });
  const MatrixXf sum = y + dx + of_micro + micro.backward(x, of_micro) + of_ranks[0] + of_ranks[1];
  return static_cast<double>(sum.sum() + folded.sum());
}

}  // namespace

double CALLS() {
  MatrixXf x(8, 3);
  for (Eigen::Index i = 0; i < x.size(); ++i) x.data()[i] = static_cast<float>(i * i % 11);
  return of_layer(x) + of_tensors() + of_extras(x) + of_parts(x);
}
