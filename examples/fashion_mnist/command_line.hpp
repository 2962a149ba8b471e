// SPDX-License-Identifier: MIT
// Reads the command lines of fashion_mnist and claims.
#pragma once

#include <charconv>
#include <initializer_list>
#include <map>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <system_error>
#include <type_traits>
#include <utility>

namespace cxxopts {
class Options;
}

namespace fashion_mnist {

class OptionError : public std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// The options that were given to a program, each as text: the errors of cxxopts for a bad number
/// do not name the option. set() leaves `value` as it is if the option was not given, and throws
/// OptionError if it cannot be read.
class CommandLine {
 public:
  CommandLine(std::string program, std::map<std::string, std::string> given)
      : program_(std::move(program)), given_(std::move(given)) {}

  [[nodiscard]] bool has(const std::string& option) const { return given_.count(option) != 0; }
  [[noreturn]] void fail(const std::string& what) const {
    throw OptionError("[" + program_ + "] " + what + "\nTry --help.");
  }

  void set(const std::string& option, std::string& value) const {
    if (has(option)) value = given_.at(option);
  }
  /// A number from low to high, and nothing after it.
  template <class T>
  void set(const std::string& option, T& value, std::common_type_t<T> low,
           std::common_type_t<T> high) const;
  /// One of a few names.
  template <class T>
  void set(const std::string& option, T& value,
           std::initializer_list<std::pair<const char*, T>> choices) const;

 private:
  std::string program_;
  std::map<std::string, std::string> given_;
};

/// Adds --data, --out and --help, with the default folders.
void add_common_options(cxxopts::Options& parser, const std::string& data, const std::string& out,
                        const std::string& contents_of_out);

/// Nothing if --help was given and printed. Throws OptionError for what `parser` does not know.
[[nodiscard]] std::optional<CommandLine> parse_command_line(const std::string& program,
                                                            cxxopts::Options& parser, int argc,
                                                            const char* const* argv);

/// The number of this machine's cores, at least 1.
[[nodiscard]] int all_cores();

template <class T>
void CommandLine::set(const std::string& option, T& value, std::common_type_t<T> low,
                      std::common_type_t<T> high) const {
  if (!has(option)) return;
  const std::string& given = given_.at(option);
  T number{};
  const char* const end = given.data() + given.size();
  const auto [rest, error] = std::from_chars(given.data(), end, number);
  const bool inside = number >= low && number <= high;  // false for NaN
  if (error != std::errc() || rest != end || !inside) {
    std::ostringstream what;
    what << "--" << option << ": expected "
         << (std::is_integral_v<T> ? "a whole number" : "a number") << " from " << low << " to "
         << high << ", got '" << given << "'";
    fail(what.str());
  }
  value = number;
}

template <class T>
void CommandLine::set(const std::string& option, T& value,
                      std::initializer_list<std::pair<const char*, T>> choices) const {
  if (!has(option)) return;
  std::string names;
  for (const auto& [name, choice] : choices) {
    if (given_.at(option) == name) {
      value = choice;
      return;
    }
    names += (names.empty() ? "" : ", ") + std::string(name);
  }
  fail("--" + option + ": expected one of " + names + "; got '" + given_.at(option) + "'");
}

}  // namespace fashion_mnist
