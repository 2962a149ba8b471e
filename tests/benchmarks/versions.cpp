// SPDX-License-Identifier: MIT
// Measures two versions of this library against each other, in turn. They differ in their headers,
// their compiler or its flags. versions.sh compiles them and runs this program.
#include <algorithm>
#include <iostream>
#include <thread>

#include "busy.hpp"
#include "console.hpp"
#include "markdown.hpp"
#include "measure.hpp"

namespace {

using bench::Cell;
using bench::Layout;
using bench::Operation;
using bench::Result;
using bench::Shape;
using bench::Type;

constexpr const char* help =
    R"help(  --filter TEXT     only cells whose name contains TEXT, as in "NHWC" or "forward"
  --pairs N         measurements of each version, default 41
  --list            names the cells
)help";

constexpr Operation operations[] = {Operation::forward, Operation::backward, Operation::inference};

// Every type: the last but one convolutions of ResNet-50, whose tensors fit a cache of 2 MB or nearly
// so, and tensors that no cache holds: 13 to 51 MB, of which a call reads or writes two or three.
constexpr Shape plane_14 = {8, 256, 14, 14}, plane_56 = {32, 64, 56, 56};
constexpr Shape long_rows = {4096, 1024};
// In float alone: smaller planes, few values in all, short planes in no cache, planes that are no whole
// lines of the cache, and the largest layer.
constexpr Shape plane_7 = {8, 512, 7, 7}, plane_8 = {4, 16, 8, 8};
constexpr Shape many_14 = {32, 1024, 14, 14}, plane_17 = {32, 768, 17, 17};
constexpr Shape largest = {32, 256, 56, 56};
constexpr Shape short_rows = {256, 120};

std::vector<Cell> all_cells() {
  std::vector<Cell> cells;
  const auto add = [&](Type type, Layout layout, std::initializer_list<Shape> shapes, int threads) {
    for (const Shape& shape : shapes) {
      for (const Operation operation : operations) {
        cells.push_back({operation, layout, shape, bench::Order::row_major, type, threads});
      }
    }
  };
  add(Type::float32, Layout::nchw,
      {plane_8, plane_7, plane_14, many_14, plane_17, plane_56, largest}, 1);
  add(Type::float32, Layout::nhwc, {plane_8, plane_7, plane_14, plane_56}, 1);
  add(Type::float32, Layout::nc, {short_rows, long_rows}, 1);
  for (const Type type : {Type::float64, Type::float16, Type::bfloat16}) {
    add(type, Layout::nchw, {plane_14, plane_56}, 1);
    add(type, Layout::nhwc, {plane_14}, 1);
    add(type, Layout::nc, {long_rows}, 1);
  }
  add(Type::float32, Layout::nchw, {plane_14, plane_56}, 2);
  add(Type::float32, Layout::nhwc, {plane_56}, 2);
  add(Type::float32, Layout::nc, {long_rows}, 2);
  return cells;
}

struct Options {
  bench::Settings settings;
  std::string filter;
  bool list = false;
};

Options parse(int argc, char** argv) {
  Options options;
  options.settings.pairs = 41;
  options.settings.seconds = 1e-3;
  options.settings.seconds_in_all = 3;
  options.settings.back_and_forth = true;
  using Value = const std::string&;
  bench::parse(argc, argv, help,
               {{"--filter", true, [&](Value value) { options.filter = value; }},
                {"--pairs", true,
                 [&](Value value) { options.settings.pairs = bench::positive("--pairs", value); }},
                {"--list", false, [&](Value) { options.list = true; }}});
  return options;
}

/// On several threads a time depends on what else runs on the processors, so that many more rounds are
/// measured and the best of nine count.
bench::Settings settings_for(int threads, bench::Settings settings) {
  if (threads == 1) return settings;
  settings.best_of = 9;
  settings.pairs *= 3;
  settings.seconds_in_all *= 2;
  return settings;
}

const bench::Interval& ratio(const Result& result) { return result.contenders.back().ratio; }

/// The geometric mean of the ratios of cells for which `belongs` returns true.
template <class Belongs>
double mean_where(const std::vector<Result>& results, const Belongs& belongs) {
  std::vector<double> ratios;
  for (const Result& result : results) {
    if (belongs(result.cell)) ratios.push_back(ratio(result).median);
  }
  return bench::geometric_mean(ratios);
}

