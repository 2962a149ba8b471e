// SPDX-License-Identifier: MIT
// What one writes by hand over Eigen maps: for each channel mean, variance, then the planes; where
// channels are side by side, row by row. Threads by OpenMP.
#include <omp.h>

#include <Eigen/Core>
#include <cmath>

#include "contender.hpp"

namespace bench {
namespace {

using Eigen::ArrayXf;
using Eigen::Index;
template <class T>
using In = Eigen::Map<const Eigen::Array<T, Eigen::Dynamic, 1>>;
template <class T>
using Out = Eigen::Map<Eigen::Array<T, Eigen::Dynamic, 1>>;

template <class T>
class Loops : public Contender {
 public:
  Loops(const Cell& cell, const Data& data)
      : operation_(cell.operation),
        threads_(cell.shape.size() < 1 << 14 ? 1 : cell.threads),
        size_(extents(cell)),
        count_(static_cast<float>(cell.shape.count())),
        x_(static_cast<const T*>(data.x)),
        dy_(static_cast<const T*>(data.dy)),
        out_(static_cast<T*>(data.out)),
        gamma_(In<float>(data.gamma, size_.channels)),
        beta_(In<float>(data.beta, size_.channels)),
        mean_(In<float>(data.mean, size_.channels)),
        inv_std_((In<float>(data.var, size_.channels) + float(eps)).rsqrt()),
        running_mean_(mean_),
        running_var_(ArrayXf::Ones(size_.channels)),
        dgamma_(size_.channels),
        dbeta_(size_.channels) {}

  void prepare_backward() {
    operation_ = Operation::forward;
    this->run();
    operation_ = Operation::backward;
  }

 protected:
  Outcome outcome() override {
    return {out_,
            {dgamma_.data(), dgamma_.data() + dgamma_.size()},
            {dbeta_.data(), dbeta_.data() + dbeta_.size()},
            {},
            {}};
  }

  void update_running(Index c, float var) {
    running_mean_[c] += 0.1f * (mean_[c] - running_mean_[c]);
    running_var_[c] += 0.1f * (var * count_ / (count_ - 1) - running_var_[c]);
  }

  Operation operation_;
  int threads_;  // small work is done before others are awake
  Extents size_;
  float count_;
  const T* x_;
  const T* dy_;
  T* out_;
  ArrayXf gamma_, beta_, mean_, inv_std_, running_mean_, running_var_, dgamma_, dbeta_;
};

/// [n][channel][position]: planes of one channel.
template <class T>
class Planes : public Loops<T> {
  using Base = Loops<T>;
  using Base::size_, Base::mean_, Base::inv_std_, Base::gamma_, Base::beta_, Base::count_;

 public:
  using Base::Base;

  void run() override {
#pragma omp parallel for num_threads(this->threads_)
    for (Index c = 0; c < size_.channels; ++c) {
      if (this->operation_ == Operation::backward) {
        backward(c);
      } else {
        if (this->operation_ == Operation::forward) statistics(c);
        normalize(c);
      }
    }
  }

 private:
  auto plane(const T* values, Index n, Index c) const {
    return In<T>(values + (n * size_.channels + c) * size_.inner, size_.inner);
  }
  auto x(Index n, Index c) const { return plane(this->x_, n, c).template cast<float>(); }
  auto dy(Index n, Index c) const { return plane(this->dy_, n, c).template cast<float>(); }
  auto out(Index n, Index c) const {
    return Out<T>(this->out_ + (n * size_.channels + c) * size_.inner, size_.inner);
  }

  void statistics(Index c) {
    double sum = 0;
    for (Index n = 0; n < size_.outer; ++n) sum += x(n, c).sum();
    const float mean = mean_[c] = static_cast<float>(sum / count_);
    double squares = 0;
    for (Index n = 0; n < size_.outer; ++n) squares += (x(n, c) - mean).square().sum();
    const float var = static_cast<float>(squares / count_);
    inv_std_[c] = 1 / std::sqrt(var + float(eps));
    this->update_running(c, var);
  }
  void normalize(Index c) const {
    const float mean = mean_[c], scale = gamma_[c] * inv_std_[c], beta = beta_[c];
    for (Index n = 0; n < size_.outer; ++n) {
      out(n, c) = ((x(n, c) - mean) * scale + beta).template cast<T>();
    }
  }
  void backward(Index c) {
    const float mean = mean_[c], inv_std = inv_std_[c];
    double dbeta = 0, dgamma = 0;
    for (Index n = 0; n < size_.outer; ++n) {
      dbeta += dy(n, c).sum();
      dgamma += (dy(n, c) * (x(n, c) - mean)).sum();
    }
    dgamma *= inv_std;
    this->dbeta_[c] = static_cast<float>(dbeta);
    this->dgamma_[c] = static_cast<float>(dgamma);
    const float scale = gamma_[c] * inv_std;
    const float of_x_hat = static_cast<float>(dgamma / count_) * inv_std;
    const float shift = static_cast<float>(dbeta / count_);
    for (Index n = 0; n < size_.outer; ++n) {
      out(n, c) = ((dy(n, c) - shift - (x(n, c) - mean) * of_x_hat) * scale).template cast<T>();
    }
  }
};

/// [row][channel]: channels side by side. Sums go row by row, since Eigen's rowwise().sum() walks
/// memory across; the rest is one expression.
template <class T>
class Rows : public Loops<T> {
  using Base = Loops<T>;
  using Base::size_, Base::mean_, Base::inv_std_, Base::gamma_, Base::beta_, Base::count_;
  using Block = Eigen::Array<T, Eigen::Dynamic, Eigen::Dynamic>;  // a row of x is its column

