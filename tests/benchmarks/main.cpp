// SPDX-License-Identifier: MIT
// Measures this library beside its peers and the limit of memory, and writes a report.
#include <algorithm>
#include <fstream>
#include <iostream>
#include <stdexcept>
#include <thread>

#include "busy.hpp"
#include "console.hpp"
#include "measure.hpp"
#include "peers.hpp"
#include "report.hpp"

namespace {

constexpr const char* help =
    R"help(Measures batchnorm beside PyTorch, oneDNN, Eigen and a plain copy.
  --quick           few shapes and pairs
  --filter TEXT     cells whose name contains TEXT, as in "NHWC", "(32, 64, 56, 56)", "ResNet"
  --threads LIST    default: 1,2 and as many as the machine has
  --pairs N         measurements of each contender, default 15
  --portable        batchnorm compiled with plain -O3, beside itself with -march=native
  --cache MIB       larger tensors count as larger than the caches, default: this machine's
  --report FILE     default: report.md
  --list            names the cells
)help";

struct Options {
  bench::Settings settings;
  bool quick = false, list = false;
  std::string filter, report = "report.md";
  std::vector<int> threads;
  std::size_t cache = 0;
};

/// From the kernel: what the processor says of itself may be another machine's, under a hypervisor.
std::size_t last_level_cache() {
  std::size_t kibibytes = 0;
  for (const char* index : {"2", "3"}) {
    std::ifstream file(std::string("/sys/devices/system/cpu/cpu0/cache/index") + index + "/size");
    file >> kibibytes;
  }
  return kibibytes > 0 ? kibibytes << 10 : std::size_t{32} << 20;
}

Options parse(int argc, char** argv) {
  using Value = const std::string&;
  Options options;
  bench::Settings& settings = options.settings;
  bench::parse(
      argc, argv, help,
      {{"--quick", false, [&](Value) { options.quick = true, settings.pairs = 7; }},
       {"--filter", true, [&](Value value) { options.filter = value; }},
       {"--threads", true,
        [&](Value value) { options.threads = bench::positives("--threads", value); }},
       {"--pairs", true, [&](Value value) { settings.pairs = bench::positive("--pairs", value); }},
       {"--portable", false, [&](Value) { settings.portable = true; }},
       {"--cache", true,
        [&](Value value) {
          options.cache = static_cast<std::size_t>(bench::positive("--cache", value)) << 20;
        }},
       {"--report", true, [&](Value value) { options.report = value; }},
       {"--list", false, [&](Value) { options.list = true; }}});
  if (options.threads.empty()) {
    options.threads = {1, 2, static_cast<int>(std::thread::hardware_concurrency())};
  }
  std::sort(options.threads.begin(), options.threads.end());
  options.threads.erase(std::unique(options.threads.begin(), options.threads.end()),
                        options.threads.end());
  if (options.cache == 0) options.cache = last_level_cache();
  return options;
}

/// What measure() returns; done again, once, where other programs had too much of the
/// processors: one that competes with a thread of a parallel loop delays it by milliseconds.
template <class Measure>
bench::Result undisturbed(const Measure& measure) {
  for (int attempt = 1;; ++attempt) {
    const auto before = bench::ProcessorTime::now();
    bench::Result result = measure();
    const auto spent = bench::ProcessorTime::now() - before;
    if (spent.total > 0) result.disturbed = (spent.others + spent.stolen) / spent.total;
    if (result.disturbed <= bench::quiet || attempt == 2) return result;
  }
}

int run(const Options& options) {
  const auto wanted = [&](const std::string& name) {
    return name.find(options.filter) != std::string::npos;
  };
  std::vector<bench::Cell> cells;
  for (const bench::Cell& cell : bench::all_cells(options.threads, options.quick)) {
    if (wanted(name_of(cell))) cells.push_back(cell);
  }
  std::vector<int> resnets;
  for (const int threads : options.threads) {
    if (wanted("ResNet-50") && !options.quick) resnets.push_back(threads);
  }
  if (options.list) {
    for (const bench::Cell& cell : cells) std::cout << name_of(cell) << "\n";
    return 0;
  }
  if (cells.empty() && resnets.empty())
    throw std::invalid_argument("no cell has '" + options.filter +
                                "' in its name; --list names them");

  std::vector<bench::Result> results, resnet50;
  const bench::ProcessorTime before = bench::ProcessorTime::now();
  const std::size_t all = cells.size() + resnets.size();
  for (const int threads : resnets) {
    bench::show_progress(resnet50.size(), all,
                         "ResNet-50, " + std::to_string(threads) + " threads");
    const auto entries = bench::ours_and_peers_for_resnet50(threads, options.settings.portable);
    resnet50.push_back(
        undisturbed([&] { return bench::measure_resnet50(threads, entries, options.settings); }));
  }
  for (const bench::Cell& cell : cells) {
    bench::show_progress(resnets.size() + results.size(), all, name_of(cell));
    const auto entries = bench::ours_and_peers(cell.threads, options.settings.portable);
    results.push_back(undisturbed([&] { return bench::measure(cell, entries, options.settings); }));
  }
  bench::show_progress(all, all, "done");
  std::cerr << "\n";
  std::ofstream report(options.report);
  bench::write_report(report, results, resnet50, options.cache, options.settings,
                      bench::ProcessorTime::now() - before);
  if (!report.flush()) throw std::runtime_error("could not write " + options.report);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  return bench::run_program([&] { return run(parse(argc, argv)); });
}
