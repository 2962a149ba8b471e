// SPDX-License-Identifier: MIT
#pragma once

#include <Eigen/Core>
#include <atomic>
#include <utility>

#include "batchnorm/channel_affine.hpp"
#include "batchnorm/detail/running.hpp"
#include "batchnorm/functional.hpp"
#include "batchnorm/options.hpp"

namespace batchnorm {

/// What a forward leaves for its backward: the statistics that it normalized with. Small and
/// copyable. A layer that a graph uses several times needs one for each use.
struct Saved {
  Eigen::VectorXd mean;           ///< (C) mu
  Eigen::VectorXd var;            ///< (C) the population variance, or the running variance
  Eigen::VectorXd inv_std;        ///< (C) 1 / sqrt(var + eps), or 0 where var + eps is 0
  Eigen::Index count = 0;         ///< n, the values per channel
  bool batch_statistics = false;  ///< those of the batch; false: the running statistics
  bool overwritten = false;       ///< y was written over x, which a backward would need
  detail::Shape shape;            ///< x's
};

namespace detail {

/// An Index that becomes 0 when it is moved from, so that a moved-from layer can be recognized.
struct ClearedByMove {
  Index value;
  explicit ClearedByMove(Index v) : value(v) {}
  ClearedByMove(const ClearedByMove&) = default;
  ClearedByMove(ClearedByMove&& from) noexcept : value(std::exchange(from.value, 0)) {}
  ClearedByMove& operator=(ClearedByMove from) noexcept {
    value = from.value;
    return *this;
  }
  operator Index() const { return value; }
};

/// Set while a thread is inside forward or backward. It is not copied: a copied layer is free.
struct InUse : std::atomic<bool> {
  InUse() : std::atomic<bool>(false) {}
  InUse(const InUse&) noexcept : InUse() {}
  InUse& operator=(const InUse&) noexcept { return *this; }
};
/// Sets the flag as long as it lives. Throws std::logic_error if another thread has set it.
struct Entered {
  InUse& flag;
  Entered(InUse& f, const Where& where) : flag(f) {
    if (flag.exchange(true))
      where.misuse({"expected one thread at a time; several threads may call infer(x)"});
  }
  Entered(const Entered&) = delete;
  ~Entered() { flag.store(false); }
};

/// Throws unless backward's x has the shape of the last forward's; rank 0: there was no forward.
inline void check_shape_of_last(const Where& where, const Shape& last, const Shape& shape) {
  if (last.rank == 0)
    where.misuse({"expected a forward before backward, got none: call forward(x) first"});
  if (shape != last) {
    where.invalid({"expected the x of the last forward, of shape ", last.text(), ", got one of ",
                   shape.text()});
  }
}

/// The part of a layer that is the same for every rank and storage order. Layers of half and
/// bfloat16 have a Core<float>. Headers that build on the layer use the members too. A function
/// that throws changes nothing.
template <class Param>
struct Core {
  using Vector = Eigen::Matrix<Param, Eigen::Dynamic, 1>;

  ClearedByMove num_features;  // C
  Options options;
  bool training = true;
  Vector gamma, beta;                 // (C) learned scale and shift
  Vector grad_gamma, grad_beta;       // (C) accumulated dgamma, dbeta
  RunningStatistics<Vector> running;  // what eval mode normalizes with
  Saved saved, next;                  // of the last forward, and of the one under way
  Eigen::VectorXd dbeta, dgamma;      // (C) of one backward
  Workers workers;                    // the threads to use
  functional::Workspace workspace;    // for the numbers per channel of a call
  InUse in_use;

