// SPDX-License-Identifier: MIT
#include <cmath>
#include <limits>
#include <stdexcept>

#include "../support/catch.hpp"
#include "caption.hpp"
#include "close.hpp"
#include "values.hpp"
#include "verdict.hpp"

using claims::Interval, claims::lies_above, claims::Verdict;

TEST_CASE("an interval is the mean and the sample deviation of the seeds' values", "[claims]") {
  const Interval interval = claims::interval_of({1.0, 2.0, 6.0});
  // mean 9 / 3; deviation sqrt((4 + 1 + 9) / 2)
  REQUIRE(testing::close(interval.mean, 3.0, 1e-15));
  REQUIRE(testing::close(interval.deviation, std::sqrt(7.0), 1e-15));
  REQUIRE_THROWS_AS(claims::interval_of({1.0}), std::invalid_argument);  // no spread, no verdict
}

TEST_CASE("intervals apart show or refute, intervals that touch decide nothing", "[claims]") {
  REQUIRE(lies_above({3.0, 0.5}, {1.0, 1.0}) == Verdict::shown);
  REQUIRE(lies_above({1.0, 1.0}, {3.0, 0.5}) == Verdict::refuted);
  REQUIRE(lies_above({3.0, 1.0}, {1.0, 1.0}) == Verdict::undecided);  // 2 and 2
  REQUIRE(lies_above({3.0, 1.5}, {1.0, 1.0}) == Verdict::undecided);
  REQUIRE(lies_above({1.0, 0.0}, {1.0, 0.0}) == Verdict::undecided);
}

TEST_CASE("what is not a number decides nothing", "[claims]") {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  REQUIRE(lies_above({nan, 0.0}, {1.0, 0.0}) == Verdict::undecided);
  REQUIRE(lies_above({1.0, 0.0}, {1.0, nan}) == Verdict::undecided);
}

TEST_CASE("findings follow the direction of what is claimed", "[claims]") {
  const claims::Side high{"high", {5.0, 6.0}}, low{"low", {1.0, 2.0}};
  REQUIRE(claims::above("", high, low).verdict == Verdict::shown);
  REQUIRE(claims::above("", low, high).verdict == Verdict::refuted);
  REQUIRE(claims::below("", low, high).verdict == Verdict::shown);
  REQUIRE(claims::below("", high, low).verdict == Verdict::refuted);
  REQUIRE(claims::below("", high, high).verdict == Verdict::undecided);
}

TEST_CASE("a picture lists the statements that are shown, refuted and undecided", "[claims]") {
  const claims::Side high{"high", {5.0, 6.0}}, low{"low", {1.0, 2.0}};
  using Texts = std::vector<std::string>;
  const std::vector<claims::Finding> findings{claims::above("gain", low, high),
                                              claims::above("loss", high, low),
                                              claims::below("within 3", low, 3.0)};
  REQUIRE(claims::verdict_line(findings) == "Verdict on 3 statements: 2 shown, 1 refuted.");
  REQUIRE(claims::answers(findings) ==
          Texts{"Shown: loss (high > low); within 3.", "Refuted: gain (low > high)."});
  REQUIRE(claims::answers({claims::below("gain", low, low)}) ==
          Texts{"Undecided: gain (low < low)."});
}

TEST_CASE("a picture asks its claim as a question and says what the band is", "[claims]") {
  const claims::Examined examined{4, &claims::all_claims()[3], {"the setup", {}, {}}};
  const plot::Picture picture = claims::picture_of(examined, {5, 1.0, 1});
  REQUIRE(picture.title == "4. Is less dropout needed with BN?");
  REQUIRE(picture.notes.front() == "the setup.");
  REQUIRE(picture.notes.back().find("means over 5 seeds") != std::string::npos);
  REQUIRE(picture.subtitle == "Verdict on 0 statements.");
  REQUIRE(claims::picture_of(examined, {4, 1.0, 1}).subtitle.empty());  // too few for a verdict
  for (const auto& claim : claims::all_claims()) REQUIRE(std::string(claim.question).back() == '?');
}

TEST_CASE("a difference is taken seed by seed and judged against a number", "[claims]") {
  // The seeds differ by 10, the sides by 0.1 and 0.3: 0.2 on average, with a deviation of 0.14.
  const claims::Side lost = claims::minus({"b", {1.0, 11.0}}, {"a", {0.9, 10.7}});
  REQUIRE(lost.name == "b minus a");
  REQUIRE(claims::below("", lost, 0.4).verdict == Verdict::shown);
  REQUIRE(claims::below("", lost, 0.3).verdict == Verdict::undecided);
  REQUIRE(claims::below("", lost, 0.05).verdict == Verdict::refuted);
  REQUIRE(claims::above("", lost, 0.05).verdict == Verdict::shown);
  REQUIRE(claims::above("", lost, 0.4).verdict == Verdict::refuted);
}

TEST_CASE("the final loss is the mean of the last tenth of the steps", "[claims]") {
  claims::Outcome outcome;
  outcome.loss.assign(20, 1.0);
  outcome.loss[18] = 2.0;
  REQUIRE(outcome.final_loss() == 1.5);  // of the last two of twenty steps
  outcome.loss.assign(4, 0.5);
  REQUIRE(outcome.final_loss() == 0.5);
}

TEST_CASE("conditions are combined seed by seed", "[claims]") {
  const auto outcome = [](double accuracy) {
    claims::Outcome result;
    result.test.accuracy = accuracy;
    return result;
  };
  const std::vector<std::vector<claims::Outcome>> conditions{{outcome(0.25), outcome(0.5)},
                                                             {outcome(0.75), outcome(0.125)}};
  using claims::combined, claims::test_accuracy;
  REQUIRE(combined(conditions, test_accuracy, claims::lowest) == std::vector<double>{0.25, 0.125});
  REQUIRE(combined(conditions, test_accuracy, claims::highest) == std::vector<double>{0.75, 0.5});
  REQUIRE(combined(conditions, test_accuracy, claims::range) == std::vector<double>{0.5, 0.375});
}

TEST_CASE("numbers are written with their spread and about three digits", "[claims]") {
  REQUIRE(claims::text("BN", {0.81234, 0.0123}) == "BN 0.812 ± 0.012");
  REQUIRE(claims::text("BN", {-12.345, 1.5}) == "BN -12.3 ± 1.50");
  REQUIRE(claims::text("BN", {1e-5, 0.0}) == "BN 1.0e-05");
  REQUIRE(claims::text("", {0.0, 0.0}) == "0");
}
