// SPDX-License-Identifier: MIT
// The same bits again: whatever the number of threads, from call to call, in place or not, wherever
// memory starts and, in eval mode, whatever stands beside a sample in its batch.
#define EIGEN_USE_THREADS

#include <batchnorm/batchnorm.hpp>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <type_traits>
#include <vector>

#include "support/catch.hpp"
#include "support/devices.hpp"
#include "support/layouts.hpp"
#include "support/random.hpp"
#include "support/refused.hpp"

using batchnorm::BatchNorm;
using batchnorm::Options;
using Eigen::Index;
using testing::Extents;
using testing::Random;
using testing::Strides;

namespace {

std::size_t at(Index i) { return static_cast<std::size_t>(i); }

/// Memory that starts `late` values after a line of the cache.
template <class Scalar>
class Memory {
 public:
  Memory(Index size, Index late) : room_(at(size + late) + 64), size_(size) {
    const auto past = reinterpret_cast<std::uintptr_t>(room_.data()) % 64 / sizeof(Scalar);
    start_ = (64 / sizeof(Scalar) - past) + at(late);
  }
  [[nodiscard]] Scalar* data() { return room_.data() + start_; }
  [[nodiscard]] const Scalar* data() const { return room_.data() + start_; }
  [[nodiscard]] bool operator==(const Memory& other) const {
    return std::memcmp(data(), other.data(), at(size_) * sizeof(Scalar)) == 0;
  }
  void copy(const Memory& other) {
    std::memcpy(static_cast<void*>(data()), other.data(), at(size_) * sizeof(Scalar));
  }

 private:
  std::vector<Scalar> room_;
  Index size_;
  std::size_t start_;
};

/// Uniform numbers, far from 0 in some channels.
template <class Scalar>
void fill(Scalar* to, const Strides& strides, const Extents& e, Random& random) {
  std::uint64_t bits = 0;  // a draw gives five numbers
  strides.each(e, [&](Index place, Index, Index c) {
    bits = bits < 4096 ? random.bits() : bits / 4096;
    const double uniform = static_cast<double>(bits % 4096) * 0x1p-11 - 1;
    to[place] = static_cast<Scalar>(uniform + static_cast<double>(c % 5 * (c % 5)));
  });
}

/// gamma, beta and statistics that are no round numbers. Channel 3's inv_std and gamma take the
/// kernels beyond their range: it goes the long way.
template <class Layer>
Layer layer_for(Index channels, batchnorm::ChannelAxis axis) {
  Options options;
  options.channel_axis = axis;
  Layer layer(channels, options);
  Random random(7);
  random.fill(layer.gamma());
  random.fill(layer.beta());
  random.fill(layer.running_mean());
  for (auto& v : layer.running_var()) v = static_cast<typename Layer::Param>(random.uniform(1, 2));
  if (channels > 3) layer.gamma()[3] = static_cast<typename Layer::Param>(1e-38);
  return layer;
}

/// What a training step and an eval step leave.
template <class Layer, class Scalar>
struct Results {
  Results(const Layer& fresh, Index size, Index late)
      : layer(fresh), y(size, late), dx(size, late), z(size, late), dz(size, late) {}

  template <class Layout>
  void run(const Layout& layout, const Extents& e, const Scalar* x, const Scalar* dy) {
    layer.train();
    layout.forward(layer, {x, e}, {y.data(), e});
    layout.backward(layer, {x, e}, {dy, e}, {dx.data(), e});
    layer.eval();
    layout.forward(layer, {x, e}, {z.data(), e});
    layout.backward(layer, {x, e}, {dy, e}, {dz.data(), e});
  }
  void check_same(const Results& other) const {
    CHECK(y == other.y);
    CHECK(dx == other.dx);
    CHECK(z == other.z);
    CHECK(dz == other.dz);
    CHECK(testing::same_state(layer, other.layer));
  }

