// SPDX-License-Identifier: MIT
// A layer replicated over ranks is one layer on the whole batch; what goes wrong on one rank goes
// wrong on all, and nobody waits for ever.
#define EIGEN_USE_THREADS

#include <dlfcn.h>
#include <pthread.h>

#include <atomic>
#include <batchnorm/moments.hpp>
#include <batchnorm/sync.hpp>
#include <cerrno>
#include <cmath>
#include <memory>
#include <stdexcept>

#include "support/check_layer.hpp"
#include "support/in_steps.hpp"
#include "support/refused.hpp"

using batchnorm::BatchNorm1d;
using batchnorm::BatchNorm2d;
using batchnorm::Communicator;
using batchnorm::NonFinite;
using batchnorm::Options;
using batchnorm::Replicas;
using batchnorm::SingleValue;
using batchnorm::SyncBatchNorm;
using Eigen::MatrixXd;
using testing::at;
using testing::check_throws;
using testing::Index;
using testing::random_matrix;
using testing::same_bits;
using testing::same_state;
using testing::Values;

#if !defined(__GLIBC__)
#define CANNOT_REPLACE_PTHREAD_CREATE
#elif defined(__clang__)  // whose sanitizers have a pthread_create that dlsym does not find
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define CANNOT_REPLACE_PTHREAD_CREATE
#endif
#endif

namespace {

std::atomic<int> threads_allowed{-1};  // how many more may be started; -1: any number

}  // namespace

#if !defined(CANNOT_REPLACE_PTHREAD_CREATE)
/// Takes the place of the C library's, for std::thread too, and calls it unless no more threads are
/// allowed.
extern "C" int pthread_create(pthread_t* thread, const pthread_attr_t* attributes,
                              void* (*body)(void*), void* argument) noexcept {
  if (threads_allowed == 0) return EAGAIN;
  if (threads_allowed > 0) --threads_allowed;
  static const auto next =
      reinterpret_cast<int (*)(pthread_t*, const pthread_attr_t*, void* (*)(void*), void*)>(
          dlsym(RTLD_NEXT, "pthread_create"));
  return next(thread, attributes, body, argument);
}
#endif

namespace {

std::vector<Index> sizes;  // of the shards, in samples

/// A layer on each of sizes.size() ranks. What it shows is rank 0's, with the gradients of all.
template <class Form>
class OverReplicas : public testing::LayerOfForm<Form> {
 public:
  using testing::LayerOfForm<Form>::LayerOfForm;

  Values forward(const Values& x) override {
    const auto xs = testing::cut(x, sizes);
    auto ys = xs;
    replicas_ = std::make_unique<Replicas>(static_cast<int>(sizes.size()));
    layers_.assign(sizes.size(), this->layer_);
    syncs_.clear();
    for (std::size_t r = 0; r < sizes.size(); ++r) {
      syncs_.emplace_back(layers_[r], replicas_->communicator(static_cast<int>(r)));
    }
    replicas_->run([&](Communicator& world) {
      const auto r = at(world.rank());
      ys[r] = read(syncs_[r].forward(make(xs[r])));
    });
    for (const auto& layer : layers_) {
      CHECK(same_bits(layer.running_mean(), layers_[0].running_mean()));
      CHECK(same_bits(layer.running_var(), layers_[0].running_var()));
    }
    this->layer_ = layers_[0];
    return testing::join(ys);
  }
  Values backward(const Values& x, const Values& dy) override {
    const auto xs = testing::cut(x, sizes), dys = testing::cut(dy, sizes);
    auto dxs = xs;
    for (std::size_t r = 1; r < sizes.size(); ++r) layers_[r].zero_grad();
    replicas_->run([&](Communicator& world) {
      const auto r = at(world.rank());
      auto dx = make(dys[r]);
      syncs_[r].backward(make(xs[r]), dx, dx);
      dxs[r] = read(dx);
    });
    this->layer_ = layers_[0];
    for (std::size_t r = 1; r < sizes.size(); ++r) {
      this->layer_.grad_gamma() += layers_[r].grad_gamma();
      this->layer_.grad_beta() += layers_[r].grad_beta();
    }
    return testing::join(dxs);
  }

 private:
  using Layer = testing::LayerOf<typename Form::Scalar, Form::rank>;

