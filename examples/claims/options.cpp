// SPDX-License-Identifier: MIT
#include "options.hpp"

#include <algorithm>
#include <charconv>
#include <cxxopts.hpp>
#include <iostream>
#include <numeric>
#include <thread>

#include "claims.hpp"

namespace claims {
namespace {

[[noreturn]] void fail(const std::string& what) {
  throw OptionError("[claims] " + what + "\nTry --help.");
}

/// The whole of given as a whole number from low to high.
int number(const std::string& option, const std::string& given, int low, int high) {
  int value = 0;
  const char* const end = given.data() + given.size();
  const auto [rest, error] = std::from_chars(given.data(), end, value);
  if (error != std::errc() || rest != end || value < low || value > high) {
    fail("--" + option + ": expected a whole number from " + std::to_string(low) + " to " +
         std::to_string(high) + ", got '" + given + "'");
  }
  return value;
}

cxxopts::Options describe() {
  std::string about =
      "Measures on Fashion-MNIST what batch normalization is said to do, and draws the curves.\n";
  std::size_t count = 0;
  for (const auto& claim : all_claims()) {
    about += "\n  " + std::to_string(++count) + ". " + claim.title;
  }
  cxxopts::Options parser("claims", about + "\n");
  // Numbers are taken as text: what cxxopts says of a bad one does not name the option.
  parser.add_options()                                                                    //
      ("full", "examine all claims (default: claims 2, 7 and 8)")                         //
      ("claim", "examine this claim alone", cxxopts::value<std::string>())                //
      ("seeds", "how many; verdicts need 5 (default: 5)", cxxopts::value<std::string>())  //
      ("steps", "percent of them; verdicts need 100 (default: 100)",
       cxxopts::value<std::string>())                                                   //
      ("threads", "to train with (default: all cores)", cxxopts::value<std::string>())  //
      ("data", "folder of the four idx files",
       cxxopts::value<std::string>()->default_value(Options{}.data))  //
      ("out", "folder for verdicts.md and the pictures",
       cxxopts::value<std::string>()->default_value(Options{}.out))  //
      ("h,help", "this text");
  return parser;
}

Options read(const cxxopts::ParseResult& given) {
  const auto integer = [&](const char* key, int low, int high) {
    return number(key, given[key].as<std::string>(), low, high);
  };
  Options options;
  if (given.count("seeds") != 0) options.effort.seeds = integer("seeds", 2, 1000);
  if (given.count("steps") != 0) options.effort.steps = 0.01 * integer("steps", 1, 1000);
  options.effort.threads =
      given.count("threads") != 0
          ? integer("threads", 1, 1024)
          : static_cast<int>(std::max(1U, std::thread::hardware_concurrency()));
  if (given.count("claim") != 0) {
    options.claims = {
        static_cast<std::size_t>(integer("claim", 1, static_cast<int>(all_claims().size())))};
  } else if (given.count("full") != 0) {
    options.claims.resize(all_claims().size());
    std::iota(options.claims.begin(), options.claims.end(), std::size_t{1});
  }
  options.data = given["data"].as<std::string>();
  options.out = given["out"].as<std::string>();
  return options;
}

}  // namespace

std::optional<Options> parse_options(int argc, const char* const* argv) {
  auto parser = describe();
  parser.set_width(100);
  try {
    const auto given = parser.parse(argc, argv);
    if (given.count("help") != 0) {
      std::cout << parser.help();
      return std::nullopt;
    }
    if (!given.unmatched().empty()) fail("unexpected argument '" + given.unmatched().front() + "'");
    return read(given);
  } catch (const OptionError&) {
    throw;
  } catch (const std::exception& error) {  // cxxopts renamed its exceptions between versions
    fail(error.what());
  }
}

}  // namespace claims