  Layer layer;
  Memory<Scalar> y, dx, z, dz;
};

template <class Scalar, int spatial, class F>
void for_all_layouts(const std::vector<Extents>& sizes, const F& f) {
  for (const auto& layout : testing::layouts<Scalar, spatial>()) {
    for (const Extents& size : sizes) {
      const Extents e = size.of_rank(layout.rank);
      INFO(layout.name << ", " << e.channels << " channels of " << e.count() << " values");
      f(layout, e);
    }
  }
}

/// Threads, repeated calls and places in memory. `late`: how far after a line of the cache x, dy and
/// the results start.
template <class Scalar, int spatial>
void check_same_bits(const std::vector<Extents>& sizes, const std::vector<int>& threads,
                     const std::vector<Index>& lates) {
  using Layer = BatchNorm<Scalar, spatial>;
  for_all_layouts<Scalar, spatial>(sizes, [&](const auto& layout, const Extents& e) {
    const Strides strides = layout.strides(e);
    const Index room = strides.room(e);
    Random random(static_cast<std::uint64_t>(room));
    Memory<Scalar> x(room, 0), dy(room, 0);
    fill(x.data(), strides, e, random);
    fill(dy.data(), strides, e, random);
    const Layer fresh = layer_for<Layer>(e.channels, layout.axis);
    Results<Layer, Scalar> first(fresh, room, 0);
    first.run(layout, e, x.data(), dy.data());

    for (const int count : threads) {
      INFO(count << " threads");
      Results<Layer, Scalar> again(fresh, room, 0);
      if (count > 0) again.layer.set_device(&testing::device_of(count).device);
      again.run(layout, e, x.data(), dy.data());
      again.check_same(first);
    }
    for (const Index late : lates) {
      for (const int which : {1, 2, 4, 7}) {  // x, dy, the results, or all of them
        if (which < 7 && late % 5 != 1) continue;
        INFO(late << " values after a line, arguments " << which);
        Memory<Scalar> late_x(room, which & 1 ? late : 0), late_dy(room, which & 2 ? late : 0);
        late_x.copy(x);
        late_dy.copy(dy);
        Results<Layer, Scalar> again(fresh, room, which & 4 ? late : 0);
        again.run(layout, e, late_x.data(), late_dy.data());
        again.check_same(first);
      }
    }
    // dx over dy, and y over x in eval mode
    Results<Layer, Scalar> in_place(fresh, room, 0);
    in_place.layer.train();
    layout.forward(in_place.layer, {x.data(), e}, {in_place.y.data(), e});
    in_place.dx.copy(dy);
    layout.backward(in_place.layer, {x.data(), e}, {in_place.dx.data(), e},
                    {in_place.dx.data(), e});
    in_place.layer.eval();
    in_place.z.copy(x);
    layout.forward(in_place.layer, {in_place.z.data(), e}, {in_place.z.data(), e});
    CHECK(in_place.dx == first.dx);
    CHECK(in_place.z == first.z);
  });
}

/// Samples of a batch, alone and among others at every place: `sizes` are batches of one.
template <class Scalar, int spatial>
void check_any_company(const std::vector<Extents>& sizes) {
  using Layer = BatchNorm<Scalar, spatial>;
  for_all_layouts<Scalar, spatial>(sizes, [&](const auto& layout, Extents e) {
    Layer layer = layer_for<Layer>(e.channels, layout.axis);
    layer.eval();
    Random random(static_cast<std::uint64_t>(e.size()));
    e.samples = 100;
    const Strides all = layout.strides(e);
    std::vector<Scalar> x(at(all.room(e))), y(x.size());
    fill(x.data(), all, e, random);
    // numbers that are none, and the ends of the range
    const float ends[] = {std::numeric_limits<float>::infinity(),
                          -1 / 0.0f,
                          std::nanf(""),
                          -std::nanf("5"),
                          65504,
                          -0.0f};
    for (std::size_t k = 0; k < 6 && k < x.size(); ++k) {
      x[(k * 17 + 1) % x.size()] = static_cast<Scalar>(ends[k]);
    }
    layout.forward(layer, {x.data(), e}, {y.data(), e});

    for (const Index samples : {1, 7}) {
      Extents few = e;
      few.samples = samples;
      const Strides strides = layout.strides(few);
      std::vector<Scalar> part(at(strides.room(few))), z(part.size());
      Index different = 0;
      for (Index first = 0; first + samples <= e.samples; ++first) {
        const auto for_pairs = [&](const auto& f) {  // f(place in the part, place in the batch)
          for (Index n = 0; n < samples; ++n) {
            for (Index c = 0; c < e.channels; ++c) {
              std::vector<Index> places;
              strides.each_position(few, n, c, [&](Index p, Index, Index) { places.push_back(p); });
              std::size_t k = 0;
              all.each_position(few, first + n, c,
                                [&](Index p, Index, Index) { f(at(places[k++]), at(p)); });
            }
          }
        };
        for_pairs([&](std::size_t to, std::size_t from) { part[to] = x[from]; });
        layout.forward(layer, {part.data(), few}, {z.data(), few});
        for_pairs([&](std::size_t a, std::size_t b) {
          different += std::memcmp(&z[a], &y[b], sizeof(Scalar)) != 0;
        });
      }
      INFO("batches of " << samples << " beside one of 100");
      CHECK(different == 0);
    }
  });
}

template <class Scalar>
void check_all_company() {
  // planes of 1, of less and of more than a vector, whole lines or not; channels likewise
  const std::vector<Extents> sizes = {{1, 1, {1, 1, 1}},  {1, 5, {1, 1, 3}},  {1, 3, {2, 3, 3}},
                                      {1, 16, {1, 2, 2}}, {1, 70, {1, 1, 1}}, {1, 2, {1, 15, 16}}};
  check_any_company<Scalar, 1>(sizes);
  check_any_company<Scalar, 2>(sizes);
  check_any_company<Scalar, 3>(sizes);
}

}  // namespace

