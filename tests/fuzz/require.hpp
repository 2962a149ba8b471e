// SPDX-License-Identifier: MIT
// What a target asks for, beside what the sanitizers watch.
#pragma once

#include <cstdio>
#include <cstdlib>

namespace fuzz {

/// Ends the program unless `holds`; the fuzzer then keeps the input.
inline void require(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "\nDoes not hold: %s\n", what);
  std::abort();
}
/// The same for a number, which a NaN is not.
inline void require_within(long double low, long double v, long double high, const char* what) {
  if (v >= low && v <= high) return;
  std::fprintf(stderr, "\nExpected a number from %.17Lg to %.17Lg, got %.17Lg\n", low, high, v);
  require(false, what);
}

}  // namespace fuzz
