// SPDX-License-Identifier: MIT
// Layers over processes: the tests that need more than one of them, run on any number of ranks.
#include <batchnorm/moments.hpp>
#include <batchnorm/mpi.hpp>
#include <batchnorm/sync.hpp>
#include <cmath>
#include <cstdio>
#include <functional>
#include <stdexcept>
#include <string>
#include <vector>

#include "support/random.hpp"
#include "support/reference.hpp"

namespace {

using batchnorm::BatchNorm1d;
using batchnorm::BatchNorm2d;
using batchnorm::Communicator;
using batchnorm::Options;
using batchnorm::SyncBatchNorm;
using Eigen::Index;
using Eigen::MatrixXd;
using testing::Values;

void require(bool condition, const std::string& what) {
  if (!condition) throw std::runtime_error("expected " + what);
}
void require_near(double got, double expected, double relative, const std::string& what) {
  require(std::abs(got - expected) <= relative * std::max(1., std::abs(expected)),
          what + " of " + std::to_string(expected) + ", got " + std::to_string(got));
}

/// Do all ranks hold the same bits?
void require_same(Communicator& world, const Eigen::VectorXd& mine, const std::string& what) {
  const MatrixXd all = world.all_gather(mine);
  for (Index r = 0; r < all.cols(); ++r) {
    require(all.col(r) == all.col(0), what + " to be the same on every rank");
  }
}

/// The samples that each rank has.
using Shards = std::vector<Index>;
Shards alike(int ranks) { return Shards(static_cast<std::size_t>(ranks), 6); }
Shards powers_of_ten(int ranks) {  // 10 on rank 0, 100 on rank 1, ...
  Shards sizes;
  for (int r = 0; r < ranks; ++r) sizes.push_back(r == 0 ? 10 : 10 * sizes.back());
  return sizes;
}
Shards all_on_the_last(int ranks) {
  Shards sizes(static_cast<std::size_t>(ranks), 0);
  sizes.back() = 9;
  return sizes;
}

struct Shard {
  Index first = 0, count = 0, all = 0;

