// SPDX-License-Identifier: MIT
// A layer goes back and forth between this file and one with EIGEN_USE_THREADS. Every way through
// must give the same bits, on the calling thread and on the pool.
#ifdef EIGEN_USE_THREADS
#error "this file is the one without"
#endif

#include <cstdio>
#include <cstring>

#include "../../support/random.hpp"
#include "odr.hpp"

namespace {

bool failed = false;

template <typename Values>
void check_same(const char* what, const Values& a, const Values& b) {
  const auto bytes = sizeof(float) * static_cast<std::size_t>(a.size());
  if (a.size() != b.size() || std::memcmp(a.data(), b.data(), bytes) != 0) {
    std::printf("%s: the bits differ\n", what);
    failed = true;
  }
}

void check_same_state(const char* what, const Layer& a, const Layer& b) {
  check_same(what, a.grad_gamma(), b.grad_gamma());
  check_same(what, a.grad_beta(), b.grad_beta());
  check_same(what, a.running_mean(), b.running_mean());
  check_same(what, a.running_var(), b.running_var());
}

}  // namespace

int main() {
  testing::Random random(7);
  Batch x(16, 24, 32, 32), dy(16, 24, 32, 32);  // large enough to be shared out among threads
  random.fill(x, 3, 2);
  random.fill(dy);

  Layer here(24);
  const Batch y = here.forward(x);
  const Batch dx = here.backward(x, dy);

  Layer there(24);
  check_same("y, made there", forward_with_threads(there, x), y);
  check_same("dx, made there", backward_with_threads(there, x, dy), dx);
  check_same_state("state, made there", there, here);

  Layer pooled(24);
  use_threads(pooled);
  check_same("y, on the pool from here", pooled.forward(x), y);
  check_same("dx, on the pool from there", backward_with_threads(pooled, x, dy), dx);
  check_same_state("state, on the pool", pooled, here);

  Layer copy = pooled;  // copies share the pool
  pooled.set_device(nullptr);
  here.zero_grad();
  copy.zero_grad();
  check_same("y, of a copy", forward_with_threads(copy, x), here.forward(x));
  check_same("dx, of a copy", copy.backward(x, dy), here.backward(x, dy));
  check_same_state("state, of a copy", copy, here);
  return failed ? 1 : 0;
}
