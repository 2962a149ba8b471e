// SPDX-License-Identifier: MIT
#include "memory.hpp"

#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <new>

#include "support/random.hpp"

namespace bench {
namespace {

constexpr std::size_t page = 4096;

template <class T>
void fill(void* values, std::ptrdiff_t size, testing::Random& random) {
  // Sums of four uniform numbers, near enough to normal ones and quick to make.
  T* out = static_cast<T*>(values);
  for (std::ptrdiff_t i = 0; i < size; ++i) {
    std::uint64_t bits = random.bits();
    int sum = 0;
    for (int k = 0; k < 4; ++k, bits >>= 16) sum += static_cast<int>(bits & 0xffff) - 0x8000;
    out[i] = static_cast<T>(static_cast<float>(sum) * 3e-5f + 0.25f);
  }
}

void fill(void* values, const Cell& cell, testing::Random& random) {
  switch (cell.type) {
    case Type::float32:
      return fill<float>(values, cell.shape.size(), random);
    case Type::float64:
      return fill<double>(values, cell.shape.size(), random);
    case Type::float16:
      return fill<Eigen::half>(values, cell.shape.size(), random);
    default:
      return fill<Eigen::bfloat16>(values, cell.shape.size(), random);
  }
}

std::vector<float> uniform(std::ptrdiff_t size, double low, double high, testing::Random& random) {
  std::vector<float> values(static_cast<std::size_t>(size));
  for (float& value : values) value = static_cast<float>(random.uniform(low, high));
  return values;
}

template <class T>
std::vector<float> floats(const void* values, std::ptrdiff_t size) {
  const T* begin = static_cast<const T*>(values);
  std::vector<float> result(static_cast<std::size_t>(size));
  std::transform(begin, begin + size, result.begin(), [](T v) { return static_cast<float>(v); });
  return result;
}

template <class T>
double difference(const std::vector<T>& a, const std::vector<T>& b) {
  if (a.size() != b.size()) return std::numeric_limits<double>::infinity();
  double largest = 1e-30, worst = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    largest = std::max(largest, std::abs(static_cast<double>(a[i])));
    const double apart = std::abs(static_cast<double>(a[i]) - static_cast<double>(b[i]));
    if (!std::isfinite(apart)) return std::numeric_limits<double>::infinity();
    worst = std::max(worst, apart);
  }
  return worst / largest;
}

}  // namespace

void Buffer::Free::operator()(void* p) const { std::free(p); }

Buffer::Buffer(std::size_t bytes) {
  constexpr std::size_t behind = std::max<std::size_t>(EIGEN_MAX_ALIGN_BYTES, 16);
  block_.reset(std::aligned_alloc(page, (bytes + behind + page - 1) / page * page));
  if (!block_) throw std::bad_alloc();
  data_ = static_cast<char*>(block_.get()) + behind;
}

Memory::Memory(const Cell& cell, std::uint64_t seed)
    : x_(cell.tensor_bytes()), dy_(cell.tensor_bytes()), out_(cell.tensor_bytes()) {
  testing::Random random(seed);
  fill(x_.data(), cell, random);
  fill(dy_.data(), cell, random);
  fill(out_.data(), cell, random);  // so that every page is there
  gamma_ = uniform(cell.shape.c, 0.5, 1.5, random);
  beta_ = uniform(cell.shape.c, -1, 1, random);
  mean_ = uniform(cell.shape.c, 0, 0.5, random);
  var_ = uniform(cell.shape.c, 0.5, 2, random);
}

Data Memory::data() const {
  return {x_.data(),    dy_.data(),   out_.data(), gamma_.data(),
          beta_.data(), mean_.data(), var_.data()};
}

Values values_of(const Cell& cell, const Outcome& outcome) {
  const std::ptrdiff_t size = cell.shape.size();
  Values values{{}, outcome.dgamma, outcome.dbeta};
  switch (cell.type) {
    case Type::float32:
      values.out = floats<float>(outcome.out, size);
      break;
    case Type::float64:
      values.out = floats<double>(outcome.out, size);
      break;
    case Type::float16:
      values.out = floats<Eigen::half>(outcome.out, size);
      break;
    default:
      values.out = floats<Eigen::bfloat16>(outcome.out, size);
  }
  if (cell.operation != Operation::backward) values.dgamma = values.dbeta = {};
  return values;
}

double difference(const Values& a, const Values& b) {
  return std::max(
      {difference(a.out, b.out), difference(a.dgamma, b.dgamma), difference(a.dbeta, b.dbeta)});
}

double tolerance(const Cell& cell) {
  switch (cell.type) {
    case Type::float32:
      return 1e-3;
    case Type::float64:  // values_of() rounds to float
      return 1e-5;
    case Type::float16:
      return 5e-3;
    default:
      return 3e-2;
  }
}

}  // namespace bench
