// SPDX-License-Identifier: MIT
#include "study.hpp"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <exception>
#include <mutex>
#include <thread>

#include "progress.hpp"

namespace claims {

bool gives_verdicts(const Effort& effort) { return effort.seeds >= 5 && effort.steps >= 1.0; }

int Study::steps(int full) const {
  return std::max(4, static_cast<int>(std::lround(effort_.steps * full)));
}

Outcomes Study::run(const std::string& label, const std::vector<Recipe>& recipes) const {
  const auto seeds = static_cast<std::size_t>(effort_.seeds);
  Outcomes outcomes(recipes.size(), std::vector<Outcome>(seeds));
  std::size_t images = 0;
  for (const auto& recipe : recipes) {
    images += seeds * recipe.batch * static_cast<std::size_t>(recipe.steps);
  }
  fashion_mnist::Progress progress(images);
  std::mutex mutex;  // of progress and failure
  std::exception_ptr failure;
  std::atomic<std::size_t> next{0};
  const auto work = [&] {
    try {
      for (std::size_t job = next++; job < recipes.size() * seeds; job = next++) {
        const Recipe& recipe = recipes[job / seeds];
        const std::size_t seed = job % seeds;
        outcomes[job / seeds][seed] = train(recipe, seed, source_, [&](std::size_t done) {
          const std::lock_guard<std::mutex> lock(mutex);
          progress.advance(done, label, recipe.name);
        });
      }
    } catch (...) {
      const std::lock_guard<std::mutex> lock(mutex);
      failure = std::current_exception();
      next = recipes.size() * seeds;
    }
  };
  std::vector<std::thread> threads;
  for (int i = 1; i < effort_.threads; ++i) threads.emplace_back(work);
  work();
  for (auto& thread : threads) thread.join();
  if (failure) std::rethrow_exception(failure);
  return outcomes;
}

}  // namespace claims