  auto make(const Values& v) const { return Form::make(v, this->axis_); }
  auto read(const typename Form::X& x) const { return Form::read(x, this->axis_); }

  std::unique_ptr<Replicas> replicas_;
  std::vector<Layer> layers_;
  std::vector<SyncBatchNorm<typename Form::Scalar, std::max(1, Form::rank - 2)>> syncs_;
};

/// What each rank threw: the type's name and the text.
template <class Work>
std::vector<std::string> thrown_on(int ranks, const Work& work) {
  std::vector<std::string> thrown(at(ranks));
  Replicas(ranks).run([&](Communicator& world) {
    try {
      work(world);
    } catch (const std::exception& e) {
      thrown[at(world.rank())] = std::string(typeid(e).name()) + " " + e.what();
    }
  });
  return thrown;
}
void check_same_error(const std::vector<std::string>& thrown,
                      const std::vector<std::string>& parts) {
  for (const std::string& one : thrown) {
    CHECK(one == thrown[0]);
    for (const std::string& part : parts) {
      INFO("expected '" << part << "' in: " << one);
      CHECK(one.find(part) != std::string::npos);
    }
  }
}

/// Passes calls on, and counts them.
class Counting final : public Communicator {
 public:
  explicit Counting(Communicator& world) : world_(world) {}
  int rank() const override { return world_.rank(); }
  int size() const override { return world_.size(); }
  MatrixXd all_gather(const Eigen::VectorXd& mine) override {
    ++gathered;
    return world_.all_gather(mine);
  }
  Eigen::VectorXd all_reduce(const Eigen::VectorXd& mine) override {
    ++reduced;
    return world_.all_reduce(mine);
  }
  int gathered = 0, reduced = 0;

 private:
  Communicator& world_;
};

/// Rank 0 of two, the other of which sends three numbers more. As MPI may, it does not mind.
class Careless final : public Communicator {
 public:
  int rank() const override { return 0; }
  int size() const override { return 2; }
  MatrixXd all_gather(const Eigen::VectorXd& mine) override {
    MatrixXd all(mine.size(), 2);
    all << mine, mine;
    all(0, 1) += 3;
    return all;
  }
};

}  // namespace

TEST_CASE("replicas are one layer on the whole batch, forward and backward", "[sync]") {
  const std::vector<std::vector<Index>> shards = {{10}, {5, 5}, {1, 0, 6, 1, 2}};
  testing::for_some_kinds<OverReplicas>([&](const testing::Kind& kind, const Values& x,
                                            const Values& dy, Options options, bool training) {
    Options bare = options;
    bare.track_running_stats = false;
    bare.scale = false;
    for (const auto& shard : shards) {
      INFO(shard.size() << " ranks");
      sizes = shard;
      testing::check_by_reference(kind, options, training, x, dy);
      testing::check_by_reference(kind, bare, training, x, dy);
    }
  });
}

TEST_CASE("every rank holds the same bits, within 1e-13 of one process's", "[sync]") {
  const MatrixXd x = random_matrix(1000, 3, 1).array() + 100;  // 50 deviations from 0
  const auto whole = batchnorm::moments_of(x);
  const std::vector<Index> starts = {0, 1, 1, 400, 1000};
  std::vector<BatchNorm1d<double>> layers(4, BatchNorm1d<double>(3));
  std::vector<batchnorm::Saved> saved(4);
  Replicas(4).run([&](Communicator& world) {
    const auto r = at(world.rank());
    SyncBatchNorm sync(layers[r], world);
    static_cast<void>(sync.forward(x.middleRows(starts[r], starts[r + 1] - starts[r])));
    saved[r] = sync.saved();
  });
  for (std::size_t r = 0; r < 4; ++r) {
    CHECK(same_bits(saved[r].mean, saved[0].mean));
    CHECK(same_bits(saved[r].inv_std, saved[0].inv_std));
    CHECK(saved[r].count == 1000);
  }
  for (Index c = 0; c < 3; ++c) {
    CHECK(std::abs(saved[0].mean[c] / whole.mean[c] - 1) <= 1e-13);
    const double var = 1 / (saved[0].inv_std[c] * saved[0].inv_std[c]) - 1e-5;
    CHECK(std::abs(var / whole.var()[c] - 1) <= 1e-13);
  }
}

