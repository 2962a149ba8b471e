// SPDX-License-Identifier: MIT
// The tensors of a cell, aligned as Eigen's users have them, and the check that contenders agree.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "contender.hpp"

namespace bench {

/// Memory with the alignment of an Eigen::Tensor's: Eigen rounds what malloc gives up to its largest
/// vector, and malloc gives a large block 16 bytes behind the begin of a page.
class Buffer {
 public:
  explicit Buffer(std::size_t bytes);
  [[nodiscard]] void* data() const { return data_; }

 private:
  struct Free {
    void operator()(void* p) const;
  };
  std::unique_ptr<void, Free> block_;
  void* data_ = nullptr;
};

/// Random x and dy of the cell's type, and parameters.
class Memory {
 public:
  explicit Memory(const Cell& cell, std::uint64_t seed = 1);
  [[nodiscard]] Data data() const;

 private:
  Buffer x_, dy_, out_;
  std::vector<float> gamma_, beta_, mean_, var_;
};

/// An outcome that stays when the next contender runs.
struct Values {
  std::vector<float> out;
  std::vector<double> dgamma, dbeta;
};
[[nodiscard]] Values values_of(const Cell& cell, const Outcome& outcome);

/// How far two outcomes differ, relative to the largest value of each vector: about the precision
/// of the type where both compute the same.
[[nodiscard]] double difference(const Values& a, const Values& b);
[[nodiscard]] double tolerance(const Cell& cell);

}  // namespace bench
