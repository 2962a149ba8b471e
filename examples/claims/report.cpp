// SPDX-License-Identifier: MIT
#include "report.hpp"

#include <cmath>
#include <ostream>

namespace claims {
namespace {

/// "with BN < without", "BN minus both > 0"
std::string claimed(const Finding& finding) {
  const std::string b = finding.name_b.empty() ? text("", finding.b) : finding.name_b;
  return finding.name_a + " " + finding.relation + " " + b;
}

/// "with BN 0.310 ± 0.020, without 1.90 ± 0.300"
std::string measured(const Finding& finding) {
  const std::string a = text(finding.name_a, finding.a);
  return finding.name_b.empty() ? a : a + ", " + text(finding.name_b, finding.b);
}

}  // namespace

std::string description(const Effort& effort) {
  std::string result = std::to_string(effort.seeds) + " seeds";
  if (effort.steps != 1.0) {
    result += ", " + std::to_string(std::lround(100.0 * effort.steps)) + " % of the steps";
  }
  return result;
}

void print(std::ostream& out, const Examined& examined, const Effort& effort) {
  out << "\n"
      << examined.number << ". " << examined.claim->title << "\n   " << examined.report.setup
      << "\n";
  for (const auto& finding : examined.report.findings) {
    out << "   - " << finding.statement << "\n     claimed:  " << claimed(finding)
        << "\n     measured: " << measured(finding) << "\n";
    if (gives_verdicts(effort)) out << "     verdict:  " << name(finding.verdict) << "\n";
  }
}

void write_markdown(std::ostream& out, const std::vector<Examined>& all, const Effort& effort) {
  const bool verdicts = gives_verdicts(effort);
  out << "# Claims, measured\n\nMeans ± standard deviations, " << description(effort) << ". "
      << (verdicts ? "Shown: the intervals are apart as claimed; refuted: apart the other way; "
                     "undecided: they overlap."
                   : kNoVerdicts)
      << "\n\n| claim | statement | claimed | measured |" << (verdicts ? " verdict |" : "")
      << "\n|---|---|---|---|" << (verdicts ? "---|" : "") << "\n";
  for (const auto& examined : all) {
    bool first = true;
    for (const auto& finding : examined.report.findings) {
      out << "| ";
      if (first) out << examined.number << ". " << examined.claim->title;
      first = false;
      out << " | " << finding.statement << " | " << claimed(finding) << " | " << measured(finding)
          << " |";
      if (verdicts) out << " **" << name(finding.verdict) << "** |";
      out << "\n";
    }
  }
  out << "\n";
  for (const auto& examined : all) {
    out << "- " << examined.number << ". " << examined.report.setup << ". [Curves]("
        << examined.claim->name << ".svg)\n";
  }
}

}  // namespace claims
