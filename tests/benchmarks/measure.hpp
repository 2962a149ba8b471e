// SPDX-License-Identifier: MIT
// Measures one cell: all contenders in turn, after the check that they compute the same.
#pragma once

#include <string>
#include <vector>

#include "contender.hpp"
#include "in_turn.hpp"

namespace bench {

enum class Role {
  ours,
  library,         // a library that takes the same layout
  by_hand,         // written over Eigen, a peer too
  other_layout,    // oneDNN's blocks of channels
  limit,           // what memory allows
  ours_otherwise,  // this library by one thread, or as compiled with -march=native
};

/// Who takes part in a measurement.
struct Entry {
  std::string name;
  Role role;
  Make* make;
  int threads;
};

struct Measured {
  std::string name;
  Role role;
  double seconds;  // of a call, median
  Interval ratio;  // its time / ours, in pairs
};

struct Result {
  std::string operation, layout, shape;
  Cell cell;
  std::vector<Measured> contenders;  // ours first
  double disturbed = 0;              // the share of the processors that other programs had

  [[nodiscard]] double seconds() const { return contenders.front().seconds; }
  /// The fastest of these roles, or null.
  [[nodiscard]] const Measured* fastest(std::initializer_list<Role> roles) const;
  [[nodiscard]] const Measured* fastest_peer() const {
    return fastest({Role::library, Role::by_hand});
  }
  [[nodiscard]] const Measured* named(const std::string& name) const;
};

struct Settings {
  int pairs = 15;
  bool portable = false;  // ours is compiled without -march=native
  // The same as in Turns:
  double seconds = Turns{}.seconds, seconds_in_all = Turns{}.seconds_in_all;
  bool back_and_forth = false;
  int best_of = 1;  // so many consecutive rounds count as one, of which the fastest time is taken
};

/// The first entry is ours. Throws std::runtime_error if another one's result is not ours.
[[nodiscard]] Result measure(const Cell& cell, const std::vector<Entry>& entries,
                             const Settings& settings);

/// Forward through the 53 batch-norm layers of ResNet-50 at batch 16, 224x224, then backward through
/// them, each with memory of its own.
[[nodiscard]] Result measure_resnet50(int threads, const std::vector<Entry>& entries,
                                      const Settings& settings);

}  // namespace bench
