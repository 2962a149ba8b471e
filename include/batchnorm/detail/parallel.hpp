// SPDX-License-Identifier: MIT
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <atomic>
#include <cstddef>
#include <memory>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

#include "batchnorm/detail/scalar.hpp"

namespace batchnorm::detail {

template <class T, class = void>
inline constexpr bool is_complete = false;
template <class T>
inline constexpr bool is_complete<T, std::void_t<decltype(sizeof(T))>> = true;

/// An Eigen::ThreadPoolDevice whose type is forgotten, so that only the code that sets it needs
/// EIGEN_USE_THREADS.
struct Pool {
  const void* device;
  int threads;
  int (*number)(const void* device);  // of the calling thread in the pool, or -1
  void (*send)(const void* device, class Crew*);
};

/// One caller's tasks, and the helpers that it sends for. Waking a thread can take longer than the
/// tasks: a helper that comes late finds the door closed and leaves, and nobody waits for it. So a
/// crew lives on until the last helper under way has come.
class Crew {
 public:
  explicit Crew(const Pool& pool)
      : pool_(pool), shares_(static_cast<std::size_t>(std::max(pool.threads, 1))) {}

  [[nodiscard]] const Pool& pool() const { return pool_; }

  /// Calls call(body, t) for each task t in [0, tasks), on up to `threads` threads, and returns when
  /// all are done. Each starts with a share of its own, from call to call the same one, which its
  /// caches may still hold, and then takes from the others'.
  void run(void (*call)(const void*, Index), const void* body, Index tasks, Index threads) {
    call_ = call, body_ = body, tasks_ = tasks, threads_ = threads;
    for (Share& share : shares_) share.taken.store(0, std::memory_order_relaxed);
    inside_.store(0, std::memory_order_release);
    for (Index h = under_way_; h < threads - 1; ++h) {
      ++under_way_, ++owners_;
      pool_.send(pool_.device, this);
    }
    work(0);
    inside_.fetch_or(closed, std::memory_order_relaxed);
    for (int turn = 0; inside_.load(std::memory_order_acquire) != closed; ++turn) {
      if (turn > 4096) std::this_thread::yield();  // soon: a helper is at its last task
    }
  }

  /// What a helper does.
  void help() {
    --under_way_;
    for (int others = inside_; !(others & closed);) {
      const bool enters = inside_.compare_exchange_weak(others, others + 1);
      if (enters) {  // GCOV_EXCL_BR_LINE: else another did so at the same time
        work(1 + pool_.number(pool_.device) % (threads_ - 1));
        inside_.fetch_sub(1, std::memory_order_release);
        break;
      }
    }
    release();
  }

  void release() {
    if (owners_.fetch_sub(1) == 1) delete this;
  }

 private:
  struct alignas(64) Share {
    std::atomic<Index> taken{0};  // tasks of it
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
  std::atomic<int> inside_{closed};  // helpers at work, while the door is open
  std::atomic<Index> under_way_{0};  // helpers that have not come yet
  std::atomic<Index> owners_{1};     // whose crew it is, and helpers until they leave
};

/// The threads to work on: a pool's, or by default the calling thread alone. A copy has a crew of
/// its own.
class Workers {
 public:
  Workers() = default;
  template <class Device>
  explicit Workers(const Device& device)
      : crew_(new Crew(
            {&device, device.numThreads(),
             [](const void* d) { return static_cast<const Device*>(d)->currentThreadId(); },
             [](const void* d, Crew* crew) {
               // One pointer fits std::function's own storage: nothing is allocated.
               const auto help = [crew] { crew->help(); };
               static_cast<const Device*>(d)->getPool()->Schedule(help);
             }})) {}
  Workers(const Workers& from) : crew_(from.crew_ ? new Crew(from.crew_->pool()) : nullptr) {}
  Workers(Workers&&) = default;
  Workers& operator=(Workers from) noexcept {
    std::swap(crew_, from.crew_);
    return *this;
  }
  ~Workers() = default;

  /// How many threads a call made here may use: one on a thread of the pool itself, where waiting
  /// for the others could wait for ever.
  [[nodiscard]] int count() const {
    if (!crew_ || crew_->pool().number(crew_->pool().device) != -1) return 1;
    return crew_->pool().threads;
  }

  /// Calls body(t) for each task t in [0, tasks), on up to `threads` threads at once, and returns
  /// when all are done. Bodies must not throw. Which thread gets which task
  /// is left to chance, so its result must not depend on it.
  template <class Body>
  void run(int threads, Index tasks, const Body& body) const {
    if (threads == 1) {
      for (Index t = 0; t < tasks; ++t) body(t);
      return;
    }
    const auto call = [](const void* b, Index t) { (*static_cast<const Body*>(b))(t); };
    crew_->run(call, &body, tasks, std::min<Index>(threads, tasks));
  }

 private:
  struct Release {
    void operator()(Crew* crew) const { crew->release(); }
  };
  std::unique_ptr<Crew, Release> crew_;  // none: the calling thread alone
};

}  // namespace batchnorm::detail
