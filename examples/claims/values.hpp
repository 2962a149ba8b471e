// SPDX-License-Identifier: MIT
// Numbers taken from outcomes, one for each seed.
#pragma once

#include <string>
#include <vector>

#include "recipe.hpp"
#include "verdict.hpp"

namespace claims {

using Measure = double (*)(const Outcome&);

[[nodiscard]] double final_loss(const Outcome& outcome);
[[nodiscard]] double test_accuracy(const Outcome& outcome);
[[nodiscard]] double test_loss(const Outcome& outcome);
/// Test loss minus training loss, both after the training.
[[nodiscard]] double loss_gap(const Outcome& outcome);

/// measure of each seed's outcome.
[[nodiscard]] std::vector<double> values_of(const std::vector<Outcome>& seeds, Measure measure);
[[nodiscard]] Side side(const std::string& name, const std::vector<Outcome>& seeds,
                        Measure measure);

/// What measure is higher in to than in from, seed by seed.
[[nodiscard]] Side gain(const std::string& name, const std::vector<Outcome>& from,
                        const std::vector<Outcome>& to, Measure measure);

/// Seed by seed, combine of a condition's values: the lowest, highest, their difference.
using Combine = double (*)(const std::vector<double>&);
[[nodiscard]] double lowest(const std::vector<double>& values);
[[nodiscard]] double highest(const std::vector<double>& values);
[[nodiscard]] double range(const std::vector<double>& values);
[[nodiscard]] std::vector<double> combined(const std::vector<std::vector<Outcome>>& conditions,
                                           Measure measure, Combine combine);

}  // namespace claims
