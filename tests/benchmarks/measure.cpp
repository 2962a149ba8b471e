// SPDX-License-Identifier: MIT
#include "measure.hpp"

#include <algorithm>
#include <stdexcept>

#include "memory.hpp"
#include "resnet50.hpp"

namespace bench {
namespace {

struct Entry {
  std::string name;
  Role role;
  Make* make;
  int threads;
};

/// Ours first.
std::vector<Entry> entries(int threads, const Settings& settings) {
  std::vector<Entry> all = {
      {"batchnorm", Role::ours, settings.portable ? make_ours_portable : make_ours, threads},
      {"PyTorch", Role::library, make_torch, threads},
      {"oneDNN", Role::library, make_onednn, threads},
      {"oneDNN " + onednn_blocked_layout(), Role::other_layout, make_onednn_blocked, threads},
      {"Eigen loops", Role::by_hand, make_eigen_loops, threads},
      {"Eigen Tensor", Role::by_hand, make_eigen_tensors, threads},
      {"copy", Role::limit, make_copy, threads},
      {"streamed copy", Role::limit, make_streamed_copy, threads}};
  if (threads > 1) all.push_back({by_one_thread, Role::ours_otherwise, all.front().make, 1});
  if (settings.portable) {
    all.push_back({compiled_native, Role::ours_otherwise, make_ours, threads});
  }
  return all;
}

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
  if (threads > 1) turns.pause = std::chrono::milliseconds(5);
  const auto times = in_turn(runs, turns);
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

Result measure(const Cell& cell, const Settings& settings) {
  const Memory memory(cell);
  std::vector<Entry> taking_part;
  std::vector<std::unique_ptr<Contender>> contenders;
  std::vector<std::function<void()>> runs;
  Values ours;
  for (const Entry& entry : entries(cell.threads, settings)) {
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

Result measure_resnet50(int threads, const Settings& settings) {
  const std::vector<Shape> layers = resnet50_layers(16);
  std::vector<Memory> memories;
  std::vector<Entry> taking_part;
  for (const Entry& entry : entries(threads, settings)) {
    const bool wanted = entry.role != Role::limit && entry.make != make_eigen_tensors;
    if (wanted) taking_part.push_back(entry);
  }
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