  Shard(const Shards& sizes, int rank) : count(sizes[static_cast<std::size_t>(rank)]) {
    for (std::size_t r = 0; r < sizes.size(); ++r) {
      if (r < static_cast<std::size_t>(rank)) first += sizes[r];
      all += sizes[r];
    }
  }
};

/// Five steps of one layer over the ranks against the reference layer on the whole batch.
void steps_are_those_of_one_layer(Communicator& world, const Shards& sizes) {
  using Images = Eigen::Tensor<double, 4, Eigen::RowMajor>;
  using Form = testing::TensorForm<double, 4, Eigen::RowMajor>;
  constexpr auto first_axis = batchnorm::ChannelAxis::first;
  const Shard shard(sizes, world.rank());
  testing::ReferenceLayer reference(3, {});
  BatchNorm2d<double> bn(3);
  SyncBatchNorm sync(bn, world);
  for (std::uint64_t step = 0; step < 5; ++step) {
    const Values x = testing::random_values(shard.all, 3, {2, 2}, step);
    const Values dy = testing::random_values(shard.all, 3, {2, 2}, step + 100);
    const Values y = reference.forward(x), dx = reference.backward(x, dy);
    const auto mine = [&](const Values& v) {
      Values part(shard.count, 3, v.spatial);
      part.each([&](Index n, Index c, Index p) { part(n, c, p) = v(shard.first + n, c, p); });
      return Form::make(part, first_axis);
    };
    const Images my_x = mine(x), my_dy = mine(dy), expected_y = mine(y), expected_dx = mine(dx);
    const Images my_y = sync.forward(my_x), my_dx = sync.backward(my_x, my_dy);
    for (Index i = 0; i < my_y.size(); ++i) {
      require_near(my_y.data()[i], expected_y.data()[i], 1e-12, "y");
      require_near(my_dx.data()[i], expected_dx.data()[i], 1e-12, "dx");
    }
    const double rate = 1. / static_cast<double>(shard.all);
    bn.gamma() -= rate * world.all_reduce(bn.grad_gamma());
    bn.beta() -= rate * world.all_reduce(bn.grad_beta());
    bn.zero_grad();
    for (std::size_t c = 0; c < 3; ++c) {
      reference.gamma[c] -= rate * reference.grad_gamma[c];
      reference.beta[c] -= rate * reference.grad_beta[c];
      reference.grad_gamma[c] = reference.grad_beta[c] = 0;
    }
  }
  for (Index c = 0; c < 3; ++c) {
    const auto k = static_cast<std::size_t>(c);
    require_near(bn.gamma()[c], static_cast<double>(reference.gamma[k]), 1e-10, "gamma");
    require_near(bn.running_var()[c], static_cast<double>(reference.running_var[k]), 1e-12,
                 "running variance");
  }
  require_same(world, sync.saved().mean, "means");
  require_same(world, sync.saved().inv_std, "inverse deviations");
  require_same(world, bn.running_var(), "running variances");
  require_same(world, bn.gamma(), "gammas, by sums over the ranks,");
}

void merged_moments_are_those_of_one_process(Communicator& world) {
  const Shard shard(powers_of_ten(world.size()), world.rank());
  testing::Random random(7);
  MatrixXd x(shard.all, 4);
  random.fill(x, 20, 1);
  BatchNorm1d<double> bn(4);
  SyncBatchNorm sync(bn, world);
  static_cast<void>(sync.forward(x.middleRows(shard.first, shard.count)));
  const batchnorm::Moments whole = batchnorm::moments_of(x);
  for (Index c = 0; c < 4; ++c) {
    const double var = 1 / (sync.saved().inv_std[c] * sync.saved().inv_std[c]) - 1e-5;
    require_near(sync.saved().mean[c] / whole.mean[c], 1, 1e-13, "a mean's ratio");
    require_near(var / whole.var()[c], 1, 1e-13, "a variance's ratio");
  }
}

/// The call must throw on every rank, with one text that has all the parts.
void all_reject(Communicator& world, const std::vector<std::string>& parts,
                const std::function<void()>& call) {
  std::string text = "nothing";
  try {
    call();
  } catch (const std::exception& e) {
    text = e.what();
  }
  for (const std::string& part : parts) {
    require(text.find(part) != std::string::npos, "an error with '" + part + "', got " + text);
  }
  const auto hash = static_cast<double>(std::hash<std::string>()(text) >> 12);
  require_same(world, Eigen::VectorXd::Constant(1, hash), "the error's text");
}

void one_rejection_is_everybodys(Communicator& world) {
  const int last = world.size() - 1;
  const MatrixXd good = MatrixXd::Identity(4, 2), bad = MatrixXd::Identity(4, 3);
  BatchNorm1d<double> bn(2);
  SyncBatchNorm sync(bn, world);
  for (int round = 0; round < 20; ++round) {
    all_reject(world, {"[SyncBatchNorm1d::forward] expected 2 channels, got 3 in (4, 3)"},
               [&] { static_cast<void>(sync.forward(world.rank() == last ? bad : good)); });
    static_cast<void>(sync.forward(good));
    all_reject(world, {"[SyncBatchNorm1d::backward]", "(4, 2)", "(3, 2)"}, [&] {
      const Index rows = world.rank() == last ? 3 : 4;
      static_cast<void>(sync.backward(good.topRows(rows), good.topRows(rows)));
    });
    static_cast<void>(sync.backward(good, good));
  }
  require(bn.num_batches_tracked() == 20, "20 batches, the refused ones not counted");
}

void a_single_value_is_judged_over_all(Communicator& world) {
  const MatrixXd one = MatrixXd::Constant(1, 1, world.rank()), none(0, 1);
  BatchNorm1d<double> bn(1);
  SyncBatchNorm sync(bn, world);
  all_reject(world, {"more than one value per channel, got 1"},
             [&] { static_cast<void>(sync.forward(world.rank() == 0 ? one : none)); });
  all_reject(world, {"more than one value per channel, got 0"},
             [&] { static_cast<void>(sync.forward(none)); });
  if (world.size() > 1) {
    require(sync.forward(one).allFinite() && sync.saved().count == world.size(),
            "a value on each rank to make a batch");
  }
}

void groups_are_as_good_as_one_by_one(Communicator& world) {
  testing::Random random(11 + static_cast<std::uint64_t>(world.rank()));
  MatrixXd a(5, 2), b(5, 3);
  random.fill(a);
  random.fill(b);
  BatchNorm1d<double> bn_a(2), bn_b(3), one_a(2), one_b(3);
  SyncBatchNorm sync_a(bn_a, world), sync_b(bn_b, world), alone_a(one_a, world),
      alone_b(one_b, world);
  const MatrixXd ya = alone_a.forward(a), yb = alone_b.forward(b);
  const MatrixXd dxa = alone_a.backward(a, a), dxb = alone_b.backward(b, b);
  MatrixXd za(5, 2), zb(5, 3), dza(5, 2), dzb(5, 3);
  forward_together(sync_a.part(a, za), sync_b.part(b, zb));
  backward_together(sync_a.part(a, a, dza), sync_b.part(b, b, dzb));
  require(za == ya && zb == yb && dza == dxa && dzb == dxb, "groups to give the same");
  all_reject(world, {"expected 3 channels"}, [&] {
    forward_together(sync_a.part(a, za), sync_b.part(world.rank() == 0 ? a : b, zb));
  });
}

/// Different digits on each rank, so that any other order of additions would show.
void sums_have_the_same_bits(Communicator& world) {
  testing::Random random(13 + static_cast<std::uint64_t>(world.rank()));
  for (const Index count : {1, 7, 1000, 100000}) {
    Eigen::VectorXd mine(count);
    random.fill(mine, 0, 1e10);
    const Eigen::VectorXd sum = world.all_reduce(mine);
    require_same(world, sum, "sums");
    const Eigen::VectorXd in_order = world.Communicator::all_reduce(mine);
    // Up to four numbers of up to 5e10: a few roundings of at most 1.5e-5.
    require((sum - in_order).cwiseAbs().maxCoeff() <= 1e-4, "the ranks' sum");
  }
}

}  // namespace

int main(int argc, char** argv) {
  batchnorm::MpiRanks(argc, argv).run([](Communicator& world) {
    for (const auto& shards : {alike, powers_of_ten, all_on_the_last}) {
      steps_are_those_of_one_layer(world, shards(world.size()));
    }
    merged_moments_are_those_of_one_process(world);
    one_rejection_is_everybodys(world);
    a_single_value_is_judged_over_all(world);
    groups_are_as_good_as_one_by_one(world);
    sums_have_the_same_bits(world);
    if (world.rank() == 0) std::printf("%d ranks: as expected\n", world.size());
  });
}