/// A row of geometric means: each operation, then all of them.
template <class Belongs>
void write_means(const std::string& name, const std::vector<Result>& results,
                 const Belongs& belongs) {
  std::vector<std::string> row = {name};
  for (const Operation operation : operations) {
    row.push_back(bench::times(mean_where(
        results, [&](const Cell& c) { return c.operation == operation && belongs(c); })));
  }
  const std::string mean = bench::times(mean_where(results, belongs));
  row.push_back(mean);
  if (!mean.empty()) bench::write_row(std::cout, row);
}

void write_cells(const std::vector<Result>& results) {
  bench::write_head(std::cout, {"cell", "new", "old", "old / new [90 %]"});
  for (const Result& result : results) {
    bench::write_row(std::cout, {name_of(result.cell), bench::duration(result.seconds()),
                                 bench::duration(result.contenders.back().seconds),
                                 bench::interval(ratio(result))});
  }
}

void write_groups(const std::vector<Result>& results) {
  std::cout << "\nGeometric means of old / new:\n\n";
  bench::write_head(std::cout, {"cells", "forward", "backward", "inference", "all"});
  std::vector<std::string> layouts;
  for (const Result& result : results) {
    if (std::find(layouts.begin(), layouts.end(), result.layout) == layouts.end()) {
      layouts.push_back(result.layout);
    }
  }
  for (const std::string& layout : layouts) {
    write_means(layout, results, [&](const Cell& c) { return layout_name(c) == layout; });
  }
  for (const int threads : {1, 2}) {
    write_means(threads == 1 ? "1 thread" : "2 threads", results,
                [&](const Cell& c) { return c.threads == threads; });
  }
  write_means("planes of 14 x 14 or less", results,
              [](const Cell& c) { return c.layout != Layout::nc && c.shape.h <= 14; });
  write_means("all", results, [](const Cell&) { return true; });
}

/// The cells at the begin of a sorted list.
void write_first(const std::string& title, const std::vector<Result>& sorted) {
  std::cout << "\n" << title << ":\n\n";
  for (std::size_t i = 0; i < std::min<std::size_t>(sorted.size(), 5); ++i) {
    std::cout << "- " << name_of(sorted[i].cell) << ": " << bench::interval(ratio(sorted[i]))
              << "\n";
  }
}

int run(const Options& options) {
  std::vector<Cell> cells;
  for (const Cell& cell : all_cells()) {
    if (name_of(cell).find(options.filter) != std::string::npos) cells.push_back(cell);
  }
  if (cells.empty()) {
    throw std::invalid_argument("no cell has '" + options.filter +
                                "' in its name; --list names them");
  }
  if (options.list) {
    for (const Cell& cell : cells) std::cout << name_of(cell) << "\n";
    return 0;
  }

  std::vector<Result> results;
  const auto before = bench::ProcessorTime::now();
  for (const Cell& cell : cells) {
    bench::show_progress(results.size(), cells.size(), name_of(cell));
    const std::vector<bench::Entry> versions = {
        {"new", bench::Role::ours, bench::make_new, cell.threads},
        {"old", bench::Role::ours_otherwise, bench::make_old, cell.threads}};
    results.push_back(bench::measure(cell, versions, settings_for(cell.threads, options.settings)));
  }
  bench::show_progress(cells.size(), cells.size(), "done");
  std::cerr << "\n";

  write_cells(results);
  write_groups(results);
  std::sort(results.begin(), results.end(),
            [](const Result& a, const Result& b) { return ratio(a).median < ratio(b).median; });
  write_first("Lowest: new is slowest beside old", results);
  std::reverse(results.begin(), results.end());
  write_first("Highest: new is fastest beside old", results);
  const auto spent = bench::ProcessorTime::now() - before;
  if (spent.total > 0) {
    std::cout << "\nOther programs had " << bench::percent(spent.others / spent.total)
              << " of the time of " << std::thread::hardware_concurrency()
              << " processors, the hypervisor " << bench::percent(spent.stolen / spent.total)
              << ".\n";
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  return bench::run_program([&] { return run(parse(argc, argv)); });
}
