// SPDX-License-Identifier: MIT
// The caller and the threads that help with its tasks, as batchnorm/threads.hpp has them.
#define EIGEN_USE_THREADS

#include <algorithm>
#include <array>
#include <atomic>
#include <batchnorm/batchnorm.hpp>
#include <chrono>
#include <future>
#include <memory>
#include <mutex>
#include <set>
#include <thread>
#include <unsupported/Eigen/CXX11/Tensor>
#include <vector>

#include "support/catch.hpp"

using Eigen::Index;

namespace {

/// A pool that makes a thread for each helper, and counts them.
struct Helpers {
  std::atomic<int> started{0};
  std::vector<std::thread> threads;
  std::mutex guard;

  [[nodiscard]] batchnorm::detail::Pool pool(int size) const {
    return {this, size, [](const void*) { return 0; },
            [](const void* self, batchnorm::detail::Crew* crew) {
              auto& helpers = *const_cast<Helpers*>(static_cast<const Helpers*>(self));
              ++helpers.started;
              const std::lock_guard<std::mutex> lock(helpers.guard);
              helpers.threads.emplace_back([crew] { crew->help(); });
            }};
  }
  void join() {
    for (std::thread& thread : threads) thread.join();
    threads.clear();
  }
  ~Helpers() { join(); }
};
/// Sets helpers_wait_us until the end of a test.
struct Waiting {
  int before;
  explicit Waiting(int us) : before(batchnorm::helpers_wait_us.exchange(us)) {}
  ~Waiting() { batchnorm::helpers_wait_us = before; }
};
using Crew = batchnorm::detail::Crew;
using CrewOwner = std::unique_ptr<Crew, void (*)(Crew*)>;

/// A run of as many tasks as threads, each of which waits until all have begun. Returns how many
/// threads were at work; after ten seconds it gives up.
std::size_t threads_that_meet(Crew& crew, int threads) {
  std::atomic<int> begun{0};
  std::mutex guard;
  std::set<std::thread::id> ids;
  const auto meet = [&](Index) {
    {
      const std::lock_guard<std::mutex> lock(guard);
      ids.insert(std::this_thread::get_id());
    }
    ++begun;
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(10);
    while (begun < threads && std::chrono::steady_clock::now() < end) std::this_thread::yield();
  };
  Crew::run(crew, threads, threads, meet);
  return ids.size();
}

}  // namespace

TEST_CASE("every thread gets tasks, and threads that wait are used again", "[threads]") {
  const Waiting until_needed(5'000'000);
  Helpers helpers;
  const CrewOwner crew(new Crew(helpers.pool(8)), Crew::release);
  CHECK(threads_that_meet(*crew, 8) == 8);  // the caller starts two, and these start the others
  CHECK(helpers.started == 7);
  for (const int threads : {8, 3, 8}) {
    CHECK(threads_that_meet(*crew, threads) == static_cast<std::size_t>(threads));
    CHECK(helpers.started == 7);
  }
  batchnorm::helpers_wait_us = 0;
  CHECK(threads_that_meet(*crew, 8) == 8);  // after this run nobody waits any more
}

TEST_CASE("each task of a run is done once, by the body of this run", "[threads]") {
  const Waiting until_needed(100'000);  // helpers stay from run to run
  Helpers helpers;
  const CrewOwner crew(new Crew(helpers.pool(3)), Crew::release);
  constexpr Index tasks = 12;
  // How often each task was done, by the body of even runs and by that of odd runs.
  std::array<std::array<std::atomic<int>, tasks>, 2> done{};
  const auto even = [&](Index t) { ++done[0][static_cast<std::size_t>(t)]; };
  const auto odd = [&](Index t) { ++done[1][static_cast<std::size_t>(t)]; };
  const batchnorm::detail::FunctionRef<Index> bodies[] = {even, odd};
  int wrong = 0;
  for (std::size_t run = 0; run < 20'000; ++run) {
    Crew::run(*crew, 3, tasks, bodies[run % 2]);
    for (auto& times : done[run % 2]) wrong += times.exchange(0) != 1;
  }
  CHECK(wrong == 0);
  batchnorm::helpers_wait_us = 0;  // so that the helpers leave, for which the test waits
}

TEST_CASE("a helper that comes after the tasks starts no other", "[threads]") {
  // By then the layer and its device may be gone.
  const Waiting not_at_all(0);
  static std::vector<Crew*> queue;  // a pool that is busy with other work
  queue.clear();
  const batchnorm::detail::Pool busy{nullptr, 8, [](const void*) { return 0; },
                                     [](const void*, Crew* crew) { queue.push_back(crew); }};
  {
    const CrewOwner crew(new Crew(busy), Crew::release);
    int done = 0;
    Crew::run(*crew, 8, 20, [&](Index) { ++done; });
    CHECK(done == 20);
    CHECK(queue.size() == 2);
  }
  for (std::size_t k = 0; k < queue.size(); ++k) queue[k]->help();
  CHECK(queue.size() == 2);
}

TEST_CASE("a pool whose queue is full runs helpers in the caller, where they do nothing",
          "[threads]") {
  const Waiting until_needed(5'000'000);
  static int depth, deepest;
  depth = deepest = 0;
  const batchnorm::detail::Pool full{nullptr, 8, [](const void*) { return -1; },
                                     [](const void*, Crew* crew) {
                                       deepest = std::max(deepest, ++depth);
                                       crew->help();
                                       --depth;
                                     }};
  const CrewOwner crew(new Crew(full), Crew::release);
  int done = 0;
  Crew::run(*crew, 8, 20, [&](Index) { ++done; });
  CHECK(done == 20);
  CHECK(deepest == 1);
}

TEST_CASE("other work of the pool has its turn while a layer is called again and again",
          "[threads]") {
  const Waiting ten_milliseconds(10'000);  // a helper stays for a second
  Helpers helpers;
  const CrewOwner crew(new Crew(helpers.pool(2)), Crew::release);
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(10);
  while (helpers.started < 2 && std::chrono::steady_clock::now() < end) {
    threads_that_meet(*crew, 2);
  }
  CHECK(helpers.started >= 2);  // one left, although the calls follow each other
}

TEST_CASE("threads that have gone are started again", "[threads]") {
  const Waiting not_at_all(0);
  Helpers helpers;
  const CrewOwner crew(new Crew(helpers.pool(4)), Crew::release);
  for (int run = 1; run <= 3; ++run) {
    CHECK(threads_that_meet(*crew, 4) == 4);
    helpers.join();
    CHECK(helpers.started == 3 * run);
  }
}

TEST_CASE("a task alone is done by the caller, and a helper that comes meanwhile leaves",
          "[threads]") {
  std::promise<void> finished, passed;
  Eigen::ThreadPool pool(1);
  const Eigen::ThreadPoolDevice device(&pool, 2);
  pool.Schedule([ready = finished.get_future().share()] { ready.wait(); });
  const batchnorm::detail::Workers workers = batchnorm::detail::workers_of(device);
  std::atomic<int> done{0};
  workers.run(2, 4, [&](Index) { ++done; });  // sends for a helper, which waits in the pool
  CHECK(done == 4);
  workers.run(2, 1, [&](Index) {
    finished.set_value();
    pool.Schedule([&] { passed.set_value(); });  // after the helper
    passed.get_future().wait();
    ++done;
  });
  CHECK(done == 5);
}
