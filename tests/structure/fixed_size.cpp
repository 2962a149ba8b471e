// SPDX-License-Identifier: MIT
// A layer of fixed size in a program without exceptions, RTTI and heap, trained for some steps.
#define EIGEN_NO_MALLOC  // Eigen asserts that it allocates nothing
#undef NDEBUG

#include <batchnorm/extras/fixed.hpp>
#include <cstdio>

#include "../support/allocations.hpp"

static batchnorm::FixedBatchNorm1d<float, 4> bn;

int main() {
  Eigen::Matrix<float, 8, 4, Eigen::RowMajor> x, y, dx;
  for (int i = 0; i < 32; ++i) x(i / 4, i % 4) = static_cast<float>(i * i % 7);
  const long allocated = testing::allocations([&] {
    for (int step = 0; step < 10; ++step) {
      y = bn.forward(x);
      dx = bn.backward(x, y);
      bn.gamma() -= 0.1f * bn.grad_gamma();
      bn.zero_grad();
    }
    bn.eval();
    y = bn.forward(x);
  });
  const bool is_right = bn.num_batches_tracked() == 10 && y.allFinite() && dx.allFinite();
  if (allocated != 0 || !is_right) std::printf("%ld allocations\n", allocated);
  return allocated != 0 || !is_right;
}
