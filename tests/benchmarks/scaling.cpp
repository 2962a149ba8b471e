// SPDX-License-Identifier: MIT
// How a call scales over threads, with oneDNN on as many threads beside it.
#include <algorithm>
#include <iostream>
#include <thread>

#include "console.hpp"
#include "markdown.hpp"
#include "measure.hpp"

namespace {

constexpr const char* help =
    R"help(Measures batchnorm and oneDNN on 1, 2, 4, 8 ... threads.
  --threads LIST    default: powers of two up to the number of processors
  --pairs N         measurements of each contender, default 15
)help";

struct Options {
  bench::Settings settings;
  std::vector<int> threads;
};

Options parse(int argc, char** argv) {
  using Value = const std::string&;
  Options options;
  bench::parse(argc, argv, help,
               {{"--threads", true,
                 [&](Value value) { options.threads = bench::positives("--threads", value); }},
                {"--pairs", true, [&](Value value) {
                   options.settings.pairs = bench::positive("--pairs", value);
                 }}});
  if (!options.threads.empty()) return options;
  const int processors = static_cast<int>(std::thread::hardware_concurrency());
  for (int n = 1; n == 1 || n <= processors; n *= 2) options.threads.push_back(n);
  return options;
}

/// The layers in the middle and at the end of a network, from 260,000 to 6.4 million values.
std::vector<bench::Cell> tensors() {
  using bench::Layout;
  std::vector<bench::Cell> cells;
  const auto add = [&](Layout layout, std::initializer_list<bench::Shape> shapes) {
    for (const bench::Shape& shape : shapes) {
      bench::Cell cell{};
      cell.layout = layout;
      cell.shape = shape;
      cells.push_back(cell);
    }
  };
  add(Layout::nc, {{64, 1024}, {256, 1024}, {64, 4096}});
  add(Layout::nhwc, {{256, 16, 10, 10}, {1, 64, 112, 112}, {32, 2048, 7, 7}, {32, 1024, 14, 14}});
  add(Layout::nchw, {{256, 16, 10, 10}, {1, 64, 112, 112}, {32, 2048, 7, 7}});
  return cells;
}

/// "310 us, oneDNN 1.20" for one thread, "1.9 x, oneDNN 1.35" for several.
std::string cell_text(const bench::Cell& cell, const bench::Settings& settings) {
  using bench::Role;
  const bool is_nchw = cell.layout == bench::Layout::nchw;
  std::vector<bench::Entry> entries = {
      {"batchnorm", Role::ours, bench::make_ours, cell.threads},
      {"oneDNN", Role::library, is_nchw ? bench::make_onednn_blocked : bench::make_onednn,
       cell.threads}};
  if (cell.threads > 1) entries.push_back({"1 thread", Role::ours_otherwise, bench::make_ours, 1});
  const bench::Result result = bench::measure(cell, entries, settings);
  const bench::Measured* const alone = result.named("1 thread");
  return (alone ? bench::times(alone->ratio.median) + " x"
                : bench::duration(result.named("batchnorm")->seconds)) +
         ", oneDNN " + bench::times(result.named("oneDNN")->ratio.median);
}

int run(const Options& options) {
  const auto cells = tensors();
  const bench::Operation operations[] = {bench::Operation::forward, bench::Operation::backward,
                                         bench::Operation::inference};
  const std::size_t all = cells.size() * std::size(operations) * options.threads.size();
  std::cout
      << bench::cpu_name() << ", " << std::thread::hardware_concurrency()
      << " processors. On one thread: the time of a call; on several: how many times as fast "
         "it is.\nThen the time of oneDNN on as many threads divided by batchnorm's (for NCHW "
         "in oneDNN's own layout,\n"
      << bench::onednn_blocked_layout() << ").\n\n";
  std::vector<std::string> head = {"tensor, float", "operation"};
  for (const int threads : options.threads)
    head.push_back(std::to_string(threads) + (threads == 1 ? " thread" : " threads"));
  bench::write_head(std::cout, head);
  std::size_t done = 0;
  for (bench::Cell cell : cells) {
    for (const bench::Operation operation : operations) {
      std::vector<std::string> row = {layout_name(cell) + " " + shape_name(cell),
                                      name_of(operation)};
      cell.operation = operation;
      for (const int threads : options.threads) {
        cell.threads = threads;
        bench::show_progress(done++, all, name_of(cell));
        row.push_back(cell_text(cell, options.settings));
      }
      bench::write_row(std::cout, row);
    }
  }
  bench::show_progress(all, all, "done");
  std::cerr << "\n";
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  return bench::run_program([&] { return run(parse(argc, argv)); });
}
