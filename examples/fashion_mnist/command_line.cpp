// SPDX-License-Identifier: MIT
#include "command_line.hpp"

#include <algorithm>
#include <cxxopts.hpp>
#include <iostream>
#include <thread>

namespace fashion_mnist {
namespace {

cxxopts::ParseResult parse(const CommandLine& none, cxxopts::Options& parser, int argc,
                           const char* const* argv) {
  try {
    return parser.parse(argc, argv);
  } catch (const std::exception& error) {  // cxxopts renamed its exceptions between versions
    none.fail(error.what());
  }
}

}  // namespace

void add_common_options(cxxopts::Options& parser, const std::string& data, const std::string& out,
                        const std::string& contents_of_out) {
  parser.add_options()  //
      ("data", "folder of the four idx files",
       cxxopts::value<std::string>()->default_value(data))  //
      ("out", "folder for " + contents_of_out,
       cxxopts::value<std::string>()->default_value(out))  //
      ("h,help", "this text");
}

std::optional<CommandLine> parse_command_line(const std::string& program, cxxopts::Options& parser,
                                              int argc, const char* const* argv) {
  const CommandLine none(program, {});
  const auto parsed = parse(none, parser, argc, argv);
  if (parsed.count("help") != 0) {
    std::cout << parser.set_width(100).help();
    return std::nullopt;
  }
  if (!parsed.unmatched().empty()) {
    none.fail("unexpected argument '" + parsed.unmatched().front() + "'");
  }
  std::map<std::string, std::string> given;
  for (const auto& argument : parsed.arguments()) given[argument.key()] = argument.value();
  return CommandLine(program, std::move(given));
}

int all_cores() { return static_cast<int>(std::max(1U, std::thread::hardware_concurrency())); }

}  // namespace fashion_mnist