TEST_CASE("what one rank rejects is rejected on every rank, with the same error", "[sync]") {
  std::vector<BatchNorm1d<double>> layers(3, BatchNorm1d<double>(2));
  const MatrixXd good = random_matrix(4, 2, 2), bad = random_matrix(4, 3, 3);
  const auto before = layers[0];
  check_same_error(
      thrown_on(3,
                [&](Communicator& world) {
                  SyncBatchNorm sync(layers[at(world.rank())], world);
                  static_cast<void>(sync.forward(world.rank() == 1 ? bad : good));
                }),
      {typeid(std::invalid_argument).name(),
       "[SyncBatchNorm1d::forward] expected 2 channels, got 3 in (4, 3) (on rank 1 of 3)"});
  for (const auto& layer : layers) CHECK(same_state(layer, before));

  check_same_error(thrown_on(3,
                             [&](Communicator& world) {
                               SyncBatchNorm sync(layers[at(world.rank())], world);
                               static_cast<void>(sync.forward(good));
                               const Index rows = world.rank() == 2 ? 3 : 4;
                               MatrixXd dx = MatrixXd::Zero(rows, 2);
                               sync.backward(good.topRows(rows), good.topRows(rows), dx);
                             }),
                   {typeid(std::invalid_argument).name(), "[SyncBatchNorm1d::backward]", "(4, 2)",
                    "(3, 2)", "(on rank 2 of 3)"});
  for (const auto& layer : layers) CHECK(layer.grad_gamma() == Eigen::Vector2d::Zero());

  check_same_error(thrown_on(2,
                             [&](Communicator& world) {
                               BatchNorm1d<double> bn(2);
                               if (world.rank() == 1) bn.gamma().resize(1);
                               SyncBatchNorm sync(bn, world);
                               static_cast<void>(sync.forward(good));
                             }),
                   {typeid(std::logic_error).name(), "gamma", "(on rank 1 of 2)"});
}

TEST_CASE("after an error the ranks go on", "[sync]") {
  const MatrixXd good = random_matrix(4, 2, 4), bad = random_matrix(4, 1, 5);
  Replicas(3).run([&](Communicator& world) {
    BatchNorm1d<double> bn(2);
    SyncBatchNorm sync(bn, world);
    for (int round = 0; round < 50; ++round) {
      bool refused = false;
      try {
        static_cast<void>(sync.forward(world.rank() == round % 3 ? bad : good));
      } catch (const std::invalid_argument&) {
        refused = true;
      }
      if (!refused) throw std::logic_error("expected an error in every round");
      static_cast<void>(sync.forward(good));
      static_cast<void>(sync.backward(good, good));
    }
    if (bn.num_batches_tracked() != 50) throw std::logic_error("expected 50 batches");
  });
}

TEST_CASE("a single value is judged over all ranks", "[sync]") {
  const MatrixXd none(0, 1), one = MatrixXd::Constant(1, 1, 3), other = MatrixXd::Constant(1, 1, 5);
  check_same_error(thrown_on(2,
                             [&](Communicator& world) {
                               BatchNorm1d<double> bn(1);
                               SyncBatchNorm sync(bn, world);
                               static_cast<void>(sync.forward(world.rank() == 0 ? one : none));
                             }),
                   {"[SyncBatchNorm1d::forward]", "more than one value per channel, got 1"});
  Replicas(2).run([&](Communicator& world) {
    BatchNorm1d<double> bn(1);
    SyncBatchNorm sync(bn, world);
    const MatrixXd y = sync.forward(world.rank() == 0 ? one : other);
    const double expected = (world.rank() == 0 ? -1 : 1) / std::sqrt(1 + 1e-5);
    if (std::abs(y(0) - expected) > 1e-15) throw std::logic_error("expected +-1");
  });
  Options options;
  options.single_value = SingleValue::use_running;
  Replicas(2).run([&](Communicator& world) {
    BatchNorm1d<double> bn(1, options);
    SyncBatchNorm sync(bn, world);
    const MatrixXd y = sync.forward(world.rank() == 0 ? one : none);
    if (world.rank() == 0 && std::abs(y(0) - 3 / std::sqrt(1 + 1e-5)) > 1e-15) {
      throw std::logic_error("expected x by running statistics 0 and 1");
    }
    const MatrixXd dx = sync.backward(world.rank() == 0 ? one : none, y);
    if (bn.num_batches_tracked() != 0) throw std::logic_error("expected no batch");
  });
}

