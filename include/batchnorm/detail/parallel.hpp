// SPDX-License-Identifier: MIT
#pragma once

#include <Eigen/Core>
#include <atomic>
#include <condition_variable>
#include <mutex>
#include <type_traits>

#include "batchnorm/detail/scalar.hpp"

namespace batchnorm::detail {

template <class T, class = void>
inline constexpr bool is_complete = false;
template <class T>
inline constexpr bool is_complete<T, std::void_t<decltype(sizeof(T))>> = true;

/// The threads to work on: an Eigen::ThreadPoolDevice whose type is forgotten, so that only the
/// code that sets it needs EIGEN_USE_THREADS; or, by default, the calling thread alone.
class Workers {
 public:
  Workers() = default;

  template <class Device>
  explicit Workers(const Device& device)
      : device_(&device),
        count_([](const void* d) {
          const auto& pool = *static_cast<const Device*>(d);
          return pool.currentThreadId() == -1 ? pool.numThreads() : 1;
        }),
        schedule_([](const void* d, Job* job) {
          // A lambda of one pointer fits std::function's own storage: nothing is allocated.
          static_cast<const Device*>(d)->getPool()->Schedule([job] { job->help(); });
        }) {}

  /// How many threads a call made here may use: one on a thread of the pool itself, where waiting
  /// for the others could wait for ever.
  [[nodiscard]] int count() const { return device_ ? count_(device_) : 1; }

  /// Calls body(t) for each task t in [0, tasks), on up to `threads` threads at once, and returns
  /// when all are done. Bodies must not throw. Which thread gets which task is left to chance, so
  /// its result must not depend on it.
  template <class Body>
  void run(int threads, Index tasks, const Body& body) const {
    const Index helpers = std::min<Index>(threads, tasks) - 1;
    if (helpers <= 0) {
      for (Index t = 0; t < tasks; ++t) body(t);
      return;
    }
    const auto call = [](Job* job) {
      const Body& do_task = *static_cast<const Body*>(job->body);
      for (Index t; (t = job->next.fetch_add(1)) < job->tasks;) do_task(t);
    };
    Job job{call, &body, tasks, helpers};
    for (Index h = 0; h < helpers; ++h) schedule_(device_, &job);
    call(&job);
    job.wait();
  }

 private:
  /// Lies on its caller's stack, who therefore waits for every helper to have left, late ones
  /// included.
  struct Job {
    void (*call)(Job*);
    const void* body;
    Index tasks;
    Index helpers;  // that have not left yet
    std::atomic<Index> next{0};
    std::mutex mutex{};
    std::condition_variable all_left{};

    void help() {
      call(this);
      const std::lock_guard<std::mutex> lock(mutex);
      if (--helpers == 0) all_left.notify_one();
    }
    void wait() {
      std::unique_lock<std::mutex> lock(mutex);
      all_left.wait(lock, [this] { return helpers == 0; });
    }
  };

  const void* device_ = nullptr;
  int (*count_)(const void*) = nullptr;
  void (*schedule_)(const void*, Job*) = nullptr;
};

}  // namespace batchnorm::detail
