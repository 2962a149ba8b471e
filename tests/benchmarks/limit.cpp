// SPDX-License-Identifier: MIT
// The limit that memory sets: copies, one read and one write, for forward and inference; triads,
// two reads and one write, for backward. By ordinary and by non-temporal stores, which pass the
// caches by and win beyond them.
#include <omp.h>

#include <algorithm>
#include <cstdint>

#include "contender.hpp"
#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace bench {
namespace {

#if defined(__AVX__)
using Vector = __m256;
Vector load(const float* p) { return _mm256_loadu_ps(p); }
Vector add(Vector a, Vector b) { return _mm256_add_ps(a, b); }
void store(float* p, Vector v) { _mm256_storeu_ps(p, v); }
void stream(float* p, Vector v) { _mm256_stream_ps(p, v); }
void fence() { _mm_sfence(); }
#elif defined(__SSE2__)
using Vector = __m128;
Vector load(const float* p) { return _mm_loadu_ps(p); }
Vector add(Vector a, Vector b) { return _mm_add_ps(a, b); }
void store(float* p, Vector v) { _mm_storeu_ps(p, v); }
void stream(float* p, Vector v) { _mm_stream_ps(p, v); }
void fence() { _mm_sfence(); }
#else
using Vector = float;
Vector load(const float* p) { return *p; }
Vector add(Vector a, Vector b) { return a + b; }
void store(float* p, Vector v) { *p = v; }
void stream(float* p, Vector v) { *p = v; }
void fence() {}
#endif

class Limit : public Contender {
 public:
  Limit(const Cell& cell, const Data& data, bool streamed)
      : triad_(cell.operation == Operation::backward),
        streamed_(streamed),
        threads_(cell.threads),
        size_(static_cast<std::ptrdiff_t>(cell.tensor_bytes() / sizeof(float))),
        x_(static_cast<const float*>(data.x)),
        dy_(static_cast<const float*>(data.dy)),
        out_(static_cast<float*>(data.out)) {}

  void run() override {
    if (threads_ == 1) return part(0, size_);
#pragma omp parallel num_threads(threads_)
    {
      const std::ptrdiff_t lines = size_ / line + 1;
      const std::ptrdiff_t i = omp_get_thread_num(), n = omp_get_num_threads();
      part(std::min(size_, lines * i / n * line), std::min(size_, lines * (i + 1) / n * line));
    }
  }

  Outcome outcome() override { return {nullptr, {}, {}, {}, {}}; }  // nothing to compare

 private:
  static constexpr std::ptrdiff_t line = 16;  // floats of a cache line

  void part(std::ptrdiff_t begin, std::ptrdiff_t end) const {
    const auto put_sum = [&](auto put) {
      each(
          begin, end, put, [&](auto i) { return add(load(x_ + i), load(dy_ + i)); },
          [&](auto i) { return x_[i] + dy_[i]; });
    };
    const auto put_copy = [&](auto put) {
      each(
          begin, end, put, [&](auto i) { return load(x_ + i); }, [&](auto i) { return x_[i]; });
    };
    const auto by = [&](auto put) { triad_ ? put_sum(put) : put_copy(put); };
    if (streamed_) {
      by([](float* p, Vector v) { stream(p, v); });
      fence();
    } else {
      by([](float* p, Vector v) { store(p, v); });
    }
  }

  template <class Put, class Value, class Single>
  void each(std::ptrdiff_t begin, std::ptrdiff_t end, const Put& put, const Value& value,
            const Single& single) const {
    constexpr std::ptrdiff_t width = sizeof(Vector) / sizeof(float);
    std::ptrdiff_t i = begin;
    const auto is_aligned = [&] {
      return reinterpret_cast<std::uintptr_t>(out_ + i) % sizeof(Vector) == 0;
    };
    for (; i < end && !is_aligned(); ++i) out_[i] = single(i);
    for (; i + 4 * width <= end; i += 4 * width) {
      const Vector a = value(i), b = value(i + width);
      const Vector c = value(i + 2 * width), d = value(i + 3 * width);
      put(out_ + i, a);
      put(out_ + i + width, b);
      put(out_ + i + 2 * width, c);
      put(out_ + i + 3 * width, d);
    }
    for (; i < end; ++i) out_[i] = single(i);
  }

  bool triad_, streamed_;
  int threads_;
  std::ptrdiff_t size_;
  const float* x_;
  const float* dy_;
  float* out_;
};

}  // namespace

std::unique_ptr<Contender> make_copy(const Cell& cell, const Data& data) {
  return std::make_unique<Limit>(cell, data, false);
}
std::unique_ptr<Contender> make_streamed_copy(const Cell& cell, const Data& data) {
  return std::make_unique<Limit>(cell, data, true);
}

}  // namespace bench
