// SPDX-License-Identifier: MIT
#pragma once

#include <atomic>
#include <cstddef>
#include <thread>
#include <vector>

#include "batchnorm/detail/workers.hpp"

// Layers on the threads of an Eigen::ThreadPoolDevice: what set_device needs. batchnorm.hpp
// includes this header if EIGEN_USE_THREADS is defined.
namespace batchnorm::detail {

/// A thread pool as function pointers, so that only the code that calls set_device needs its type.
struct Pool {
  const void* device;
  int threads;
  int (*number)(const void* device);  // the calling thread's in the pool, or -1
  void (*start)(const void* device, class Crew* crew);  // calls crew->help() on one of its threads
};

/// The tasks of one caller, and the pool's threads that help with them. Waking a thread can take
/// longer than the tasks. A helper thread that starts after the last task was taken returns at
/// once, and the caller does not wait for it. So a crew is deleted by the last of its owners: the
/// caller, and the helpers that were started.
class Crew {
 public:
  explicit Crew(const Pool& pool)
      : pool_(pool), shares_(static_cast<std::size_t>((std::max)(pool.threads, 1))) {}

  /// A thread of the pool itself works alone: if it waited for others, all of them might wait for
  /// ever.
  [[nodiscard]] static int count(const Crew& crew) {
    return crew.pool_.number(crew.pool_.device) == -1 ? crew.pool_.threads : 1;
  }
  [[nodiscard]] static Crew* copy(const Crew& crew) { return new Crew(crew.pool_); }
  static void release(Crew* crew) {
    if (crew->owners_.fetch_sub(1) == 1) delete crew;
  }

  /// Each thread starts with a share of the tasks that is the same from call to call, so that its
  /// caches may still hold the values. Then it takes tasks from the other shares.
  static void run(Crew& crew, void (*call)(const void*, Index), const void* body, Index tasks,
                  Index threads) {
    crew.call_ = call;
    crew.body_ = body;
    crew.tasks_ = tasks;
    crew.threads_ = threads;
    for (Share& share : crew.shares_) share.taken.store(0, std::memory_order_relaxed);
    crew.inside_.store(0, std::memory_order_release);
    for (Index h = crew.starting_; h < threads - 1; ++h) {
      ++crew.starting_;
      ++crew.owners_;
      crew.pool_.start(crew.pool_.device, &crew);
    }
    crew.work(0);
    crew.inside_.fetch_or(closed, std::memory_order_relaxed);
    for (int turn = 0; crew.inside_.load(std::memory_order_acquire) != closed; ++turn) {
      if (turn > 4096) std::this_thread::yield();  // helpers are at their last tasks
    }
  }

  /// What a helper thread does.
  void help() {
    --starting_;
    for (int others = inside_; !(others & closed);) {
      const bool enters = inside_.compare_exchange_weak(others, others + 1);
      if (enters) {  // GCOV_EXCL_BR_LINE: else another thread did so at the same time
        work(1 + pool_.number(pool_.device) % (threads_ - 1));
        inside_.fetch_sub(1, std::memory_order_release);
        break;
      }
    }
    release(this);
  }

 private:
  struct alignas(64) Share {
    std::atomic<Index> taken{0};  // tasks of the share
  };

  void work(Index first) {
    for (Index k = 0; k < threads_; ++k) {
      const Index s = (first + k) % threads_;
      const Index begin = s * tasks_ / threads_, end = (s + 1) * tasks_ / threads_;
      std::atomic<Index>& taken = shares_[static_cast<std::size_t>(s)].taken;
      for (Index n; (n = taken.fetch_add(1, std::memory_order_relaxed)) < end - begin;) {
        call_(body_, begin + n);
      }
    }
  }

  static constexpr int closed = 1 << 30;
  const Pool pool_;
  std::vector<Share> shares_;
  void (*call_)(const void*, Index) = nullptr;
  const void* body_ = nullptr;
  Index tasks_ = 0, threads_ = 0;
  std::atomic<int> inside_{closed};  // helpers at work; `closed` is added when no more may begin
  std::atomic<Index> starting_{0};   // helpers that were started and have not begun
  std::atomic<Index> owners_{1};     // the caller, and helpers until they return
};

template <class Device>
Workers workers_of(const Device& device) {
  static constexpr CrewFunctions functions{Crew::count, Crew::run, Crew::copy, Crew::release};
  const Pool pool{&device, device.numThreads(),
                  [](const void* d) { return static_cast<const Device*>(d)->currentThreadId(); },
                  [](const void* d, Crew* crew) {
                    // One pointer fits into std::function itself: nothing is allocated.
                    static_cast<const Device*>(d)->getPool()->Schedule([crew] { crew->help(); });
                  }};
  return Workers(new Crew(pool), functions);
}

}  // namespace batchnorm::detail
