// SPDX-License-Identifier: MIT
// The measurement: contenders take turns, round after round, so that whatever disturbs the machine
// meets all of them.
#pragma once

#include <chrono>
#include <cstddef>
#include <functional>
#include <thread>
#include <vector>

#include "statistics.hpp"

namespace bench {

struct Turns {
  int rounds = 15;
  double seconds = 3e-3;  // of one measurement: as many calls as fill it, at least one
  /// Between contenders: OpenMP's threads keep a core busy for some milliseconds after their work.
  std::chrono::milliseconds pause{0};
};

inline double seconds_of(int calls, const std::function<void()>& run) {
  using Clock = std::chrono::steady_clock;
  const auto start = Clock::now();
  for (int i = 0; i < calls; ++i) run();
  return std::chrono::duration<double>(Clock::now() - start).count();
}

/// Seconds per call: of each contender, one number for each round.
inline std::vector<std::vector<double>> in_turn(
    const std::vector<std::function<void()>>& contenders, const Turns& turns) {
  std::vector<int> calls;
  for (const auto& run : contenders) {
    run();
    int n = 1;  // doubled until the clock can tell
    double seconds = seconds_of(n, run);
    while (seconds < turns.seconds / 4) seconds = seconds_of(n *= 2, run);
    calls.push_back(std::max(1, static_cast<int>(n * turns.seconds / seconds)));
  }
  std::vector<std::vector<double>> times(contenders.size());
  for (int round = 0; round < turns.rounds; ++round) {
    for (std::size_t i = 0; i < contenders.size(); ++i) {
      std::this_thread::sleep_for(turns.pause);
      // Not counted: it fills the caches with this contender's data and wakes its threads. Calls
      // of many milliseconds do so themselves.
      if (calls[i] > 1) contenders[i]();
      times[i].push_back(seconds_of(calls[i], contenders[i]) / calls[i]);
    }
  }
  return times;
}

}  // namespace bench
