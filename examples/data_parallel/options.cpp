// SPDX-License-Identifier: MIT
#include "options.hpp"

#include <charconv>
#include <cstdio>
#include <stdexcept>
#include <system_error>

namespace data_parallel {
namespace {

constexpr const char* help =
    R"(Trains LeNet with batch normalization on Fashion-MNIST over several processes.
  --ranks N      processes (4)
  --per-rank N   images of a batch on each (8)
  --images N     of the training set (20000)
  --epochs N     (1)
  --rate R       learning rate of SGD (0.5)
  --seed N       of weights and order (0)
  --data FOLDER  of the four idx files (/usr/share/datasets/fashion-mnist)
)";

/// The whole of `given` as a number from low to high.
template <class T>
T number(const std::string& option, const std::string& given, T low, T high) {
  T value{};
  const char* const end = given.data() + given.size();
  const auto [rest, error] = std::from_chars(given.data(), end, value);
  if (error != std::errc() || rest != end || !(value >= low && value <= high)) {
    throw std::invalid_argument("[data_parallel] " + option + ": expected a number from " +
                                std::to_string(low) + " to " + std::to_string(high) + ", got '" +
                                given + "'\nTry --help.");
  }
  return value;
}

}  // namespace

std::optional<Options> parse_options(int argc, const char* const* argv) {
  Options options;
  for (int i = 1; i < argc; i += 2) {
    const std::string option = argv[i];
    if (option == "--help") {
      std::fputs(help, stdout);
      return std::nullopt;
    }
    const std::string given = i + 1 < argc ? argv[i + 1] : "";
    if (option == "--ranks") {
      options.ranks = number(option, given, 1, 1024);
    } else if (option == "--per-rank") {
      options.per_rank = number<std::size_t>(option, given, 1, 100000);
    } else if (option == "--images") {
      options.images = number<std::size_t>(option, given, 1, 60000);
    } else if (option == "--epochs") {
      options.epochs = number(option, given, 1, 1000);
    } else if (option == "--rate") {
      options.rate = number(option, given, 0., 1e6);
    } else if (option == "--seed") {
      options.seed = number<std::uint64_t>(option, given, 0, ~std::uint64_t{0});
    } else if (option == "--data") {
      options.data = given;
    } else {
      throw std::invalid_argument("[data_parallel] unknown option '" + option + "'\nTry --help.");
    }
  }
  return options;
}

}  // namespace data_parallel
