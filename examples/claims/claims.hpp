// SPDX-License-Identifier: MIT
// The claims, each in a file of its name.
#pragma once

#include <string>
#include <vector>

#include "picture.hpp"
#include "study.hpp"
#include "verdict.hpp"

namespace claims {

struct Report {
  std::string setup;  // networks, images, steps: what the numbers belong to
  std::vector<Finding> findings;
  std::vector<plot::Chart> charts;
};

struct Claim {
  const char* name;      // of its files
  const char* title;     // what is claimed
  const char* question;  // the title of the picture, which also shows the answer
  Report (*examine)(const Study&);
};

/// Number n is all_claims()[n - 1].
[[nodiscard]] const std::vector<Claim>& all_claims();

[[nodiscard]] Report vanishing_gradients(const Study& study);
[[nodiscard]] Report learning_rate(const Study& study);
[[nodiscard]] Report initial_scale(const Study& study);
[[nodiscard]] Report dropout(const Study& study);
[[nodiscard]] Report weight_decay(const Study& study);
[[nodiscard]] Report response_norm_and_distortion(const Study& study);
[[nodiscard]] Report preprocessing(const Study& study);
[[nodiscard]] Report batch_size(const Study& study);
[[nodiscard]] Report whole_set_statistics(const Study& study);
[[nodiscard]] Report volumes(const Study& study);

}  // namespace claims
