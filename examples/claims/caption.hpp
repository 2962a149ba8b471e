// SPDX-License-Identifier: MIT
// What a picture says above its curves: the question, the verdicts, what was measured and how.
#pragma once

#include <string>
#include <vector>

#include "report.hpp"

namespace claims {

/// "Verdict on 3 statements: 2 shown, 1 undecided."
[[nodiscard]] std::string verdict_line(const std::vector<Finding>& findings);

/// The statements with each verdict, as one paragraph for each verdict: "Shown: ..."
[[nodiscard]] std::vector<std::string> answers(const std::vector<Finding>& findings);

/// The verdicts are left out if the effort is not enough for them.
[[nodiscard]] plot::Picture picture_of(const Examined& examined, const Effort& effort);

}  // namespace claims
