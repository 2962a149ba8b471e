// SPDX-License-Identifier: MIT
// Moments: what they are of a tensor, and that those of parts merge into those of the whole.

#include <batchnorm/batchnorm.hpp>
#include <batchnorm/moments.hpp>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "support/catch.hpp"
#include "support/random.hpp"
#include "support/refused.hpp"
#include "support/values.hpp"

using batchnorm::ChannelAxis;
using batchnorm::Moments;
using batchnorm::moments_of;
using batchnorm::VarianceEstimate;
using Eigen::Index;
using testing::at;
using testing::check_throws;
using testing::same_bits;

namespace {

Eigen::ArrayXd array(const std::vector<double>& v) {
  return Eigen::Map<const Eigen::ArrayXd>(v.data(), static_cast<Index>(v.size()));
}
bool same(const Moments& a, const Moments& b) {
  return same_bits(a.count, b.count) && same_bits(a.mean, b.mean) && same_bits(a.m2, b.m2);
}

/// Values 1, 2, 3, 6 and -8, -8, -8, -8: means 3 and -8, sums of squared deviations 4 + 1 + 0 + 9
/// and 0, all exact in every scalar.
const Moments by_hand(array({4, 4}), array({3, -8}), array({14, 0}));

template <class Scalar, int rank, int order>
void check_tensor() {
  for (const ChannelAxis axis : {ChannelAxis::first, ChannelAxis::last}) {
    std::vector<Index> spatial(at(rank - 2), 1);
    if (rank > 2) spatial.back() = 2;
    const Index samples = rank > 2 ? 2 : 4;
    testing::Values v(samples, 2, spatial);
    const double values[] = {1, 2, 3, 6};
    v.each(
        [&](Index n, Index c, Index p) { v(n, c, p) = c == 0 ? values[n * v.positions + p] : -8; });
    const auto x = testing::TensorForm<Scalar, rank, order>::make(v, axis);
    INFO("rank " << rank << (axis == ChannelAxis::first ? ", channel first" : ", channel last"));
    CHECK(same(moments_of(x, axis), by_hand));
  }
}
template <class Scalar>
void check_tensors() {
  check_tensor<Scalar, 2, Eigen::RowMajor>();
  check_tensor<Scalar, 3, Eigen::ColMajor>();
  check_tensor<Scalar, 4, Eigen::RowMajor>();
  check_tensor<Scalar, 4, Eigen::ColMajor>();
  check_tensor<Scalar, 5, Eigen::RowMajor>();
}

/// One channel of whole numbers of deviation about 577 at a distance of `sigmas` deviations, whose
/// exact moments are fractions of whole numbers.
struct Exact {
  Eigen::VectorXd x;
  long double mean, m2;

  Exact(Index n, double sigmas, std::uint64_t seed) : x(n) {
    testing::Random random(seed);
    const auto offset = static_cast<std::int64_t>(sigmas * 577);
    std::int64_t sum = 0, squares = 0;
    for (Index i = 0; i < n; ++i) {
      const auto d = static_cast<std::int64_t>(random.bits() % 2001) - 1000;
      sum += d;
      squares += d * d;
      x[i] = static_cast<double>(offset + d);
    }
    mean = static_cast<long double>(offset) + static_cast<long double>(sum) / n;
    m2 = static_cast<long double>(n * squares - sum * sum) / n;  // below 2^63
  }
};

Moments part(const Exact& all, Index first, Index count) {
  return moments_of(all.x.segment(first, count));
}

/// Each mean is a double: it has an error of half an ulp, 1.1e-16 of it, for each of some ten
/// merges. m2 takes the errors of means times differences of means, of at most some deviations:
/// at 1e6 deviations, 1e6 * 1.1e-16 of the variance for each merge.
void check_exact(const Moments& m, const Exact& all, double sigmas) {
  REQUIRE(m.channels() == 1);
  CHECK(m.count[0] == static_cast<double>(all.x.size()));
  const double mean = static_cast<double>(all.mean), m2 = static_cast<double>(all.m2);
  CHECK(std::abs(m.mean[0] - mean) <= 1e-15 * (std::abs(mean) + 577));
  CHECK(std::abs(m.m2[0] - m2) <= (1e-13 + 1e-15 * sigmas) * m2);
}

}  // namespace

TEST_CASE("moments are count, mean and sum of squared deviations", "[moments]") {
  check_tensors<float>();
  check_tensors<double>();
  check_tensors<Eigen::half>();
  check_tensors<Eigen::bfloat16>();

  Eigen::MatrixXf x(4, 2);
  x << 1, -8, 2, -8, 3, -8, 6, -8;
  CHECK(same(moments_of(x), by_hand));
  const Eigen::MatrixXf in_columns = x.transpose();
  CHECK(same(moments_of(in_columns.transpose()), by_hand));
  CHECK(same(moments_of(x * 1), by_hand));
  Eigen::MatrixXf larger = Eigen::MatrixXf::Constant(9, 5, 99);
  larger.block(3, 1, 4, 2) = x;
  CHECK(same(moments_of(larger.block(3, 1, 4, 2)), by_hand));
  CHECK(moments_of(x).var().isApprox(array({3.5, 0})));
  CHECK(moments_of(x).var(VarianceEstimate::unbiased).isApprox(array({14. / 3, 0})));
}