TEST_CASE("values that are not finite are judged over all ranks", "[sync]") {
  MatrixXd good = random_matrix(4, 2, 6), bad = good;
  bad(1, 1) = std::nan("");
  Options options;
  options.non_finite = NonFinite::reject;
  check_same_error(thrown_on(3,
                             [&](Communicator& world) {
                               BatchNorm1d<double> bn(2, options);
                               SyncBatchNorm sync(bn, world);
                               static_cast<void>(sync.forward(world.rank() == 1 ? bad : good));
                             }),
                   {typeid(std::domain_error).name(), "[SyncBatchNorm1d::forward]", "channel 1"});
  std::vector<BatchNorm1d<double>> layers(3, BatchNorm1d<double>(2));
  Replicas(3).run([&](Communicator& world) {
    SyncBatchNorm sync(layers[at(world.rank())], world);
    static_cast<void>(sync.forward(world.rank() == 1 ? bad : good));
  });
  for (const auto& layer : layers) {
    CHECK(layer.running_mean()[1] == 0);  // left as it was
    CHECK(layer.running_mean()[0] != 0);
  }
}

TEST_CASE("a replica that ends leaves nobody waiting", "[sync]") {
  const MatrixXd x = random_matrix(4, 2, 7);
  check_throws<std::runtime_error>({"out of data"}, [&] {
    Replicas(3).run([&](Communicator& world) {
      if (world.rank() == 2) throw std::runtime_error("out of data");
      BatchNorm1d<double> bn(2);
      SyncBatchNorm sync(bn, world);
      static_cast<void>(sync.forward(x));
    });
  });
  check_throws<std::runtime_error>({"waits for an exchange with rank 1, which has ended"}, [&] {
    Replicas(2).run([&](Communicator& world) {
      if (world.rank() == 1) return;
      static_cast<void>(world.all_gather(Eigen::VectorXd::Zero(1)));
    });
  });
  check_throws<std::runtime_error>({"waits for an exchange with rank 0, which has ended"}, [&] {
    Replicas(2).run([&](Communicator& world) {
      if (world.rank() == 0) return;
      try {
        static_cast<void>(world.all_gather(Eigen::VectorXd::Zero(1)));
      } catch (const std::runtime_error&) {  // and asks once more
        static_cast<void>(world.all_gather(Eigen::VectorXd::Zero(1)));
      }
    });
  });
  const auto thrown = thrown_on(2, [](Communicator& world) {
    static_cast<void>(world.all_gather(Eigen::VectorXd::Zero(1 + world.rank())));
  });
  check_same_error(thrown, {"expected as many numbers from every rank"});
  Replicas(3).run([](Communicator& world) {  // whether it comes first, in the middle or last
    for (int round = 0; round < 30; ++round) {
      bool refused = false;
      try {
        static_cast<void>(world.all_gather(Eigen::VectorXd::Zero(world.rank() == 1 ? 2 : 1)));
      } catch (const std::logic_error&) {
        refused = true;
      }
      if (!refused) throw std::runtime_error("expected an error in every round");
    }
  });
  const auto channels = thrown_on(2, [&](Communicator& world) {
    BatchNorm1d<double> bn(1 + world.rank());
    SyncBatchNorm sync(bn, world);
    static_cast<void>(sync.forward(MatrixXd::Zero(4, 1 + world.rank())));
  });
  check_same_error(channels, {"expected as many numbers from every rank"});
}

TEST_CASE("a rank that leaves ends the exchanges of the others", "[sync]") {
  Replicas replicas(2);
  replicas.leave(1);
  check_throws<std::runtime_error>(
      {"rank 0 waits for an exchange with rank 1, which has ended"},
      [&] { static_cast<void>(replicas.communicator(0).all_gather(Eigen::VectorXd::Zero(1))); });
  check_throws<std::invalid_argument>({"a rank from 0 to 1, got 2"}, [&] { replicas.leave(2); });
}

TEST_CASE("an exchange after one of different lengths is as if there had been none", "[sync]") {
  Replicas(2).run([](Communicator& world) {
    bool refused = false;
    try {
      static_cast<void>(world.all_gather(Eigen::VectorXd::Zero(1 + world.rank())));
    } catch (const std::logic_error&) {
      refused = true;
    }
    if (!refused) throw std::runtime_error("expected an error");
    if (world.all_gather(Eigen::VectorXd::Ones(1)).sum() != 2)
      throw std::runtime_error("expected the 1 of both ranks");
  });
}

