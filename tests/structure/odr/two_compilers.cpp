// SPDX-License-Identifier: MIT
#include <cmath>
#include <cstdio>

#include "calls.hpp"

int main() {
  const double first = calls_of_first(), second = calls_of_second();
  std::printf("%.9g and %.9g\n", first, second);
  // The compilers may round differently: some 40 sums of numbers up to 20, mostly in float.
  return std::abs(first - second) <= 1e-3 ? 0 : 1;
}
