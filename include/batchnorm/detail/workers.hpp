// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <memory>
#include <type_traits>

#include "batchnorm/detail/scalar.hpp"

namespace batchnorm::detail {

template <class T, class = void>
inline constexpr bool is_complete = false;
template <class T>
inline constexpr bool is_complete<T, std::void_t<decltype(sizeof(T))>> = true;

/// Refers to a function of the caller, which must live longer. A function that takes a FunctionRef
/// need not be a template.
template <class... Arguments>
class FunctionRef {
 public:
  template <class F>
  FunctionRef(const F& f) : f_(&f), call_(call<F>) {}
  void operator()(Arguments... arguments) const { call_(f_, arguments...); }

 private:
  template <class F>
  static void call(const void* f, Arguments... arguments) {
    (*static_cast<const F*>(f))(arguments...);
  }
  const void* f_;
  void (*call_)(const void*, Arguments...);
};

/// The tasks of one caller, and the threads that help; threads.hpp has the definition.
class Crew;
struct CrewFunctions {
  int (*count)(const Crew&);  // threads that a call made here may use
  void (*run)(Crew&, Index threads, Index tasks, const FunctionRef<Index>& body);
  Crew* (*copy)(const Crew&);
  void (*release)(Crew*);
};

/// The threads that a call may use: those of a pool or, by default, the calling thread alone. Code
/// that uses no threads does not depend on those who do.
class Workers {
 public:
  Workers() = default;
  Workers(Crew* crew, const CrewFunctions& functions) : crew_(crew, Release{&functions}) {}
  Workers(const Workers& from) { *this = from; }
  Workers(Workers&&) = default;
  Workers& operator=(const Workers& from) {
    crew_ =
        from.crew_ ? Owner(from.functions().copy(*from.crew_), from.crew_.get_deleter()) : Owner();
    return *this;
  }
  Workers& operator=(Workers&&) = default;
  ~Workers() = default;

  [[nodiscard]] int count() const { return crew_ ? functions().count(*crew_) : 1; }

  /// Calls body(t) for each task t in [0, tasks), on up to `threads` threads at once, and returns
  /// when all are done. A body must not throw, and its result must not depend on which thread runs
  /// it.
  void run(int threads, Index tasks, const FunctionRef<Index>& body) const {
    if (std::min<Index>(threads, tasks) <= 1) {
      for (Index t = 0; t < tasks; ++t) body(t);
    } else {
      functions().run(*crew_, std::min<Index>(threads, tasks), tasks, body);
    }
  }

 private:
  struct Release {
    const CrewFunctions* functions;
    void operator()(Crew* crew) const { functions->release(crew); }
  };
  using Owner = std::unique_ptr<Crew, Release>;
  [[nodiscard]] const CrewFunctions& functions() const { return *crew_.get_deleter().functions; }

  Owner crew_;
};

/// The threads of an Eigen::ThreadPoolDevice. Defined in threads.hpp, which batchnorm.hpp includes
/// if EIGEN_USE_THREADS is defined.
template <class Device>
[[nodiscard]] Workers workers_of(const Device& device);

}  // namespace batchnorm::detail