  Core(Index channels, const Options& o, const Where& where);
  void forward(const Where& where, const Shape& shape, const View& x, const View& y) {
    const Entered entered(in_use, where);
    forward_entered(where, shape, x, y);
  }
  /// The same for callers that hold an Entered already.
  void forward_entered(const Where&, const Shape&, const View& x, const View& y);
  void backward(const Where&, const Saved&, const Shape&, const View& x, const View& dy,
                const View& dx);
  /// The same, but the caller computes the results: write_y(batch) writes y by `next`; if batch is
  /// not null, it points into `next`, and write_y first measures x there. write_dx(by, sums) writes
  /// sums and dx. The caller of forward_by holds an Entered; backward_by makes one.
  template <class WriteY>
  void forward_by(const Where& where, const Shape& shape, const View& x, bool overwrites,
                  const WriteY& write_y) {
    next.count = x.count();
    next.batch_statistics = is_by_batch(options, training, next.count, where);
    next.overwritten = overwrites && x.size() > 0;
    next.shape = shape;
    const functional::Statistics batch{next.mean.data(), next.var.data(), next.inv_std.data()};
    if (!next.batch_statistics) {
      complete(where, next);
      if (next.count > 0) write_y(nullptr);
    } else if (next.count == 0) {
      next.mean = next.var = next.inv_std.setZero();
    } else if (options.non_finite == NonFinite::reject) {
      functional::measure<Param>(x, options.eps, batch, resources());
      check_finite(where, next);  // before y is written
      write_y(nullptr);
    } else {
      write_y(&batch);
    }
    track(next);
    std::swap(saved, next);
  }
  template <class WriteDx>
  void backward_by(const Where& where, const Saved& by, const Shape& shape, const View& x,
                   const View& dy, const View& dx, const WriteDx& write_dx) {
    const Entered entered(in_use, where);
    check_saved(where, by, shape);
    if (x.size() == 0) return;
    check_dx(where, x, dy, dx);
    const functional::GradientSums sums{dbeta.data(), dgamma.data()};
    write_dx(normalizer(by), sums);
    accumulate(sums.dbeta, sums.dgamma);
  }
  void infer(const Where&, const View& x, const View& y) const;
  [[nodiscard]] ChannelAffine<Param> folded(const Where&) const;
  /// Throws std::logic_error if the layer was moved from or a vector has another length than C.
  void check_lengths(const Where&) const;
  /// Throws unless backward can differentiate the forward that left `by` for an x of this shape.
  void check_saved(const Where&, const Saved& by, const Shape&) const;
  /// Completes `by` from its count, mean and var, or from the running statistics if these
  /// normalize. A var of NaN says that values are not finite. Throws as forward does.
  void complete(const Where&, Saved& by) const;

