// SPDX-License-Identifier: MIT
// Counts allocations of the whole program, by standing in front of the C library's malloc: this
// sees operator new, Eigen's own allocations and other threads. It can let one of them fail. Include
// in one file of a program.
// Without glibc, or with a sanitizer that has a malloc of its own, nothing is counted.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdlib>
#include <exception>

#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define TESTING_HAS_OWN_MALLOC
#endif
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || !defined(__GLIBC__)
#define TESTING_HAS_OWN_MALLOC
#endif

namespace testing {

inline std::atomic<long> allocation_count{0};
inline std::atomic<std::size_t> largest_allocation{0};
inline std::atomic<long> allocations_left{-1};  // before one fails; below 0: none does
/// Counts an allocation, and says whether it is to succeed.
inline bool note_allocation(std::size_t size) {
  ++allocation_count;
  if (size > largest_allocation) largest_allocation = size;
  return allocations_left < 0 || allocations_left-- > 0;
}

#if defined(TESTING_HAS_OWN_MALLOC)
inline constexpr bool counts_allocations = false;
#else
inline constexpr bool counts_allocations = true;
#endif

/// How many allocations f makes.
template <class F>
long allocations(const F& f) {
  const long before = allocation_count;
  f();
  return allocation_count - before;
}

/// Calls f, whose allocation number k, counted from 0, fails. Returns whether f throws. (A layer that
/// is synchronized tells all ranks of it by an exception of its own.)
template <class F>
bool runs_out_of_memory(long k, const F& f) {
  allocations_left = k;
  try {
    f();
  } catch (const std::exception&) {
    allocations_left = -1;
    return true;
  }
  allocations_left = -1;
  return false;
}

}  // namespace testing

#if !defined(TESTING_HAS_OWN_MALLOC)
extern "C" {
void* __libc_malloc(std::size_t);
void* __libc_calloc(std::size_t, std::size_t);
void* __libc_realloc(void*, std::size_t);
void* __libc_memalign(std::size_t, std::size_t);

void* malloc(std::size_t size) {
  return testing::note_allocation(size) ? __libc_malloc(size) : nullptr;
}
void* calloc(std::size_t n, std::size_t size) {
  return testing::note_allocation(n * size) ? __libc_calloc(n, size) : nullptr;
}
void* realloc(void* p, std::size_t size) {
  return testing::note_allocation(size) ? __libc_realloc(p, size) : nullptr;
}
void* aligned_alloc(std::size_t alignment, std::size_t size) {
  return testing::note_allocation(size) ? __libc_memalign(alignment, size) : nullptr;
}
}
#endif
