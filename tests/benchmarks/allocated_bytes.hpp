// SPDX-License-Identifier: MIT
// Counts the bytes that a program allocates, by standing in front of the C library's malloc, which
// operator new and Eigen call. Include in one file of a program. Counts 0 without glibc.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdlib>

namespace bench {
inline std::atomic<std::size_t> allocated_bytes{0};
}  // namespace bench

#if defined(__GLIBC__)
extern "C" {
void* __libc_malloc(std::size_t);
void* __libc_calloc(std::size_t, std::size_t);
void* __libc_realloc(void*, std::size_t);

void* malloc(std::size_t size) {
  bench::allocated_bytes += size;
  return __libc_malloc(size);
}
void* calloc(std::size_t n, std::size_t size) {
  bench::allocated_bytes += n * size;
  return __libc_calloc(n, size);
}
void* realloc(void* p, std::size_t size) {
  bench::allocated_bytes += size;
  return __libc_realloc(p, size);
}
}
#endif
