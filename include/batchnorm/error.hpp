// SPDX-License-Identifier: MIT
#pragma once

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <stdexcept>
#include <string>

namespace batchnorm {

/// Receives the message of an error where the program is built with -fno-exceptions. If it returns,
/// std::abort() follows.
using ErrorHandler = void (*)(const char* message);

namespace detail {

inline std::atomic<ErrorHandler> error_handler{nullptr};

/// Throws Exception(message): the one place where an error leaves the library.
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

[[nodiscard]] inline std::string number(double v) {
  char text[32];
  std::snprintf(text, sizeof text, "%g", v);
  return text;
}

/// The call that an error names: "[BatchNorm2d::forward] ...".
struct Where {
  const char* layer;
  const char* call;

  [[noreturn]] void invalid(const std::string& what) const {
    fail<std::invalid_argument>(text(what));
  }
  [[noreturn]] void misuse(const std::string& what) const { fail<std::logic_error>(text(what)); }
  [[noreturn]] void domain(const std::string& what) const { fail<std::domain_error>(text(what)); }

 private:
  [[nodiscard]] std::string text(const std::string& what) const {
    return std::string("[") + layer + "::" + call + "] " + what;
  }
};

}  // namespace detail

/// Sets the handler that gets the messages of errors under -fno-exceptions (nullptr: print to
/// stderr). The library's only global state; it has no effect where exceptions are enabled.
inline void set_error_handler(ErrorHandler handler) { detail::error_handler.store(handler); }

}  // namespace batchnorm
