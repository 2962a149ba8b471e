// SPDX-License-Identifier: MIT
// Searches for the data on which a layer's errors are largest, in units of what is promised: of all
// magnitudes, offsets up to a million deviations, outliers, two values in patterns, any gamma and beta.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <string>

#include "support/accuracy.hpp"

using Eigen::Index;
using testing::Data;
using testing::Errors;
using testing::Layout;

namespace {

/// What a trial is made of, each from 0 to 1.
using Choices = std::array<double, 12>;

template <class Scalar>
struct Trial {
  explicit Trial(const Choices& choices);

  Data<Scalar> data;
  Layout layout;
  double eps;
  std::string text;
};

template <class Scalar>
Trial<Scalar>::Trial(const Choices& choices) {
  using Limits = std::numeric_limits<Scalar>;
  const double largest = static_cast<double>(Limits::max());
  std::size_t used = 0;
  const auto next = [&] { return choices[used++]; };
  const auto one_of = [&](int count) { return static_cast<int>(next() * count); };
  const auto power = [&](double low, double high) {  // of 10
    return std::pow(10, low + (high - low) * next());
  };

  layout = testing::layouts[one_of(5)];
  const Index n = std::max(layout.run, static_cast<Index>(power(0.302, 3.48)));  // 2 to 3000
  const int shape = one_of(6);
  const double magnitude =
      power(std::log10(static_cast<double>(Limits::denorm_min())), std::log10(largest));
  const double has_offset = next(), far = power(-3, 6), offset = has_offset < 0.6 ? far : 0;
  const double deviation = magnitude / (1 + offset);
  testing::Random random(static_cast<std::uint64_t>(next() * 0x1p53));
  data = testing::normal_data<Scalar>(n, 0, 1, random.bits());
  const Index period = Index(1) << one_of(8);
  const double size = power(0, 6);  // of outliers, and of what a log-normal value goes up to
  const double a = random.normal(), b = random.normal(), c = random.normal(), d = random.normal();
  const auto x_hat = [&](Index i) {
    switch (shape) {
      case 1:
        return i % period == 0 ? a : b;
      case 2:
        return i / period % 2 ? a : b;
      case 3:
        return i % period == 0 ? size : random.normal();
      case 4:
        return std::exp(random.normal() * std::log(size) / 4);
      case 5:
        return static_cast<double>(i);
      default:
        return random.normal();
    }
  };
  testing::set(data.x, [&](Index i) {
    return std::clamp(deviation * (offset + x_hat(i)), -largest, largest);
  });
  if (random.bits() % 2) {
    testing::set(data.dy, [&](Index i) {
      return shape == 2 ? (i / period % 2 ? c : d) : i % period == 0 ? c : d;
    });
  }
  const double of_gamma = power(-30, 30), of_beta = power(-30, 30);
  using Param = typename Data<Scalar>::Param;
  data.gamma = static_cast<Param>(random.normal() * std::pow(of_gamma, random.bits() % 2 ? 1 : .1));
  data.beta = static_cast<Param>(random.bits() % 2 ? 0 : random.normal() * of_beta);
  eps = random.bits() % 2 ? 1e-5 : power(-30, -5);
  char line[200];
  std::snprintf(line, sizeof line,
                "%s, n %d, shape %d of period %d, size %.3g, magnitude %.3g, offset %.3g, "
                "gamma %.3g, beta %.3g, eps %.3g",
                layout.name, static_cast<int>(n), shape, static_cast<int>(period), size, magnitude,
                offset, static_cast<double>(data.gamma), static_cast<double>(data.beta), eps);
  text = line;
}

/// Half of the trials are drawn anew, the others change some choices of the worst for some error.
template <class Scalar>
void search(int trials, bool tells) {
  testing::Random random(11);
  constexpr std::size_t kinds = std::size(Errors::all);
  Errors worst;
  Choices worst_choices[kinds] = {};
  std::string worst_text[kinds];
  for (int trial = 0; trial < trials; ++trial) {
    Choices choices = worst_choices[random.bits() % kinds];
    for (double& choice : choices) {
      if (trial % 2 == 0 || random.bits() % choices.size() == 0) choice = random.uniform();
    }
    const Trial<Scalar> one(choices);
    const Errors errors = testing::errors_of<testing::Exact>(one.data, one.layout, one.eps);
    for (std::size_t k = 0; k < kinds; ++k) {
      const auto kind = Errors::all[k];
      if (errors.*kind <= worst.*kind) continue;
      worst.*kind = errors.*kind;
      worst_choices[k] = choices;
      worst_text[k] = one.text;
    }
  }
  static constexpr const char* names[kinds] = {"mean", "var", "y", "dx", "dbeta", "dgamma"};
  std::string found = "the worst, in units of what is promised";
  for (std::size_t k = 0; k < kinds; ++k) {
    char line[300];
    std::snprintf(line, sizeof line, "\n  %-6s %.3f  %s", names[k], worst.*Errors::all[k],
                  worst_text[k].c_str());
    found += line;
  }
  if (tells) WARN(found);
  INFO(found);
  testing::check(worst);
}

}  // namespace

TEMPLATE_TEST_CASE("a search finds no error beyond what is promised", "[accuracy]", float, double,
                   Eigen::half, Eigen::bfloat16) {
  search<TestType>(1500, false);
}

TEMPLATE_TEST_CASE("a long search finds no error beyond what is promised", "[.release]", float,
                   double, Eigen::half, Eigen::bfloat16) {
  search<TestType>(40000, true);
}