TEST_CASE("if a rank's thread cannot be started, the others end and run() throws", "[sync]") {
#if defined(CANNOT_REPLACE_PTHREAD_CREATE)
  WARN("skipped: the program cannot replace pthread_create here, so that no thread fails to start");
#else
  Replicas replicas(3);
  for (int started = 0; started < 3; ++started) {
    for (const bool exchange : {true, false}) {
      INFO(started << " threads of 3 start, " << (exchange ? "" : "not ")
                   << "to wait for the others");
      std::atomic<int> begun{0}, refused{0};
      threads_allowed = started;
      check_throws<std::runtime_error>(
          {"[Replicas::run] expected a thread for each of 3 ranks, got " + std::to_string(started),
           std::generic_category().message(EAGAIN)},
          [&] {
            replicas.run([&](Communicator& world) {
              ++begun;
              if (!exchange) return;
              try {
                static_cast<void>(world.all_gather(Eigen::VectorXd::Zero(1)));
              } catch (const std::runtime_error&) {
                ++refused;
                throw;
              }
            });
          });
      threads_allowed = -1;
      CHECK(begun == started);
      CHECK(refused == (exchange ? started : 0));
    }
  }
  std::atomic<int> done{0};
  replicas.run([&](Communicator& world) {  // they can run again
    if (world.all_gather(Eigen::VectorXd::Ones(1)).sum() == 3) ++done;
  });
  CHECK(done == 3);
#endif
}

TEST_CASE("layers that differ between ranks are refused where the exchange does not tell",
          "[sync]") {
  Careless world;
  BatchNorm1d<double> bn(2);
  SyncBatchNorm sync(bn, world);
  testing::check_refused<std::logic_error>(
      bn, {"[SyncBatchNorm::forward]", "expected layers alike on every rank"},
      [&] { static_cast<void>(sync.forward(MatrixXd::Zero(4, 2))); });
}

TEST_CASE("whatever one rank throws, all throw alike", "[sync]") {
  using namespace batchnorm::detail;
  const auto check = [](const auto& error) {
    using Error = std::decay_t<decltype(error)>;
    check_same_error(thrown_on(3,
                               [&](Communicator& world) {
                                 raise_together(world, caught([&] {
                                                  if (world.rank() == 1) throw error;
                                                }));
                               }),
                     {typeid(Error).name(), "its words (on rank 1 of 3)"});
  };
  check(std::invalid_argument("its words"));
  check(std::logic_error("its words"));
  check(std::domain_error("its words"));
  check(std::runtime_error("its words"));
}

TEST_CASE("exchanges give every rank's numbers in rank order, and their sum", "[sync]") {
  Replicas replicas(4);
  std::vector<MatrixXd> gathered(4);
  std::vector<Eigen::VectorXd> sums(4);
  replicas.run([&](Communicator& world) {
    const double r = world.rank();
    for (int round = 0; round < 200; ++round) {
      gathered[at(world.rank())] = world.all_gather(Eigen::Vector2d(r, 10 * r + round));
    }
    sums[at(world.rank())] = world.all_reduce(Eigen::Vector2d(r, 0x1p-60 + (r == 0 ? 1 : 0)));
  });
  MatrixXd expected(2, 4);
  expected << 0, 1, 2, 3, 199, 209, 219, 229;
  for (std::size_t r = 0; r < 4; ++r) {
    CHECK(gathered[r] == expected);
    CHECK(sums[r] == Eigen::Vector2d(6, 1));  // 1 first: the small ones are lost one by one
  }
}

