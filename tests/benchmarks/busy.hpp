// SPDX-License-Identifier: MIT
// Who else used the processors: a report should say whether the machine was quiet.
#pragma once

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <string>

namespace bench {

/// The share of other programs up to which a measurement counts.
constexpr double quiet = 0.1;

/// Seconds of processor time so far, from Linux's /proc/stat; all 0 elsewhere.
struct ProcessorTime {
  double total = 0;   // of all processors, idle or not
  double others = 0;  // of other programs
  double stolen = 0;  // by the hypervisor, for other machines

  static ProcessorTime now() {
    std::ifstream file("/proc/stat");
    std::string cpu;
    double user = 0, nice = 0, system = 0, idle = 0, iowait = 0, irq = 0, softirq = 0, steal = 0;
    file >> cpu >> user >> nice >> system >> idle >> iowait >> irq >> softirq >> steal;
    if (!file) return {};
    const double tick = 1.0 / static_cast<double>(sysconf(_SC_CLK_TCK));
    const double busy = user + nice + system + irq + softirq;
    rusage own{};
    getrusage(RUSAGE_SELF, &own);
    const auto seconds = [](const timeval& t) {
      return static_cast<double>(t.tv_sec) + 1e-6 * static_cast<double>(t.tv_usec);
    };
    return {tick * (busy + idle + iowait + steal),
            tick * busy - seconds(own.ru_utime) - seconds(own.ru_stime), tick * steal};
  }
  friend ProcessorTime operator-(const ProcessorTime& a, const ProcessorTime& b) {
    // Clocks of different grain: a difference of none may come out below.
    return {a.total - b.total, std::max(0.0, a.others - b.others), a.stolen - b.stolen};
  }
};

}  // namespace bench