 public:
  using Base::Base;

  void run() override {
    if (this->operation_ == Operation::backward) return backward();
    if (this->operation_ == Operation::forward) statistics();
    const ArrayXf scale = gamma_ * inv_std_;
    each_block([&](Index m, Index rows) {
      out(m, rows) =
          (((x(m, rows).colwise() - mean_).colwise() * scale).colwise() + beta_).template cast<T>();
    });
  }

 private:
  auto block(const T* values, Index m, Index rows) const {
    return Eigen::Map<const Block>(values + m * size_.channels, size_.channels, rows);
  }
  auto x(Index m, Index rows) const { return block(this->x_, m, rows).template cast<float>(); }
  auto dy(Index m, Index rows) const { return block(this->dy_, m, rows).template cast<float>(); }
  auto out(Index m, Index rows) const {
    return Eigen::Map<Block>(this->out_ + m * size_.channels, size_.channels, rows);
  }
  auto x(Index m) const { return row(this->x_, m); }
  auto dy(Index m) const { return row(this->dy_, m); }
  auto row(const T* values, Index m) const {
    return In<T>(values + m * size_.channels, size_.channels).template cast<float>();
  }

  /// f(first row, number of rows), for each thread.
  template <class F>
  void each_block(const F& f) const {
#pragma omp parallel for num_threads(this->threads_)
    for (int t = 0; t < this->threads_; ++t) {
      const Index begin = size_.outer * t / this->threads_;
      f(begin, size_.outer * (t + 1) / this->threads_ - begin);
    }
  }
  /// The sum that add(row, sum) makes over all rows, each thread into one of its own.
  template <class Add>
  ArrayXf sum(Index size, const Add& add) const {
    ArrayXf total = ArrayXf::Zero(size);
#pragma omp parallel num_threads(this->threads_)
    {
      ArrayXf part = ArrayXf::Zero(size);
#pragma omp for
      for (Index m = 0; m < size_.outer; ++m) add(m, part);
#pragma omp critical
      total += part;
    }
    return total;
  }

  void statistics() {
    const Index channels = size_.channels;
    mean_ = sum(channels, [&](Index m, ArrayXf& part) { part += x(m); }) / count_;
    const ArrayXf var =
        sum(channels, [&](Index m, ArrayXf& part) { part += (x(m) - mean_).square(); }) / count_;
    inv_std_ = (var + float(eps)).rsqrt();
    for (Index c = 0; c < channels; ++c) this->update_running(c, var[c]);
  }
  void backward() {
    const Index channels = size_.channels;
    const ArrayXf both = sum(2 * channels, [&](Index m, ArrayXf& part) {
      part.head(channels) += dy(m);
      part.tail(channels) += dy(m) * (x(m) - mean_);
    });
    this->dbeta_ = both.head(channels);
    this->dgamma_ = both.tail(channels) * inv_std_;
    const ArrayXf scale = gamma_ * inv_std_, shift = this->dbeta_ / count_;
    const ArrayXf of_x_hat = this->dgamma_ / count_ * inv_std_;
    each_block([&](Index m, Index rows) {
      const auto x_part = (x(m, rows).colwise() - mean_).colwise() * of_x_hat;
      const auto dy_part = dy(m, rows).colwise() - shift;
      out(m, rows) = ((dy_part - x_part).colwise() * scale).template cast<T>();
    });
  }
};

template <class Form>
std::unique_ptr<Contender> make_form(const Cell& cell, const Data& data) {
  auto form = std::make_unique<Form>(cell, data);
  if (cell.operation == Operation::backward) form->prepare_backward();
  return form;
}
template <class T>
std::unique_ptr<Contender> make(const Cell& cell, const Data& data) {
  return extents(cell).inner == 1 ? make_form<Rows<T>>(cell, data)
                                  : make_form<Planes<T>>(cell, data);
}

}  // namespace

std::unique_ptr<Contender> make_eigen_loops(const Cell& cell, const Data& data) {
  switch (cell.type) {
    case Type::float32:
      return make<float>(cell, data);
    case Type::float16:
      return make<Eigen::half>(cell, data);
    default:
      return make<Eigen::bfloat16>(cell, data);
  }
}

}  // namespace bench