TEST_CASE("layers that are grouped share one exchange, and one fate", "[sync]") {
  const MatrixXd a = random_matrix(6, 2, 8), b = random_matrix(6, 3, 9);
  Replicas(2).run([&](Communicator& plain) {
    const auto require = [](bool condition, const char* what) {
      if (!condition) throw std::logic_error(what);
    };
    Counting world(plain);
    const auto mine = [&](const MatrixXd& x) {
      return MatrixXd(world.rank() == 0 ? x.topRows(2) : x.bottomRows(4));
    };
    const MatrixXd xa = mine(a), xb = mine(b);
    BatchNorm1d<double> one_a(2), one_b(3), bn_a(2), bn_b(3);
    SyncBatchNorm alone_a(one_a, world), alone_b(one_b, world);
    const MatrixXd ya = alone_a.forward(xa), yb = alone_b.forward(xb);
    const MatrixXd dxa = alone_a.backward(xa, ya), dxb = alone_b.backward(xb, xb);
    require(world.gathered == 2 && world.reduced == 2, "one exchange for each layer");

    SyncBatchNorm sync_a(bn_a, world), sync_b(bn_b, world);
    MatrixXd za(xa.rows(), 2), zb(xb.rows(), 3), dza = za, dzb = zb;
    forward_together(sync_a.part(xa * 1, za), sync_b.part(xb, zb));
    backward_together(sync_a.part(xa, za * 1, dza), sync_b.part(xb, xb, dzb));
    require(world.gathered == 3 && world.reduced == 3, "one exchange for both layers");
    require(za == ya && zb == yb && dza == dxa && dzb == dxb, "the same results");
    require(bn_a.running_var() == one_a.running_var(), "the same statistics");
    require(bn_b.grad_gamma() == one_b.grad_gamma(), "the same gradients");

    const auto before = bn_a;
    bool refused = false;
    try {
      const MatrixXd wrong = world.rank() == 0 ? xa : xb;
      forward_together(sync_a.part(xa, za), sync_b.part(wrong, zb));
    } catch (const std::invalid_argument&) {
      refused = true;
    }
    require(refused && same_state(bn_a, before), "an error, and no layer changed");
    bn_a.eval();
    world.gathered = world.reduced = 0;
    static_cast<void>(sync_a.forward(xa));
    static_cast<void>(sync_a.backward(xa, xa));
    require(world.gathered == 0 && world.reduced == 0, "no exchange in eval mode");
    one_a = bn_a, one_b = bn_b;
    const MatrixXd by_running = alone_a.forward(xa), by_batch = alone_b.forward(xb);
    const MatrixXd d_running = alone_a.backward(xa, xa), d_batch = alone_b.backward(xb, xb);
    world.gathered = world.reduced = 0;
    forward_together(sync_a.part(xa, za), sync_b.part(xb, zb));
    backward_together(sync_a.part(xa, xa, dza), sync_b.part(xb, xb, dzb));
    require(world.gathered == 1 && world.reduced == 1, "one exchange for the layer that trains");
    require(za == by_running && zb == by_batch, "each layer's y by its own mode");
    require(dza == d_running && dzb == d_batch, "each layer's dx by its own mode");
    require(same_state(bn_a, one_a) && same_state(bn_b, one_b), "the same layers");
  });
}

TEST_CASE("layers that are grouped share an error that the whole batch alone shows", "[sync]") {
  Options options;
  options.non_finite = NonFinite::reject;
  const MatrixXd good = random_matrix(4, 2, 4);
  MatrixXd bad = good;
  bad(1, 1) = std::nan("");
  Replicas replicas(1);
  BatchNorm1d<double> first(2, options), second(2, options);
  SyncBatchNorm a(first, replicas.communicator(0)), b(second, replicas.communicator(0));
  const MatrixXd before = MatrixXd::Constant(4, 2, 7);
  MatrixXd y = before, z = before;
  testing::check_refused<std::domain_error>(
      first, {"channel 1"}, [&] { forward_together(a.part(good, y), b.part(bad, z)); });
  CHECK(y == before);
  CHECK(z == before);
}

TEST_CASE("a synchronized layer writes through a TensorRef", "[sync]") {
  using Tensor = Eigen::Tensor<double, 4, Eigen::RowMajor>;
  const Tensor x = testing::filled(Tensor(3, 2, 2, 2), 5);
  const Tensor dy = testing::filled(Tensor(3, 2, 2, 2), 6);
  Replicas replicas(1);
  BatchNorm2d<double> bn(2);
  SyncBatchNorm sync(bn, replicas.communicator(0));
  Tensor y(x.dimensions()), dx(x.dimensions());
  y.setZero(), dx.setZero();
  Eigen::TensorRef<Tensor> of_y(y), of_dx(dx);
  const Tensor expected_y = sync.forward(x), expected_dx = sync.backward(x, dy);
  sync.forward(x, of_y);
  sync.backward(x, dy, of_dx);
  CHECK(same_bits(y, expected_y));
  CHECK(same_bits(dx, expected_dx));
}

