// SPDX-License-Identifier: MIT
#include "report.hpp"

#include <ostream>

namespace claims {
namespace {

/// "with BN 0.31 ± 0.02, to be below without 1.90 ± 0.30"
std::string measured(const Finding& finding) {
  return text(finding.name_a, finding.a) + ", to be " + finding.relation + " " +
         text(finding.name_b, finding.b);
}

}  // namespace

void print(std::ostream& out, const Examined& examined) {
  out << "\n"
      << examined.number << ". " << examined.claim->title << "\n   " << examined.report.setup
      << "\n";
  for (const auto& finding : examined.report.findings) {
    std::string verdict = name(finding.verdict);
    verdict.resize(11, ' ');
    out << "   " << verdict << finding.statement << ":\n              " << measured(finding)
        << "\n";
  }
}

void write_markdown(std::ostream& out, const std::vector<Examined>& all,
                    const std::string& effort) {
  out << "# Claims, measured\n\nMeans ± standard deviations, " << effort
      << ". Shown: the intervals are apart as claimed; refuted: apart the other way; undecided: "
         "they overlap.\n\n| claim | statement | measured | verdict |\n|---|---|---|---|\n";
  for (const auto& examined : all) {
    bool first = true;
    for (const auto& finding : examined.report.findings) {
      out << "| ";
      if (first) out << examined.number << ". " << examined.claim->title;
      first = false;
      out << " | " << finding.statement << " | " << measured(finding) << " | **"
          << name(finding.verdict) << "** |\n";
    }
  }
  out << "\n";
  for (const auto& examined : all) {
    out << "- " << examined.number << ". " << examined.report.setup << ". [Curves]("
        << examined.claim->name << ".svg)\n";
  }
}

}  // namespace claims
