// SPDX-License-Identifier: MIT
#include "caption.hpp"

#include <algorithm>
#include <cctype>

namespace claims {
namespace {

/// "training loss (with BN < without)"
std::string claimed(const Finding& finding) {
  if (finding.name_b.empty()) return finding.statement;  // it names the number itself
  return finding.statement + " (" + finding.name_a + " " + finding.relation + " " + finding.name_b +
         ")";
}

constexpr Verdict kVerdicts[] = {Verdict::shown, Verdict::refuted, Verdict::undecided};

}  // namespace

std::string verdict_line(const std::vector<Finding>& findings) {
  std::string line;
  for (const Verdict verdict : kVerdicts) {
    const auto count = std::count_if(findings.begin(), findings.end(), [&](const Finding& finding) {
      return finding.verdict == verdict;
    });
    if (count == 0) continue;
    line += (line.empty() ? ": " : ", ") + std::to_string(count) + " " + name(verdict);
  }
  return "Verdict on " + std::to_string(findings.size()) + " statements" + line + ".";
}

std::vector<std::string> answers(const std::vector<Finding>& findings) {
  std::vector<std::string> paragraphs;
  for (const Verdict verdict : kVerdicts) {
    std::string paragraph;
    for (const auto& finding : findings) {
      if (finding.verdict != verdict) continue;
      paragraph +=
          (paragraph.empty() ? std::string(name(verdict)) + ": " : "; ") + claimed(finding);
    }
    if (paragraph.empty()) continue;
    paragraph[0] = static_cast<char>(std::toupper(static_cast<unsigned char>(paragraph[0])));
    paragraphs.push_back(paragraph + ".");
  }
  return paragraphs;
}

plot::Picture picture_of(const Examined& examined, const Effort& effort) {
  const std::string count = std::to_string(effort.seeds) + " seeds";
  const std::string cap = plot::fixed(kHighestLoss, 0);
  plot::Picture picture;
  picture.title = std::to_string(examined.number) + ". " + examined.claim->question;
  if (gives_verdicts(effort)) {
    picture.subtitle = verdict_line(examined.report.findings);
    picture.answers = answers(examined.report.findings);
  }
  picture.notes = {examined.report.setup + ".",
                   "BN is batch normalization. Curves are means over " + count +
                       ", bands are means ± standard deviations. Losses above " + cap +
                       " count as " + cap + "."};
  picture.charts = examined.report.charts;
  return picture;
}

}  // namespace claims
