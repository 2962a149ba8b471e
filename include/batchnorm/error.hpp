// SPDX-License-Identifier: MIT
#pragma once

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <initializer_list>
#include <stdexcept>
#include <string>
#include <type_traits>

namespace batchnorm {

/// A function that receives the message of an error in programs built with -fno-exceptions. If it
/// returns, the library calls std::abort().
using ErrorHandler = void (*)(const char* message);

namespace detail {

inline std::atomic<ErrorHandler> error_handler{nullptr};

/// Throws Exception(message). Every error leaves the library here.
template <class Exception>
[[noreturn, gnu::cold, gnu::noinline]] void fail(const std::string& message) {
#if defined(__cpp_exceptions)
  throw Exception(message);
#else
  if (const ErrorHandler handler = error_handler.load()) {
    handler(message.c_str());
  } else {
    std::fprintf(stderr, "%s\n", message.c_str());
  }
  std::abort();
#endif
}

/// A part of a message: words or a number. It points to the words, so it must not outlive the
/// expression that makes it.
class Piece {
 public:
  Piece(const char* words) : kind_(Kind::words), words_(words) {}
  Piece(const std::string& words) : Piece(words.c_str()) {}
  Piece(double v) : kind_(Kind::real), real_(v) {}
  template <class T, std::enable_if_t<std::is_integral_v<T>, int> = 0>
  Piece(T v) : kind_(Kind::integer), integer_(static_cast<long long>(v)) {}

  void append_to(std::string& text) const {
    char digits[32];
    if (kind_ == Kind::integer) std::snprintf(digits, sizeof digits, "%lld", integer_);
    if (kind_ == Kind::real) std::snprintf(digits, sizeof digits, "%g", real_);
    text += kind_ == Kind::words ? words_ : digits;
  }

 private:
  enum class Kind { words, integer, real } kind_;
  union {
    const char* words_;
    long long integer_;
    double real_;
  };
};
using Pieces = std::initializer_list<Piece>;
[[nodiscard]] inline std::string joined(Pieces pieces) {
  std::string text;
  for (const Piece& piece : pieces) piece.append_to(text);
  return text;
}

/// The call that an error names: where.invalid({"expected ", 64, " channels"}) throws
/// std::invalid_argument("[BatchNorm2d::forward] expected 64 channels"). The string is made here,
/// not by the callers, which keeps programs small.
struct Where {
  const char* layer;
  const char* call;

  [[noreturn]] void invalid(Pieces what) const { fail_in<std::invalid_argument>(what); }
  [[noreturn]] void misuse(Pieces what) const { fail_in<std::logic_error>(what); }
  [[noreturn]] void domain(Pieces what) const { fail_in<std::domain_error>(what); }

 private:
  template <class Exception>
  [[noreturn, gnu::cold, gnu::noinline]] void fail_in(Pieces what) const {
    fail<Exception>(joined({"[", layer, "::", call, "] "}) + joined(what));
  }
};

}  // namespace detail

/// Sets the handler for errors in programs built with -fno-exceptions; nullptr prints messages to
/// stderr. It is the same for the whole program, but shared libraries that hide their symbols, as
/// with -fvisibility=hidden, have their own. With exceptions it has no effect.
inline void set_error_handler(ErrorHandler handler) { detail::error_handler.store(handler); }

}  // namespace batchnorm
