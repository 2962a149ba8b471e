// SPDX-License-Identifier: MIT
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <thread>
#include <vector>

#include "batchnorm/detail/workers.hpp"

// Layers on the threads of an Eigen::ThreadPoolDevice: what set_device needs. batchnorm.hpp
// includes this header if EIGEN_USE_THREADS is defined.
namespace batchnorm {

/// How long a thread of the pool waits for the next tasks of a layer, after a call or in the middle
/// of one, before it is free for other work: in microseconds. To wake it again takes 10 to 50.
/// After 100 times this time with one layer it is free in any case, even if the layer is called
/// again and again. Shared libraries that hide their symbols have their own.
inline std::atomic<int> helpers_wait_us{20};

}  // namespace batchnorm

namespace batchnorm::detail {

/// A thread pool as function pointers, so that only the code that calls set_device needs its type.
struct Pool {
  const void* device;
  int threads;
  int (*number)(const void* device);                    // the calling thread's in the pool, or -1
  void (*start)(const void* device, class Crew* crew);  // calls crew->help() on one of its threads
};

/// The tasks of one caller, and the pool's threads that help with them. Waking a thread can take
/// longer than the tasks. A helper thread that starts after the last task was taken does no work,
/// and the caller does not wait for it. So a crew is deleted by the last of its owners: the caller,
/// and the helpers that were started.
class Crew {
 public:
  explicit Crew(const Pool& pool)
      : pool_(pool), shares_(static_cast<std::size_t>((std::max)(pool.threads, 1))) {}

  /// A thread of the pool itself works alone: the others probably have calls of their own.
  [[nodiscard]] static int count(const Crew& crew) {
    return crew.pool_.number(crew.pool_.device) == -1 ? crew.pool_.threads : 1;
  }
  [[nodiscard]] static Crew* copy(const Crew& crew) { return new Crew(crew.pool_); }
  static void release(Crew* crew) {
    if (crew->owners_.fetch_sub(1) == 1) delete crew;
  }

  /// Each thread starts with a share of the tasks that is the same from run to run, so that its
  /// caches may still hold the values. Then it takes tasks from the other shares.
  static void run(Crew& crew, Index threads, Index tasks, const FunctionRef<Index>& body) {
    crew.body_ = &body;
    crew.tasks_ = tasks;
    crew.threads_ = threads;
    for (Share& share : crew.shares_) share.taken.store(0, relaxed);
    crew.missing_ = threads - 1 - crew.present_;
    const State number = crew.state_.load(relaxed) / one_run + 1;
    const State places = static_cast<State>(threads - 1) * one_place;
    crew.state_.store(number * one_run + places, std::memory_order_release);
    crew.start_helpers();
    crew.work(0);
    crew.state_.fetch_or(closed, relaxed);
    for (int turn = 0; helpers_at_work(crew.state_.load(std::memory_order_acquire)); ++turn) {
      if (turn > 4096) std::this_thread::yield();  // helpers are at their last tasks
    }
  }

  /// What a helper thread does: it helps with a run, then waits for the next for a limited time. A
  /// pool whose queue is full calls it inside start_helpers(), where it does nothing.
  void help() {
    using Clock = std::chrono::steady_clock;
    constexpr int longest_stay = 100;  // waits; then other work of the pool has its turn
    const auto after = [](int waits) {
      return Clock::now() + waits * std::chrono::microseconds(helpers_wait_us);
    };
    State helped = no_run;
    auto end = after(1);
    const auto latest = after(longest_stay);
    while (!is_starting()) {
      if (enters(helped)) {
        start_helpers();
        work(1 + pool_.number(pool_.device) % (threads_ - 1));
        state_.fetch_sub(1, std::memory_order_release);
        end = after(1);
        if (end > latest) break;
      } else if (Clock::now() < end) {
        std::this_thread::yield();
      } else {
        break;
      }
    }
    --present_;
    release(this);
  }

 private:
  static constexpr auto relaxed = std::memory_order_relaxed;

  // What many threads change while they work lies on cache lines of its own. They look at a number
  // before they change it: 16 threads that only look do not wait for one another.
  struct alignas(64) Share {
    std::atomic<Index> taken{0};  // tasks of the share
  };
  /// The number of the run; whether it is closed, so that no helper may enter; how many helpers may
  /// still enter; and how many are at work.
  using State = std::uint64_t;
  static constexpr State one_place = State{1} << 16, closed = State{1} << 31,
                         one_run = State{1} << 32, no_run = ~State{0};
  [[nodiscard]] static bool helpers_at_work(State state) { return state % one_place != 0; }
  [[nodiscard]] static State free_places(State state) { return state % closed / one_place; }

  /// Enters a run that the helper has not been in, and sets `helped` to its number.
  [[nodiscard]] bool enters(State& helped) {
    State state = state_.load(relaxed);
    while (!(state & closed) && free_places(state) > 0 && state / one_run != helped) {
      if (!state_.compare_exchange_weak(state, state - one_place + 1)) continue;
      helped = state / one_run;
      return true;
    }
    return false;
  }
  /// Each thread starts up to two, and these start others: a start takes 3 us, because it calls the
  /// system. Only during a run, because the device may be deleted after it. noexcept: a run cannot
  /// go on without its caller.
  void start_helpers() noexcept {
    for (int k = 0; k < 2; ++k) {
      if (missing_.load(relaxed) <= 0) return;
      if (missing_.fetch_sub(1) <= 0) return;  // GCOV_EXCL_BR_LINE: another thread was faster
      ++present_;
      ++owners_;
      is_starting() = true;
      pool_.start(pool_.device, this);
      is_starting() = false;
    }
  }
  /// Is this thread inside start_helpers()?
  [[nodiscard]] static bool& is_starting() {
    static thread_local bool starting = false;
    return starting;
  }
  void work(Index first) {
    for (Index k = 0; k < threads_; ++k) {
      const Index s = (first + k) % threads_;
      const Index begin = s * tasks_ / threads_, end = (s + 1) * tasks_ / threads_;
      std::atomic<Index>& taken = shares_[static_cast<std::size_t>(s)].taken;
      while (taken.load(relaxed) < end - begin) {
        const Index n = taken.fetch_add(1, relaxed);
        if (n < end - begin) (*body_)(begin + n);
      }
    }
  }

  const Pool pool_;
  std::vector<Share> shares_;
  const FunctionRef<Index>* body_ = nullptr;
  Index tasks_ = 0, threads_ = 0;
  std::atomic<Index> present_{0};  // helpers that were started and have not gone
  std::atomic<Index> missing_{0};  // helpers that are still to be started
  std::atomic<Index> owners_{1};   // the caller, and helpers until they return
  alignas(64) std::atomic<State> state_{closed};
};

template <class Device>
Workers workers_of(const Device& device) {
  static constexpr CrewFunctions functions{Crew::count, Crew::run, Crew::copy, Crew::release};
  const Pool pool{&device, device.numThreads(),
                  [](const void* d) { return static_cast<const Device*>(d)->currentThreadId(); },
                  [](const void* d, Crew* crew) {
                    // One pointer fits into std::function itself: nothing is allocated. A pool that
                    // is cancelled deletes the function uncalled: then the crew is never deleted.
                    static_cast<const Device*>(d)->getPool()->Schedule([crew] { crew->help(); });
                  }};
  return Workers(new Crew(pool), functions);
}

}  // namespace batchnorm::detail
