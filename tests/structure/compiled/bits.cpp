// SPDX-License-Identifier: MIT
// Prints the bits of what layers of all scalars compute. Built twice: with headers alone, and with the
// explicit instantiations of batchnorm::compiled. Both must print the same.
#include <batchnorm/batchnorm.hpp>
#include <cstdint>
#include <cstdio>
#include <cstring>

namespace {

/// FNV-1a of the bytes of a tensor or vector.
template <class X>
std::uint64_t hash(const X& x) {
  const auto* const bytes = reinterpret_cast<const unsigned char*>(x.data());
  std::uint64_t h = 14695981039346656037u;
  for (std::size_t i = 0; i < static_cast<std::size_t>(x.size()) * sizeof(*x.data()); ++i) {
    h = (h ^ bytes[i]) * 1099511628211u;
  }
  return h;
}

template <class Scalar>
void print(const char* name, batchnorm::ChannelAxis axis) {
  using Tensor = Eigen::Tensor<Scalar, 4, Eigen::RowMajor>;
  Tensor x(6, 7, 5, 7), dy(6, 7, 5, 7), y(6, 7, 5, 7);
  std::uint32_t state = 1;
  for (Tensor* const t : {&x, &dy}) {
    for (Eigen::Index i = 0; i < t->size(); ++i) {
      state = state * 1664525u + 1013904223u;
      t->data()[i] = static_cast<Scalar>(static_cast<float>(state >> 8) * 0x1p-22f - 1.0f);
    }
  }
  batchnorm::Options options;
  options.channel_axis = axis;
  batchnorm::BatchNorm2d<Scalar> bn(7, options);
  bn.gamma().setLinSpaced(-1, 2);
  bn.forward(x, y);
  const std::uint64_t y_bits = hash(y);
  const Tensor dx = bn.backward(x, dy), inferred = bn.infer(x);
  std::printf("%s %llx %llx %llx %llx %llx\n", name, static_cast<unsigned long long>(y_bits),
              static_cast<unsigned long long>(hash(dx)),
              static_cast<unsigned long long>(hash(inferred)),
              static_cast<unsigned long long>(hash(bn.grad_gamma())),
              static_cast<unsigned long long>(hash(bn.running_var())));
}

}  // namespace

int main() {
  for (const auto axis : {batchnorm::ChannelAxis::first, batchnorm::ChannelAxis::last}) {
    print<float>("float", axis);
    print<double>("double", axis);
    print<Eigen::half>("half", axis);
    print<Eigen::bfloat16>("bfloat16", axis);
  }
}
