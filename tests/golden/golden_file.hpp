// SPDX-License-Identifier: MIT
// Reads the files of golden numbers; make_golden.py, which writes them, says what is in them.
#pragma once

#include <batchnorm/batchnorm.hpp>
#include <cstddef>
#include <cstdint>
#include <fstream>
#include <map>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace golden {

/// Numbers by their names: "x", "running_mean", ...; what a layer does not have is absent.
using Numbers = std::map<std::string, std::vector<double>>;

struct Step {
  bool training;                    // the mode
  std::vector<Eigen::Index> shape;  // (N, C, spatial axes...)
  Numbers numbers;                  // inputs, results, and the state left behind, row-major
  std::int64_t counter = -1;        // batches tracked so far; -1 where none are
};

struct Case {
  std::string name;
  batchnorm::Options options;
  Numbers start;  // parameters and running statistics before the first step
  std::vector<Step> steps;
};

inline batchnorm::Momentum read_momentum(std::istream& line) {
  std::string kind;
  double weight = 0;
  line >> kind;
  if (kind == "cumulative") return batchnorm::Momentum::cumulative();
  line >> weight;
  if (kind == "weight_of_new") return batchnorm::Momentum::weight_of_new(weight);
  if (kind == "weight_of_old") return batchnorm::Momentum::weight_of_old(weight);
  throw std::runtime_error("golden file: no momentum is called " + kind);
}

/// One of two words, true for the first.
inline bool read_choice(std::istream& line, const std::string& yes, const std::string& no) {
  std::string word;
  line >> word;
  if (word != yes && word != no) {
    throw std::runtime_error("golden file: expected " + yes + " or " + no + ", got " + word);
  }
  return word == yes;
}

inline std::vector<double> read_numbers(std::istream& line) {
  std::vector<double> numbers;
  for (std::string word; line >> word;) numbers.push_back(std::stod(word));
  return numbers;
}

inline Step read_step(std::istream& line) {
  Step step{read_choice(line, "train", "eval"), {}, {}};
  for (Eigen::Index extent; line >> extent;) step.shape.push_back(extent);
  return step;
}

inline std::vector<Case> read_cases(const std::string& path) {
  std::ifstream file(path);
  if (!file) throw std::runtime_error("cannot read " + path);
  std::vector<Case> cases;
  for (std::string text; std::getline(file, text);) {
    std::istringstream line(text);
    std::string word;
    line >> word;
    if (word == "#") continue;
    if (word == "case") {
      cases.push_back({text.substr(5), {}, {}, {}});
      continue;
    }
    Case& current = cases.back();
    batchnorm::Options& options = current.options;
    if (word == "eps") {
      line >> options.eps;
    } else if (word == "momentum") {
      options.momentum = read_momentum(line);
    } else if (word == "running_variance") {
      options.running_variance = read_choice(line, "unbiased", "population")
                                     ? batchnorm::VarianceEstimate::unbiased
                                     : batchnorm::VarianceEstimate::population;
    } else if (word == "track") {
      options.track_running_stats = read_choice(line, "1", "0");
    } else if (word == "single_value") {
      options.single_value = read_choice(line, "accept", "reject") ? batchnorm::SingleValue::accept
                                                                   : batchnorm::SingleValue::reject;
    } else if (word == "step") {
      current.steps.push_back(read_step(line));
    } else if (word == "counter") {
      line >> current.steps.back().counter;
    } else {
      Numbers& numbers = current.steps.empty() ? current.start : current.steps.back().numbers;
      numbers[word] = read_numbers(line);
    }
  }
  for (Case& one : cases) {
    one.options.scale = one.start.count("gamma") > 0;
    one.options.shift = one.start.count("beta") > 0;
  }
  return cases;
}

}  // namespace golden
