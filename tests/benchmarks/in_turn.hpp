// SPDX-License-Identifier: MIT
// The measurement: contenders take turns, round after round, so that whatever disturbs the machine
// meets all of them.
#pragma once

#include <chrono>
#include <cstddef>
#include <functional>
#include <limits>
#include <thread>
#include <vector>

#include "statistics.hpp"

namespace bench {

struct Turns {
  int rounds = 15;
  double seconds = 3e-3;  // of one measurement: as many calls as fill it, at least one
  /// Between contenders: OpenMP's threads keep a core busy for some milliseconds after their work.
  std::chrono::milliseconds pause{0};
  bool back_and_forth = false;  // every second round in the reverse order
  /// After so many seconds no further round begins, once there are 5.
  double seconds_in_all = std::numeric_limits<double>::infinity();
};

inline double seconds_of(int calls, const std::function<void()>& run) {
  using Clock = std::chrono::steady_clock;
  const auto start = Clock::now();
  for (int i = 0; i < calls; ++i) run();
  return std::chrono::duration<double>(Clock::now() - start).count();
}

/// About how many seconds a call takes, by doubling the calls until the clock can tell.
inline double seconds_of_one(const std::function<void()>& run, double enough) {
  for (int calls = 1;; calls *= 2) {
    const double seconds = seconds_of(calls, run);
    if (seconds >= enough) return seconds / calls;
  }
}

/// Seconds per call: of each contender, one number for each round. The contenders have run before.
/// One that takes five times as long as the median of them decides nothing and sits out all rounds
/// but every fifth, to save time; its numbers are NaN there.
inline std::vector<std::vector<double>> in_turn(
    const std::vector<std::function<void()>>& contenders, const Turns& turns) {
  std::vector<double> estimates;
  for (const auto& run : contenders) estimates.push_back(seconds_of_one(run, turns.seconds / 4));
  const double slow = 5 * median(estimates);
  std::vector<std::vector<double>> times(contenders.size());
  const auto start = std::chrono::steady_clock::now();
  for (int round = 0; round < turns.rounds; ++round) {
    const std::chrono::duration<double> spent = std::chrono::steady_clock::now() - start;
    if (round >= 5 && spent.count() > turns.seconds_in_all) break;
    const bool reverse = turns.back_and_forth && round % 2 == 1;
    for (std::size_t turn = 0; turn < contenders.size(); ++turn) {
      const std::size_t i = reverse ? contenders.size() - 1 - turn : turn;
      if (i > 0 && estimates[i] > slow && round % 5 != 0) {
        times[i].push_back(NAN);
        continue;
      }
      const int calls = std::max(1, static_cast<int>(turns.seconds / estimates[i]));
      std::this_thread::sleep_for(turns.pause);
      // Not counted: it fills the caches with this contender's data, and gives its threads time to
      // wake and to find a core each. Calls of many milliseconds do so themselves.
      if (calls > 1) seconds_of(turns.pause.count() > 0 ? 2 * calls : 1, contenders[i]);
      times[i].push_back(seconds_of(calls, contenders[i]) / calls);
    }
  }
  return times;
}

}  // namespace bench