TEMPLATE_TEST_CASE("results do not depend on where memory starts, or on being written in place",
                   "[determinism]", float, double, Eigen::half, Eigen::bfloat16) {
  const std::vector<Extents> sizes = {{3, 5, {1, 1, 1}},   {2, 3, {1, 3, 7}},
                                      {4, 32, {2, 4, 4}},  {33, 19, {1, 1, 1}},
                                      {2, 2, {3, 10, 11}}, {2, 2100, {1, 1, 2}}};
  std::vector<Index> lates;
  for (Index late = 1; late < 64 / Index(sizeof(TestType)); ++late) lates.push_back(late);
  check_same_bits<TestType, 1>(sizes, {0}, lates);
  lates = {1, 3, 8};  // other ranks are the same rows and runs
  check_same_bits<TestType, 2>(sizes, {0}, lates);
  check_same_bits<TestType, 3>(sizes, {0}, lates);
}

TEMPLATE_TEST_CASE("results do not depend on the number of threads, in any layout", "[determinism]",
                   float, double, Eigen::half, Eigen::bfloat16) {
  const bool is_float = std::is_same_v<TestType, float>;
  const std::vector<int> threads = is_float ? std::vector<int>{1, 2, 3, 4, 8} : std::vector<int>{3};
  const Extents few{7, 3, {10, 50, 67}}, many{33, 5000, {1, 2, 2}};  // channels
  if (is_float) check_same_bits<TestType, 1>({few}, {3}, {});
  check_same_bits<TestType, 2>({few}, threads, {});
  check_same_bits<TestType, 3>({many}, {4}, {});
}

TEST_CASE("results past the caches do not depend on where memory starts or on threads",
          "[determinism]") {
  // Enough to be written past the caches, which only whole lines are: rows that start alike in
  // them and rows that do not, and planes.
  const std::vector<Extents> sizes = {{8, 64, {5, 39, 40}}, {5, 61, {4, 52, 53}}};
  check_same_bits<float, 2>(sizes, {3}, {7});
}

TEMPLATE_TEST_CASE("in eval mode a sample's result does not depend on the others in its batch",
                   "[determinism]", float, double, Eigen::half, Eigen::bfloat16) {
  check_all_company<TestType>();
}
