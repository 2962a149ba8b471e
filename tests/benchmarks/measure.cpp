// SPDX-License-Identifier: MIT
#include "measure.hpp"

#include <algorithm>
#include <stdexcept>

#include "memory.hpp"
#include "resnet50.hpp"

namespace bench {
namespace {

std::unique_ptr<Contender> make(const Entry& entry, Cell cell, const Data& data) {
  cell.threads = entry.threads;
  return entry.make(cell, data);
}

Values values_after_run(const Cell& cell, Contender& contender) {
  contender.run();
  return values_of(cell, contender.outcome());
}

void check_same(const Cell& cell, const Values& ours, Contender& peer, const std::string& name) {
  const double apart = difference(ours, values_after_run(cell, peer));
  if (apart <= tolerance(cell)) return;
  throw std::runtime_error("[" + name_of(cell) + "] " + name +
                           " computes something else: apart by " + std::to_string(apart) +
                           " of the largest value, expected at most " +
                           std::to_string(tolerance(cell)));
}

std::vector<Measured> timed(const std::vector<Entry>& entries,
                            const std::vector<std::function<void()>>& runs, int threads,
                            const Settings& settings) {
  Turns turns;
  turns.rounds = settings.pairs;
  turns.seconds = settings.seconds;
  turns.seconds_in_all = settings.seconds_in_all;
  turns.back_and_forth = settings.back_and_forth;
  if (threads > 1) turns.pause = std::chrono::milliseconds(5);
  auto times = in_turn(runs, turns);
  for (auto& of_one : times) of_one = best_of(settings.best_of, of_one);
  std::vector<Measured> measured;
  for (std::size_t i = 0; i < entries.size(); ++i) {
    measured.push_back({entries[i].name, entries[i].role, median(times[i]),
                        median_interval(ratios(times[i], times.front()))});
  }
  return measured;
}

}  // namespace

const Measured* Result::fastest(std::initializer_list<Role> roles) const {
  const Measured* fastest = nullptr;
  for (const Measured& m : contenders) {
    if (std::find(roles.begin(), roles.end(), m.role) == roles.end()) continue;
    if (!fastest || m.ratio.median < fastest->ratio.median) fastest = &m;
  }
  return fastest;
}

const Measured* Result::named(const std::string& name) const {
  for (const Measured& m : contenders) {
    if (m.name == name) return &m;
  }
  return nullptr;
}

Result measure(const Cell& cell, const std::vector<Entry>& entries, const Settings& settings) {
  const Memory memory(cell);
  std::vector<Entry> taking_part;
  std::vector<std::unique_ptr<Contender>> contenders;
  std::vector<std::function<void()>> runs;
  Values ours;
  for (const Entry& entry : entries) {
    auto contender = make(entry, cell, memory.data());
    if (!contender) continue;
    if (entry.role == Role::ours) {
      ours = values_after_run(cell, *contender);
    } else if (entry.role != Role::limit) {
      check_same(cell, ours, *contender, entry.name);
    }
    runs.push_back([c = contender.get()] { c->run(); });
    contenders.push_back(std::move(contender));
    taking_part.push_back(entry);
  }
  return {name_of(cell.operation), layout_name(cell), shape_name(cell), cell,
          timed(taking_part, runs, cell.threads, settings)};
}

Result measure_resnet50(int threads, const std::vector<Entry>& taking_part,
                        const Settings& settings) {
  const std::vector<Shape> layers = resnet50_layers(16);
  std::vector<Memory> memories;
  // Of each contender: forward through all layers, then backward from the last to the first.
  std::vector<std::vector<std::unique_ptr<Contender>>> networks(taking_part.size());
  for (const Operation operation : {Operation::forward, Operation::backward}) {
    for (std::size_t step = 0; step < layers.size(); ++step) {
      const bool is_forward = operation == Operation::forward;
      const std::size_t layer = is_forward ? step : layers.size() - 1 - step;
      Cell cell{operation, Layout::nchw, layers[layer]};
      cell.threads = threads;
      if (is_forward) memories.emplace_back(cell, layer + 1);
      Values ours;
      for (std::size_t i = 0; i < taking_part.size(); ++i) {
        networks[i].push_back(make(taking_part[i], cell, memories[layer].data()));
        if (i == 0) {
          ours = values_after_run(cell, *networks[i].back());
        } else {
          check_same(cell, ours, *networks[i].back(), taking_part[i].name);
        }
      }
    }
  }
  std::vector<std::function<void()>> runs;
  for (const auto& network : networks) {
    runs.push_back([&network] {
      for (const auto& layer : network) layer->run();
    });
  }
  Cell cell{Operation::backward, Layout::nchw, layers.front()};
  cell.threads = threads;
  return {"forward and backward", "NCHW", "ResNet-50, batch 16", cell,
          timed(taking_part, runs, threads, settings)};
}

}  // namespace bench
