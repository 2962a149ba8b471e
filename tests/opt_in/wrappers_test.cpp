// SPDX-License-Identifier: MIT
// What holds for every object that wraps a layer: one thread at a time, results apart from what is
// read, and a refused forward that leaves the forward before it to be differentiated.

#include <batchnorm/extras/fused.hpp>
#include <batchnorm/extras/in_place.hpp>
#include <batchnorm/extras/renorm.hpp>
#include <batchnorm/extras/switched.hpp>
#include <batchnorm/extras/weighted.hpp>
#include <batchnorm/moments.hpp>
#include <batchnorm/sync.hpp>
#include <functional>
#include <stdexcept>
#include <string>

#include "support/allocations.hpp"
#include "support/catch.hpp"
#include "support/random.hpp"
#include "support/refused.hpp"

using batchnorm::BatchNorm1d;
using batchnorm::BatchRenorm;
using batchnorm::Fused;
using batchnorm::GhostBatches;
using batchnorm::Identity;
using batchnorm::InPlace;
using batchnorm::MicroBatches;
using batchnorm::plus;
using batchnorm::Relu;
using batchnorm::Replicas;
using batchnorm::Switched;
using batchnorm::SyncBatchNorm;
using batchnorm::Weighted;
using batchnorm::weights;
using Eigen::MatrixXd;
using Eigen::VectorXd;
using testing::check_refused;
using testing::filled;
using testing::same_bits;

namespace {

const MatrixXd x = filled(MatrixXd(6, 2), 1), dy = filled(MatrixXd(6, 2), 2);
const MatrixXd one = MatrixXd::Ones(1, 2);  // a single value per channel, which forward refuses
const VectorXd ones = VectorXd::Ones(6);

}  // namespace

TEST_CASE("every wrapper refuses a call while another thread is inside the layer", "[wrappers]") {
  BatchNorm1d<double> bn(2);
  const auto check = [&](const char* wrapper, const auto& forward, const auto& backward) {
    INFO(wrapper);
    const auto refused = [&](const auto& call) {
      // As if another thread were inside the layer.
      const batchnorm::detail::Entered inside(bn.core().in_use, {"other", "thread"});
      check_refused<std::logic_error>(bn, {"one thread at a time"}, call);
    };
    refused(forward);
    forward();
    refused(backward);
    backward();
  };
  MatrixXd y(6, 2), dx(6, 2), dr(6, 2);
  GhostBatches ghost(bn, 3);
  check(
      "GhostBatches", [&] { ghost.forward(x, y); }, [&] { ghost.backward(x, dy, dx); });
  MicroBatches micro(bn);
  check(
      "MicroBatches, measure and forward", [&] { micro.measure(x); }, [&] { micro.forward(x, y); });
  check(
      "MicroBatches, measure and backward", [&] { micro.measure(x, dy); },
      [&] { micro.backward(x, dy, dx); });
  BatchRenorm renorm(bn);
  check(
      "BatchRenorm", [&] { renorm.forward(x, y); }, [&] { renorm.backward(x, dy, dx); });
  Switched switched(bn, batchnorm::Normalize::running, batchnorm::Update::always);
  check(
      "Switched", [&] { switched.forward(x, y); }, [&] { switched.backward(x, dy, dx); });
  Weighted weighted(bn);
  check(
      "Weighted", [&] { weighted.forward(x, y, weights(ones)); },
      [&] { weighted.backward(x, dy, dx); });
  Fused fused(bn, Relu());
  check(
      "Fused", [&] { fused.forward(x, y); }, [&] { fused.backward(x, dy, dx); });
  check(
      "Fused with a residual", [&] { fused.forward(x, y, plus(dy)); },
      [&] { fused.backward(x, y, dy, dx, dr); });
  InPlace in_place(bn, Identity());
  MatrixXd z = x;
  check(
      "InPlace", [&] { in_place.forward(z); }, [&] { in_place.backward(z, dy, dx); });
  Replicas alone(1);
  SyncBatchNorm sync(bn, alone.communicator(0));
  check(
      "SyncBatchNorm", [&] { sync.forward(x, y); }, [&] { sync.backward(x, dy, dx); });
  check_refused<std::logic_error>(bn, {"one thread at a time"}, [&] {  // one layer in two parts
    forward_together(sync.part(x, y), sync.part(x, dx));
  });
}

