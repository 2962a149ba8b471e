// SPDX-License-Identifier: MIT
#include "report.hpp"

#include <algorithm>
#include <map>
#include <set>
#include <string>
#include <thread>

#include "contender.hpp"
#include "markdown.hpp"
#include "peers.hpp"

namespace bench {
namespace {

const std::vector<std::string> operations = {"forward", "backward", "inference"};

/// The geometric mean of value(result) over those of a layout, an operation and so many threads
/// for which it is defined.
template <class Value>
double mean_over(const std::vector<Result>& results, const std::string& layout,
                 const std::string& operation, int threads, const Value& value) {
  std::vector<double> values;
  for (const Result& r : results) {
    if (r.layout != layout || r.operation != operation || r.cell.threads != threads) continue;
    const double v = value(r);
    if (!std::isnan(v)) values.push_back(v);
  }
  return geometric_mean(values);
}

double ratio_of(const Measured* m) { return m ? m->ratio.median : NAN; }
double library_ratio(const Result& r) { return ratio_of(r.fastest({Role::library})); }
double blocked_ratio(const Result& r) { return ratio_of(r.fastest({Role::other_layout})); }
double limit_share(const Result& r) { return ratio_of(r.fastest({Role::limit})); }

class Report {
 public:
  Report(std::ostream& out, const std::vector<Result>& cells, const std::vector<Result>& resnet50,
         std::size_t cache, const Settings& settings, const ProcessorTime& spent)
      : out_(out),
        cells_(cells),
        resnet50_(resnet50),
        cache_(cache),
        settings_(settings),
        spent_(spent) {
    std::set<int> threads;
    for (const Result& r : cells) {
      threads.insert(r.cell.threads);
      if (std::find(layouts_.begin(), layouts_.end(), r.layout) == layouts_.end()) {
        layouts_.push_back(r.layout);
      }
    }
    threads_.assign(threads.begin(), threads.end());
  }

  void write() {
    write_machine();
    if (!resnet50_.empty()) write_resnet50();
    if (!cells_.empty()) {
      write_means();
      write_verdicts();
      write_cells();
    }
  }

 private:
  void write_machine() {
    out_ << cpu_name() << ", " << std::thread::hardware_concurrency() << " cores, "
         << (cache_ >> 20) << " MiB of last-level cache; " << compiler << " -O3"
         << (settings_.portable ? "" : " -march=native") << "; Eigen " << eigen_version()
         << ", PyTorch " << torch_version() << ", oneDNN " << onednn_version() << ".\n\n"
         << "Medians of " << settings_.pairs
         << " paired runs; ratios are the other's time divided by "
         << "batchnorm's: above 1, batchnorm is faster.";
    if (spent_.total > 0) {
      out_ << " While they ran, other programs had " << percent(spent_.others / spent_.total)
           << " of the processors' time, the hypervisor " << percent(spent_.stolen / spent_.total)
           << ".";
    }
    out_ << "\n\n";
  }

  void write_resnet50() {
    out_ << "### The 53 batch-norm layers of ResNet-50, batch 16, forward and backward\n\n";
    write_head(out_, {"threads", "batchnorm", "other", "its time", "ratio [90 %]"});
    for (const Result& r : resnet50_) {
      for (const Measured& m : r.contenders) {
        if (m.role == Role::ours) continue;
        write_row(out_, {std::to_string(r.cell.threads), duration(r.seconds()), m.name,
                         duration(m.seconds), interval(m.ratio)});
      }
    }
    out_ << "\n";
  }

  template <class Value>
  void write_mean_rows(const std::string& what, const std::string& target_of, const Value& value,
                       std::string (*format)(double)) {
    static const std::map<std::string, std::vector<std::string>> targets = {
        {"library NCHW", {"5.5", "1.8", "1.8"}},
        {"library NHWC", {"1.5", "1.5", "1.5"}},
        {"library (N, C)", {"1.5", "1.5", "1.5"}},
        {"blocked NCHW", {"1.0", "1.0", "1.0"}},
        {"small blocked NCHW", {"0.83", "0.83", "0.83"}},
        {"limit NCHW", {"80 %", "75 %", "95 %"}},
        {"limit NHWC", {"80 %", "75 %", "95 %"}},
        {"limit (N, C)", {"80 %", "75 %", "95 %"}}};
    for (const std::string& layout : layouts_) {
      const auto target = targets.find(target_of + " " + layout);
      for (const int threads : threads_) {
        std::vector<std::string> row = {what, layout, std::to_string(threads)};
        bool is_empty = true;
        for (std::size_t i = 0; i < operations.size(); ++i) {
          std::string text = format(mean_over(cells_, layout, operations[i], threads, value));
          is_empty = is_empty && text.empty();
          if (!text.empty() && target != targets.end()) text += " (" + target->second[i] + ")";
          row.push_back(text);
        }
        if (!is_empty) write_row(out_, row);
      }
    }
  }