TEST_CASE("moments of two parts are those of all their values", "[moments]") {
  // 1, 3 and 5, 7: means 2 and 6 with sums of squares 2 and 2; together mean 4 and 9 + 1 + 1 + 9.
  const Moments a(array({2}), array({2}), array({2}));
  const Moments b(array({2}), array({6}), array({2}));
  CHECK(same(a + b, Moments(array({4}), array({4}), array({20}))));
  // 1, 3, 5 and 9: 3 with 4 + 0 + 4, and 9; together 4.5 with 12.25 + 2.25 + .25 + 20.25.
  const Moments c(array({3}), array({3}), array({8}));
  const Moments d(array({1}), array({9}), array({0}));
  CHECK(same(c + d, Moments(array({4}), array({4.5}), array({35}))));
}

TEST_CASE("moments of no values change nothing, on either side", "[moments]") {
  testing::Random random(1);
  Eigen::MatrixXd x(7, 3);
  random.fill(x, 1e6, 1);
  x(0, 2) = 1e250;  // a mean whose square is no double
  const Moments m = moments_of(x);
  for (const Moments& nothing : {Moments(), Moments(3), moments_of(Eigen::MatrixXd(0, 3))}) {
    CHECK(same(m + nothing, m));
    CHECK(same(nothing + m, m));
  }
  CHECK(same(Moments() + Moments(3), Moments(3)));
  CHECK(same(Moments(3) + Moments(3), Moments(3)));
  CHECK(Moments(3).var().isNaN().all());
  CHECK(Moments(3).var(batchnorm::VarianceEstimate::unbiased).isNaN().all());
}

TEST_CASE("parts of any size, in any grouping, merge into the exact moments", "[moments]") {
  const Index n = 4000;
  for (const double sigmas : {0., 1., 1e3, 1e6}) {
    INFO(sigmas << " deviations from 0");
    const Exact all(n, sigmas, 2);
    check_exact(moments_of(all.x), all, sigmas);

    const std::vector<Index> sizes = {1, 0, 999, 3, 0, 1500, 1, 1, 495, 1000};
    std::vector<Moments> parts;
    Index first = 0;
    for (const Index size : sizes) {
      parts.push_back(part(all, first, size));
      first += size;
    }
    REQUIRE(first == n);
    Moments from_left, from_right;
    for (std::size_t i = 0; i < parts.size(); ++i) {
      from_left.merge(parts[i]);
      from_right = parts[parts.size() - 1 - i] + from_right;
    }
    check_exact(from_left, all, sigmas);
    check_exact(from_right, all, sigmas);
    const Moments by_halves =
        ((parts[0] + parts[1]) + (parts[2] + parts[3])) +
        ((parts[4] + parts[5]) + ((parts[6] + parts[7]) + (parts[8] + parts[9])));
    check_exact(by_halves, all, sigmas);

    Moments again;
    for (const Moments& one : parts) again.merge(one);
    CHECK(same(again, from_left));
  }
}

TEST_CASE("a thousand single values merge into the exact moments", "[moments]") {
  const Exact all(1000, 1e6, 3);
  Moments m;
  for (Index i = 0; i < 1000; ++i) m.merge(part(all, i, 1));
  // A thousand roundings of the mean instead of ten: by chance about 30 times one of 1.1e-16.
  CHECK(std::abs(m.mean[0] - static_cast<double>(all.mean)) <= 1e-14 * 577e6);
  CHECK(std::abs(m.m2[0] / static_cast<double>(all.m2) - 1) <= 1e-8);
}

TEST_CASE("a constant keeps its exact mean and no deviation over all merges", "[moments]") {
  Moments m;
  for (const Index n : {3, 1, 0, 7, 10}) m.merge(moments_of(Eigen::MatrixXf::Constant(n, 1, 0.1f)));
  CHECK(m.mean[0] == static_cast<double>(0.1f));
  CHECK(m.m2[0] == 0);
  CHECK(m.count[0] == 21);
}

TEST_CASE("what is not finite stays in its channel", "[moments]") {
  Eigen::MatrixXd x(3, 4), y = Eigen::MatrixXd::Ones(2, 4);
  x << 1, 1, 1, 1e200, 2, std::nan(""), 2, -1e200, 3, 3, std::numeric_limits<double>::infinity(), 0;
  const Moments m = moments_of(x) + moments_of(y);
  CHECK(m.mean[0] == Approx(1.6));
  CHECK(m.m2[0] == Approx(3.2));
  CHECK(std::isnan(m.mean[1]));
  CHECK(std::isnan(m.m2[1]));
  CHECK(!std::isfinite(m.mean[2]));
  CHECK(std::isnan(m.m2[2]));
  CHECK(std::isfinite(m.mean[3]));
  CHECK(!std::isfinite(m.m2[3]));  // squares of 1e200
}

TEST_CASE("an infinite mean stays infinite, and a large one finite", "[moments]") {
  const auto merged = [](double a, double b) {
    const auto one = [](double v) { return moments_of(Eigen::MatrixXd::Constant(1, 1, v)); };
    return (one(a) + one(b)).mean[0];
  };
  const double inf = std::numeric_limits<double>::infinity();
  CHECK(merged(inf, 1) == inf);
  CHECK(merged(1, inf) == inf);
  CHECK(merged(-inf, -inf) == -inf);
  CHECK(std::isnan(merged(inf, -inf)));
  CHECK(merged(1e308, -1e308) == 0);  // their difference is beyond the largest double
}

TEST_CASE("moments of other channels are refused, and nothing is merged", "[moments]") {
  Moments m = moments_of(Eigen::MatrixXd::Random(4, 3));
  const Moments before = m;
  check_throws<std::invalid_argument>({"[Moments::merge]", "expected 3 channels, got 2"},
                                      [&] { m.merge(Moments(2)); });
  CHECK(same(m, before));
}