// In one block of memory: `shifted` starts in the middle of x, `over_dy` one row after dy.
TEST_CASE("results that overlap what a wrapper reads are refused before anything is written",
          "[wrappers]") {
  using Rows = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  using Map = Eigen::Map<Rows>;
  VectorXd memory = filled(VectorXd(40), 3);
  const VectorXd before = memory;
  Map in_x(memory.data(), 6, 2), shifted(memory.data() + 7, 6, 2);
  Map in_dy(memory.data() + 24, 6, 2), over_dy(memory.data() + 26, 6, 2);
  const Rows x_apart = in_x, dy_apart = in_dy;
  Rows y(6, 2), dx(6, 2);
  BatchNorm1d<double> bn(2);
  const auto refused = [&](const char* wrapper, const std::string& words, const auto& call) {
    INFO(wrapper);
    check_refused<std::invalid_argument>(bn, {words, "overlapping"}, call);
    CHECK(memory == before);
  };
  const auto check = [&](const char* wrapper, const auto& forward, const auto& backward) {
    refused(wrapper, "y apart from x", [&] { forward(in_x, in_x); });
    refused(wrapper, "y apart from x", [&] { forward(in_x, shifted); });
    forward(in_x, y);
    refused(wrapper, "dx apart from x", [&] { backward(in_x, dy_apart, in_x); });
    refused(wrapper, "dx apart from x", [&] { backward(in_x, dy_apart, shifted); });
    refused(wrapper, "dx to be dy itself", [&] { backward(x_apart, in_dy, over_dy); });
  };
  GhostBatches ghost(bn, 3);
  check(
      "GhostBatches", [&](auto& a, auto& b) { ghost.forward(a, b); },
      [&](auto& a, auto& b, auto& c) { ghost.backward(a, b, c); });
  Weighted weighted(bn);
  check(
      "Weighted", [&](auto& a, auto& b) { weighted.forward(a, b, weights(ones)); },
      [&](auto& a, auto& b, auto& c) { weighted.backward(a, b, c); });
  Replicas alone(1);
  SyncBatchNorm sync(bn, alone.communicator(0));
  check(
      "SyncBatchNorm", [&](auto& a, auto& b) { sync.forward(a, b); },
      [&](auto& a, auto& b, auto& c) { sync.backward(a, b, c); });
  Fused fused(bn, Relu());
  fused.forward(x_apart, y, plus(dy_apart));
  refused("Fused", "dr apart from y", [&] { fused.backward(x_apart, in_x, dy_apart, dx, in_x); });
  refused("Fused", "dr to be dy itself", [&] { fused.backward(x_apart, y, in_dy, dx, over_dy); });
}

TEST_CASE("a refused forward of a wrapper leaves the forward before it to be differentiated",
          "[wrappers]") {
  BatchNorm1d<double> bn(2);
  const auto check = [&](const char* wrapper, const auto& forward, const auto& backward) {
    INFO(wrapper);
    forward(x);
    const MatrixXd expected = backward();
    check_refused<std::invalid_argument>(bn, {"more than one value per channel"},
                                         [&] { forward(one); });
    CHECK(same_bits(backward(), expected));
  };
  const auto backward_of = [](auto& wrapper) { return [&] { return wrapper.backward(x, dy); }; };
  GhostBatches ghost(bn, 3);
  check(
      "GhostBatches", [&](const MatrixXd& v) { static_cast<void>(ghost.forward(v)); },
      backward_of(ghost));
  BatchRenorm renorm(bn);
  check(
      "BatchRenorm", [&](const MatrixXd& v) { static_cast<void>(renorm.forward(v)); },
      backward_of(renorm));
  Weighted weighted(bn);
  check(
      "Weighted",
      [&](const MatrixXd& v) {
        const VectorXd of_samples = VectorXd::Ones(v.rows());
        static_cast<void>(weighted.forward(v, weights(of_samples)));
      },
      backward_of(weighted));
  Replicas alone(1);
  SyncBatchNorm sync(bn, alone.communicator(0));
  check(
      "SyncBatchNorm", [&](const MatrixXd& v) { static_cast<void>(sync.forward(v)); },
      backward_of(sync));
  Fused fused(bn, Relu());
  check(
      "Fused, whose refused forward has a residual",
      [&](const MatrixXd& v) {
        static_cast<void>(v.rows() == 1 ? fused.forward(v, plus(v)) : fused.forward(v));
      },
      backward_of(fused));
  InPlace in_place(bn, Identity());
  MatrixXd y;
  check(
      "InPlace",
      [&](const MatrixXd& v) {
        MatrixXd over_x = v;
        in_place.forward(over_x);
        y = over_x;
      },
      [&] {
        MatrixXd dx(6, 2);
        in_place.backward(y, dy, dx);
        return dx;
      });
}