  void write_means() {
    out_ << "### Geometric means (and targets)\n\n";
    write_head(out_, {"against", "layout", "threads", "forward", "backward", "inference"});
    write_mean_rows("fastest library", "library", library_ratio, times);
    const auto small_blocked = [](const Result& r) {
      return r.cell.shape.h <= 28 && r.cell.shape.n == 32 && r.cell.shape.c >= 512
                 ? blocked_ratio(r)
                 : NAN;
    };
    const std::string blocked = "oneDNN " + onednn_blocked_layout();
    write_mean_rows(blocked, "blocked", blocked_ratio, times);
    write_mean_rows(blocked + ", 28x28, 14x14 and 7x7", "small blocked", small_blocked, times);
    const auto large_share = [this](const Result& r) {
      return r.cell.footprint() > cache_ ? limit_share(r) : NAN;
    };
    const auto cached_share = [this](const Result& r) {
      return r.cell.footprint() > cache_ ? NAN : limit_share(r);
    };
    write_mean_rows("limit, larger than the cache: share", "limit", large_share, percent);
    write_mean_rows("limit, cached: share", "", cached_share, percent);
    const auto otherwise = [](const char* name) {
      return [name](const Result& r) { return ratio_of(r.named(name)); };
    };
    write_mean_rows("itself by 1 thread", "", otherwise(by_one_thread), times);
    const auto native = [this](bool large) {
      return [this, large](const Result& r) {
        return (r.cell.footprint() > cache_) == large ? ratio_of(r.named(compiled_native)) : NAN;
      };
    };
    write_mean_rows("itself with -march=native, larger than the cache", "", native(true), percent);
    write_mean_rows("itself with -march=native, cached", "", native(false), percent);
    out_ << "\n";
  }

  void write_verdicts() {
    std::map<Verdict, std::vector<std::string>> lists;
    std::vector<std::string> slower_threads, disturbed;
    for (const Result& r : cells_) {
      const std::string name = name_of(r.cell) + ": ";
      if (const Measured* peer = r.fastest_peer()) {
        lists[verdict(peer->ratio)].push_back(name + peer->name + " " + interval(peer->ratio));
      }
      const Measured* alone = r.named(by_one_thread);
      if (alone && verdict(alone->ratio) == Verdict::lost) {
        slower_threads.push_back(name + interval(alone->ratio));
      }
      if (r.disturbed > quiet) disturbed.push_back(name + percent(r.disturbed));
    }
    out_ << "### Against the fastest peer of the same layout, each cell\n\n"
         << "Won " << lists[Verdict::won].size() << ", lost " << lists[Verdict::lost].size()
         << ", undecided " << lists[Verdict::undecided].size() << ".\n\n";
    write_list("Lost", lists[Verdict::lost]);
    write_list("Undecided", lists[Verdict::undecided]);
    write_list("Slower by several threads than by one", slower_threads);
    write_list("Disturbed by other programs, which had this share of the processors", disturbed);
  }
  void write_list(const std::string& head, const std::vector<std::string>& list) {
    if (list.empty()) return;
    out_ << head << ":\n\n";
    for (const std::string& item : list) out_ << "- " << item << "\n";
    out_ << "\n";
  }

  void write_cells() {
    std::vector<std::string> names;
    for (const Result& r : cells_) {
      for (const Measured& m : r.contenders) {
        const bool is_column = m.role != Role::ours && m.role != Role::limit;
        if (is_column && std::find(names.begin(), names.end(), m.name) == names.end()) {
          names.push_back(m.name);
        }
      }
    }
    out_ << "### All cells\n\n";
    std::vector<std::string> head = {"layout",    "operation", "shape", "threads",
                                     "batchnorm", "GB/s",      "limit"};
    head.insert(head.end(), names.begin(), names.end());
    head.insert(head.end(), {"fastest peer [90 %]", "verdict"});
    write_head(out_, head);
    for (const Result& r : cells_) {
      const double gigabytes = static_cast<double>(r.cell.footprint()) / r.seconds() / 1e9;
      std::vector<std::string> row = {r.layout,
                                      r.operation,
                                      r.shape,
                                      std::to_string(r.cell.threads),
                                      duration(r.seconds()),
                                      number(gigabytes, "%.1f"),
                                      percent(limit_share(r))};
      for (const std::string& name : names) row.push_back(times(ratio_of(r.named(name))));
      const Measured* peer = r.fastest_peer();
      row.push_back(peer ? peer->name + " " + interval(peer->ratio) : "");
      row.push_back(peer ? verdict_name(verdict(peer->ratio)) : "");
      write_row(out_, row);
    }
  }
  static std::string verdict_name(Verdict verdict) {
    if (verdict == Verdict::won) return "won";
    return verdict == Verdict::lost ? "**lost**" : "undecided";
  }

  std::ostream& out_;
  const std::vector<Result>& cells_;
  const std::vector<Result>& resnet50_;
  std::size_t cache_;
  const Settings& settings_;
  const ProcessorTime& spent_;
  std::vector<std::string> layouts_;
  std::vector<int> threads_;
};

}  // namespace

void write_report(std::ostream& out, const std::vector<Result>& cells,
                  const std::vector<Result>& resnet50, std::size_t cache, const Settings& settings,
                  const ProcessorTime& spent) {
  Report(out, cells, resnet50, cache, settings, spent).write();
}

}  // namespace bench