TEST_CASE("backward of a synchronized layer takes the shape of the last forward", "[sync]") {
  Replicas replicas(1);
  BatchNorm1d<double> bn(2);
  SyncBatchNorm sync(bn, replicas.communicator(0));
  const MatrixXd x = random_matrix(3, 2, 5), more = random_matrix(5, 2, 6);
  static_cast<void>(sync.forward(x));
  static_cast<void>(sync.forward(more));
  CHECK_NOTHROW(sync.backward(more, more));
  testing::check_refused<std::invalid_argument>(bn, {"(5, 2)", "(3, 2)"},
                                                [&] { static_cast<void>(sync.backward(x, x)); });
}

TEST_CASE("replicas that share a pool of threads do not hang", "[sync]") {
  // 786,432 values on each rank: enough to wake the pool's threads.
  Eigen::ThreadPool pool(2);
  const Eigen::ThreadPoolDevice device(&pool, 2);
  using Images = Eigen::Tensor<float, 4, Eigen::RowMajor>;
  Images x(12, 4, 128, 128);
  testing::Random random(10);
  for (Index i = 0; i < x.size(); ++i) x.data()[i] = static_cast<float>(random.uniform());
  std::vector<Images> with(3), without(3);
  for (auto* results : {&with, &without}) {
    Replicas(3).run([&](Communicator& world) {
      BatchNorm2d<float> bn(4);
      if (results == &with) bn.set_device(&device);
      SyncBatchNorm sync(bn, world);
      for (int round = 0; round < 3; ++round) {
        const Images y = sync.forward(x);
        (*results)[at(world.rank())] = sync.backward(x, y);
      }
    });
  }
  for (std::size_t r = 0; r < 3; ++r) CHECK(same_bits(with[r], without[r]));

  // And as tasks of the pool: a task each on a pool of as many threads.
  Replicas replicas(2);
  std::atomic<int> done{0};
  Eigen::Barrier both(2);
  for (int rank = 0; rank < 2; ++rank) {
    pool.Schedule([&, rank] {
      BatchNorm2d<float> bn(4);
      bn.set_device(&device);
      SyncBatchNorm sync(bn, replicas.communicator(rank));
      const Images y = sync.forward(x);
      if (same_bits(sync.backward(x, y), sync.backward(x, y))) ++done;
      both.Notify();
    });
  }
  both.Wait();
  CHECK(done == 2);
}

TEST_CASE("synchronized layers name what is missing", "[sync]") {
  const MatrixXd x = random_matrix(4, 2, 11);
  check_same_error(thrown_on(2,
                             [&](Communicator& world) {
                               BatchNorm1d<double> bn(2);
                               SyncBatchNorm sync(bn, world);
                               static_cast<void>(sync.backward(x, x));
                             }),
                   {"[SyncBatchNorm1d::backward] expected a forward before backward"});
  Replicas(1).run([&](Communicator& world) {
    BatchNorm1d<double> bn(2);
    static_cast<void>(bn.forward(x));
    SyncBatchNorm sync(bn, world);
    static_cast<void>(sync.forward(x));
    for (const batchnorm::Saved& saved : {bn.saved(), sync.saved()}) {
      check_throws<std::logic_error>({"expected a forward before backward"},
                                     [&] { static_cast<void>(bn.backward(saved, x, x)); });
    }
  });
  Replicas one(1), other(1);
  BatchNorm1d<double> left(2), right(2);
  SyncBatchNorm of_one(left, one.communicator(0)), of_other(right, other.communicator(0));
  MatrixXd y(4, 2), z(4, 2);
  testing::check_refused<std::logic_error>(left, {"expected layers of one communicator"}, [&] {
    forward_together(of_one.part(x, y), of_other.part(x, z));
  });
  check_throws<std::invalid_argument>({"at least 1 rank, got 0"}, [] { Replicas(0); });
  Replicas two(2);
  for (const int rank : {-1, 2}) {
    check_throws<std::invalid_argument>({"a rank from 0 to 1, got " + std::to_string(rank)},
                                        [&] { static_cast<void>(two.communicator(rank)); });
  }
}