TEST_CASE("a refused forward of a wrapper leaves the layer's own forward to be differentiated",
          "[wrappers]") {
  BatchNorm1d<double> bn(2);
  static_cast<void>(bn.forward(x));
  const MatrixXd expected = bn.backward(x, dy);
  const auto check = [&](const auto& refused) {
    check_refused<std::invalid_argument>(bn, {"more than one value per channel"}, refused);
    CHECK(same_bits(bn.backward(x, dy), expected));
  };
  const VectorXd weight = VectorXd::Ones(1);
  check([&] { static_cast<void>(Weighted(bn).forward(one, weights(weight))); });
  check([&] { static_cast<void>(GhostBatches(bn, 3).forward(one)); });
  check([&] { static_cast<void>(BatchRenorm(bn).forward(one)); });
  check([&] { static_cast<void>(Fused(bn, Relu()).forward(one)); });
  MatrixXd over_one = one;
  check([&] { InPlace(bn, Identity()).forward(over_one); });
  Replicas alone(1);
  check([&] { static_cast<void>(SyncBatchNorm(bn, alone.communicator(0)).forward(one)); });
}

TEST_CASE("a call that runs out of memory changes nothing", "[wrappers]") {
  if (!testing::counts_allocations) return;
  // Makes each call on new objects again and again, one allocation later each time, until none
  // fails: the first forward, a second one, a backward.
  const auto check = [](const char* wrapper, const auto& wrap, const auto& forward,
                        const auto& backward) {
    INFO(wrapper);
    for (int call = 0; call < 3; ++call) {
      bool failed = true;
      for (long k = 0; failed; ++k) {
        INFO("call " << call << ", allocation " << k);
        BatchNorm1d<double> bn(2);
        auto wrapped = wrap(bn);
        MatrixXd y = x, dx = dy, expected = dy;
        if (call > 0) forward(wrapped, y);
        if (call == 1) backward(wrapped, y, expected);
        const BatchNorm1d<double> bn_before = bn;
        const MatrixXd y_before = y;
        failed = testing::runs_out_of_memory(
            k, [&] { call == 2 ? backward(wrapped, y, dx) : forward(wrapped, y); });
        if (!failed) break;
        CHECK(testing::same_state(bn, bn_before));
        CHECK((same_bits(y, y_before) && same_bits(dx, dy)));
        if (call != 1) continue;
        backward(wrapped, y, dx);  // of the forward before
        CHECK(same_bits(dx, expected));
      }
    }
  };
  const auto forward = [](auto& wrapper, auto& y) { wrapper.forward(x, y); };
  const auto backward = [](auto& wrapper, auto&, auto& dx) { wrapper.backward(x, dy, dx); };
  check(
      "the layer", [](auto& bn) { return std::ref(bn); },
      [](auto bn, auto& y) { bn.get().forward(x + dy, y); },
      [](auto bn, auto&, auto& dx) { bn.get().backward(x + dy, dy + x, dx); });
  check(
      "Fused", [](auto& bn) { return Fused(bn, Relu()); }, forward, backward);
  check(
      "InPlace", [](auto& bn) { return InPlace(bn, Identity()); },
      [](auto& in_place, auto& y) { in_place.forward(y); },
      [](auto& in_place, auto& y, auto& dx) { in_place.backward(y, dy, dx); });
  check(
      "BatchRenorm", [](auto& bn) { return BatchRenorm(bn); }, forward, backward);
  check(
      "Weighted", [](auto& bn) { return Weighted(bn); },
      [](auto& weighted, auto& y) { weighted.forward(x, y, weights(ones)); }, backward);
  check(
      "GhostBatches", [](auto& bn) { return GhostBatches(bn, 3); }, forward, backward);
  const auto measured = [](auto& bn) {
    MicroBatches micro(bn);
    micro.measure(x);
    return micro;
  };
  check("MicroBatches", measured, forward, [](auto& micro, auto&, auto&) { micro.measure(x, dy); });
  check(
      "Switched",
      [](auto& bn) {
        return Switched(bn, batchnorm::Normalize::running, batchnorm::Update::always);
      },
      forward, backward);
  Replicas alone(1);
  check(
      "SyncBatchNorm", [&alone](auto& bn) { return SyncBatchNorm(bn, alone.communicator(0)); },
      forward, backward);
}
