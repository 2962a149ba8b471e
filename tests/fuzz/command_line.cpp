// SPDX-License-Identifier: MIT
// The training example's command line, an argument in each line of the input.
#include "command_line.hpp"

#include <array>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <iostream>
#include <optional>
#include <sstream>
#include <string>
#include <vector>

#include "fuzz/require.hpp"
#include "options.hpp"

namespace {

using fuzz::require;
using Arguments = std::vector<std::string>;

/// Nothing where it is refused or asks for help.
std::optional<fashion_mnist::Options> parsed(const Arguments& line) {
  std::vector<const char*> arguments{"fashion_mnist"};
  for (const std::string& argument : line) arguments.push_back(argument.c_str());
  try {
    return fashion_mnist::parse_options(static_cast<int>(arguments.size()), arguments.data());
  } catch (const fashion_mnist::OptionError& error) {
    const std::string what = error.what();
    require(what.rfind("[fashion_mnist] ", 0) == 0 && what.find("--help") != what.npos,
            "an error says whose it is and what to do");
    return std::nullopt;
  }
}

std::string text(double v) {
  std::array<char, 64> digits{};
  return {digits.data(), std::to_chars(digits.data(), digits.data() + digits.size(), v).ptr};
}

/// A command line that says all of it.
Arguments written(const fashion_mnist::Options& o) {
  using namespace fashion_mnist;
  const bool sgd = o.optimizer == OptimizerKind::sgd;
  Arguments line{std::string("--model=") + (o.model == Model::lenet ? "lenet" : "convbn"),
                 std::string("--optimizer=") + (sgd ? "sgd" : "adam"),
                 "--bn",
                 o.bn == BatchNormRuns::both ? "both"
                 : o.bn == BatchNormRuns::on ? "on"
                                             : "off",
                 "--schedule",
                 o.schedule == Schedule::cosine ? "cosine" : "constant",
                 "--epochs=" + std::to_string(o.epochs),
                 "--batch=" + std::to_string(o.batch),
                 "--lr=" + text(o.learning_rate),
                 "--seed=" + std::to_string(o.seed),
                 "--threads=" + std::to_string(o.threads),
                 "--data",
                 o.data,
                 "--out",
                 o.out};
  if (sgd) line.push_back("--momentum=" + text(o.momentum));
  if (o.images > 0) line.push_back("--images=" + std::to_string(o.images));
  if (!o.conv_bias) line.push_back("--no-conv-bias");
  return line;
}

void check(const std::string& input) {
  Arguments line;
  std::istringstream lines(input);
  for (std::string argument; std::getline(lines, argument);) line.push_back(argument);
  const auto o = parsed(line);
  if (!o) return;
  using fashion_mnist::OptimizerKind;
  require(o->epochs >= 1 && o->epochs <= 10'000, "epochs are in range");
  require(o->batch >= 2 && o->batch <= 1'000'000, "a batch is in range");
  require(o->learning_rate >= 0 && o->learning_rate <= 1e6, "a rate is in range");
  require(o->momentum >= 0 && o->momentum <= 1, "momentum is in range");
  require(o->optimizer == OptimizerKind::sgd || o->momentum == 0, "momentum is of sgd");
  require(o->threads >= 1, "threads are in range");
  require(o->images == 0 || (o->images >= 2 && o->images <= 1'000'000), "images are in range");
  const auto again = parsed(written(*o));
  require(again && written(*again) == written(*o), "options written again read equal");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  std::cout.setstate(std::ios::failbit);  // of --help
  check({data, data + size});
  return 0;
}
