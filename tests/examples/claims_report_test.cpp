// SPDX-License-Identifier: MIT
// What is printed and written of a finding.
#include <sstream>

#include "../support/catch.hpp"
#include "report.hpp"

namespace {

const claims::Effort kEnough{5, 1.0, 1};

claims::Examined examined() {
  claims::Examined result;
  result.number = 1;
  result.claim = claims::all_claims().data();
  result.report.setup = "A network";
  const claims::Side with{"with BN", {0.5, 1.0}}, without{"without", {2.0, 2.5}};
  result.report.findings = {claims::below("training loss", with, without),
                            claims::above("it helps", claims::minus(with, without), 0.0)};
  return result;
}

std::string printed(const claims::Effort& effort) {
  std::ostringstream out;
  claims::print(out, examined(), effort);
  return out.str();
}

std::string written(const claims::Effort& effort) {
  std::ostringstream out;
  claims::write_markdown(out, {examined()}, effort);
  return out.str();
}

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

}  // namespace

TEST_CASE("a finding is printed as what is claimed, what was measured and the verdict",
          "[claims]") {
  REQUIRE(contains(printed(kEnough),
                   "   - training loss\n"
                   "     claimed:  with BN < without\n"
                   "     measured: with BN 0.750 ± 0.354, without 2.25 ± 0.354\n"
                   "     verdict:  shown\n"
                   "   - it helps\n"
                   "     claimed:  with BN minus without > 0\n"
                   "     measured: with BN minus without -1.50\n"
                   "     verdict:  refuted\n"));
  REQUIRE(
      contains(written(kEnough),
               "| with BN < without | with BN 0.750 ± 0.354, without 2.25 ± 0.354 | **shown** |"));
}

TEST_CASE("fewer than 5 seeds or all steps give no verdict", "[claims]") {
  for (const claims::Effort& little : {claims::Effort{4, 1.0, 1}, claims::Effort{5, 0.99, 1}}) {
    REQUIRE(contains(printed(little), "with BN 0.750 ± 0.354, without 2.25 ± 0.354"));
    REQUIRE_FALSE(contains(printed(little), "verdict"));
    REQUIRE_FALSE(contains(written(little), "shown"));
    REQUIRE(contains(written(little), "There are no verdicts"));
  }
  REQUIRE(claims::description({4, 0.25, 1}) == "4 seeds, 25 % of the steps");
  REQUIRE(claims::description(kEnough) == "5 seeds");
}
