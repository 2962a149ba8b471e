// SPDX-License-Identifier: MIT
#include "options.hpp"

#include <cxxopts.hpp>
#include <numeric>

#include "claims.hpp"
#include "command_line.hpp"

namespace claims {
namespace {

cxxopts::Options describe() {
  std::string about =
      "Measures on Fashion-MNIST what batch normalization is said to do, and draws the curves.\n";
  std::size_t count = 0;
  for (const auto& claim : all_claims()) {
    about += "\n  " + std::to_string(++count) + ". " + claim.title;
  }
  cxxopts::Options parser("claims", about + "\n");
  parser.add_options()                                                                    //
      ("full", "examine all claims (default: claims 2, 7 and 8)")                         //
      ("claim", "examine this claim alone", cxxopts::value<std::string>())                //
      ("seeds", "how many; verdicts need 5 (default: 5)", cxxopts::value<std::string>())  //
      ("steps", "percent of them; verdicts need 100 (default: 100)",
       cxxopts::value<std::string>())  //
      ("threads", "to train with (default: all cores)", cxxopts::value<std::string>());
  fashion_mnist::add_common_options(parser, Options{}.data, Options{}.out,
                                    "verdicts.md and the pictures");
  return parser;
}

Options read(const fashion_mnist::CommandLine& line) {
  Options options;
  line.set("data", options.data);
  line.set("out", options.out);
  std::size_t claim = 0;
  line.set("claim", claim, 1, all_claims().size());
  if (claim != 0) {
    options.claims = {claim};
  } else if (line.has("full")) {
    options.claims.resize(all_claims().size());
    std::iota(options.claims.begin(), options.claims.end(), std::size_t{1});
  }
  line.set("seeds", options.effort.seeds, 2, 1000);
  int percent = 0;
  line.set("steps", percent, 1, 1000);
  if (percent != 0) options.effort.steps = 0.01 * percent;
  options.effort.threads = fashion_mnist::all_cores();
  line.set("threads", options.effort.threads, 1, 1024);
  return options;
}

}  // namespace

std::optional<Options> parse_options(int argc, const char* const* argv) {
  auto parser = describe();
  const auto line = fashion_mnist::parse_command_line("claims", parser, argc, argv);
  return line ? std::optional(read(*line)) : std::nullopt;
}

}  // namespace claims