  [[nodiscard]] bool is_by_running() const { return !training && options.track_running_stats; }
  void check_tracked(const Where& where) const {
    if (!options.track_running_stats)
      where.misuse(
          {"expected running statistics, got a layer that tracks none: call forward(x) instead"});
  }
  /// Throws std::domain_error under NonFinite::reject if values of the batch are not finite.
  void check_finite(const Where& where, const Saved& batch) const {
    if (options.non_finite != NonFinite::reject) return;
    for (Index c = 0; c < num_features; ++c) {
      if (!is_finite(batch.mean[c]) || is_nan(batch.var[c]))
        where.domain({"expected finite values, got infinity or NaN in channel ", c});
    }
  }
  /// Moves the running statistics by an accepted batch, if the layer is in training mode.
  void track(const Saved& batch) {
    if (training && batch.batch_statistics && batch.count > 0 && options.track_running_stats)
      running.take(batch.mean.data(), batch.var.data(), batch.count, options);
  }
  /// Adds the sums of one backward, or of a part of it, to grad_beta and grad_gamma.
  void accumulate(const double* of_beta, const double* of_gamma) {
    const auto add = [](Vector& to, const double* sums) {
      for (Index c = 0; c < to.size(); ++c)
        to[c] = narrow<Param>(static_cast<double>(to[c]) + sums[c]);
    };
    add(grad_beta, of_beta), add(grad_gamma, of_gamma);
  }
  /// A function that returns the map of channel c in eval mode. It points to the layer's vectors.
  [[nodiscard]] auto eval_maps() const {
    const Param *const mean = running.mean.data(), *const var = running.var.data();
    return [mean, var, eps = options.eps, affine = affine()](Index c) -> functional::ChannelMap {
      return {static_cast<double>(mean[c]), static_cast<double>(var[c]) + eps, affine.gamma_of(c),
              affine.beta_of(c)};
    };
  }
  [[nodiscard]] functional::Affine<Param> affine() const {
    return {options.scale ? gamma.data() : nullptr, options.shift ? beta.data() : nullptr};
  }
  [[nodiscard]] functional::Resources resources() { return {workers, workspace}; }
  [[nodiscard]] static functional::Normalizer normalizer(const Saved& by) {
    return {by.mean.data(), by.inv_std.data(), by.batch_statistics};
  }
};

// Members that are defined out here are compiled by batchnorm::compiled, where a program links it.

template <class Param>
Core<Param>::Core(Index channels, const Options& o, const Where& where)
    : num_features(channels), options(o) {
  if (channels < 1) where.invalid({"expected at least 1 channel, got ", channels});
  validate<Param>(options, where);
  dbeta.setZero(channels);
  dgamma = saved.mean = saved.var = saved.inv_std = dbeta;
  next = saved;
  gamma.setOnes(options.scale ? channels : 0), grad_gamma.setZero(gamma.size());
  beta.setZero(options.shift ? channels : 0), grad_beta.setZero(beta.size());
  running.resize(options.track_running_stats ? channels : 0);
}

template <class Param>
void Core<Param>::forward_entered(const Where& where, const Shape& shape, const View& x,
                                  const View& y) {
  if (training) check_apart(where, "y", y, "x, which backward needs", x);
  check_same_or_apart(where, "y", y, "x", x);
  forward_by(where, shape, x, is_same_place(x, y), [&](const functional::Statistics* own) {
    if (own) {
      functional::forward<Param>(x, options.eps, affine(), *own, y, resources());
    } else {
      functional::normalize<Param>(x, normalizer(next), affine(), y, resources());
    }
  });
}
template <class Param>
void Core<Param>::backward(const Where& where, const Saved& by, const Shape& shape, const View& x,
                           const View& dy, const View& dx) {
  const auto write_dx = [&](const functional::Normalizer& given,
                            const functional::GradientSums& sums) {
    functional::backward<Param>(x, dy, given, affine(), sums, dx, resources());
  };
  backward_by(where, by, shape, x, dy, dx, write_dx);
}
template <class Param>
void Core<Param>::infer(const Where& where, const View& x, const View& y) const {
  check_tracked(where);
  check_same_or_apart(where, "y", y, "x", x);
  functional::apply_maps<Param>(x, y, eval_maps());
}
template <class Param>
ChannelAffine<Param> Core<Param>::folded(const Where& where) const {
  check_tracked(where);
  ChannelAffine<Param> eval{running.var, running.mean, running.mean};  // scale, shift: see below
  const auto map_of = eval_maps();
  for (Index c = 0; c < num_features; ++c) {
    const functional::ChannelMap map = map_of(c);
    eval.scale[c] = narrow<Param>(map.gamma * map.inv_std());
    eval.shift[c] = static_cast<Param>(map.beta);
  }
  return eval;
}
template <class Param>
void Core<Param>::check_lengths(const Where& where) const {
  if (num_features == 0) where.misuse({"expected a layer, got one that was moved from"});
  const auto expect = [&](bool on, const char* what, const Vector& v) {
    const Index c = on ? Index{num_features} : 0;
    if (v.size() == c) return;
    where.misuse({"expected ", what, " of length ", c, ", got ", v.size(),
                  on ? "" : ", though the layer's options switch it off"});
  };
  expect(options.scale, "gamma", gamma), expect(options.scale, "grad_gamma", grad_gamma);
  expect(options.shift, "beta", beta), expect(options.shift, "grad_beta", grad_beta);
  expect(options.track_running_stats, "running_mean", running.mean);
  expect(options.track_running_stats, "running_var", running.var);
}
template <class Param>
void Core<Param>::check_saved(const Where& where, const Saved& by, const Shape& shape) const {
  if (by.overwritten) where.misuse({"expected x as it was, but the last forward wrote y over it"});
  check_shape_of_last(where, by.shape, shape);
  if (by.mean.size() != num_features || by.inv_std.size() != num_features) {
    where.invalid({"expected statistics of ", Index{num_features},
                   " channels from the last forward, got ", by.mean.size(), " means and ",
                   by.inv_std.size(), " inv_std"});
  }
}

template <class Param>
void Core<Param>::complete(const Where& where, Saved& by) const {
  by.batch_statistics = is_by_batch(options, training, by.count, where);
  if (by.batch_statistics) {
    check_finite(where, by);
  } else {
    by.mean = running.mean.template cast<double>();
    by.var = running.var.template cast<double>();
  }
  by.inv_std.resize(by.var.size());
  inverse_roots(by.var.data(), by.var.size(), options.eps, by.inv_std.data());
}

/// Only batchnorm::compiled defines it, and only for the flags that it was compiled with. A program
/// whose flags make another layout of memory does not link, instead of crashing.
template <int alignment, bool malloc_is_aligned, bool debug_containers>
int library_of_the_same_flags();
#if defined(_GLIBCXX_DEBUG)
inline constexpr bool debug_containers = true;
#else
inline constexpr bool debug_containers = false;
#endif
inline constexpr bool malloc_is_aligned = EIGEN_MALLOC_ALREADY_ALIGNED;
template <>
int library_of_the_same_flags<(EIGEN_MAX_ALIGN_BYTES), malloc_is_aligned, debug_containers>();
#if defined(BATCHNORM_COMPILED)
extern template struct Core<float>;
extern template struct Core<double>;
[[gnu::used]] inline int (*const links_with_library)() =
    library_of_the_same_flags<(EIGEN_MAX_ALIGN_BYTES), malloc_is_aligned, debug_containers>;
#endif

}  // namespace detail
}  // namespace batchnorm
