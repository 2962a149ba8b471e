// SPDX-License-Identifier: MIT
// Runs the program as a user does, and looks at what it keeps in the repository.
#include <algorithm>

#include "claims.hpp"
#include "fashion_files.hpp"
#include "run_program.hpp"

namespace {

using testing::contains;
using testing::count;

testing::Ended run(const testing::Folder& folder, const std::string& arguments) {
  return testing::run_program(folder, CLAIMS, arguments);
}

}  // namespace

TEST_CASE("every claim is examined and gets its numbers and its picture", "[claims]") {
  const testing::Folder folder;
  testing::write_bands(folder, 300, 100);
  const std::string out = folder.file("some/new/folder");
  const auto result = run(folder, "--full --steps 1 --seeds 2 --threads 2 --data '" +
                                      folder.path() + "' --out '" + out + "'");
  CAPTURE(result.out, result.err);
  REQUIRE(result.code == 0);
  REQUIRE(result.err.empty());
  REQUIRE(contains(result.out, "images/s"));
  const std::string verdicts = testing::read_text(out + "/verdicts.md");
  for (const auto& claim : claims::all_claims()) {
    CAPTURE(claim.name);
    REQUIRE(contains(result.out, claim.title));
    REQUIRE(contains(verdicts, claim.title));
    const std::string picture = testing::read_text(out + "/" + claim.name + ".svg");
    REQUIRE(contains(picture, claim.question));  // in the title that screen readers read
    REQUIRE(contains(picture, "bands are means ± standard deviations"));
    REQUIRE(contains(picture, "<polyline class='line"));
    REQUIRE(contains(picture, "</svg>"));
    REQUIRE_FALSE(contains(picture, "nan"));
  }
  REQUIRE(count(verdicts, " ± ") > claims::all_claims().size());
}

TEST_CASE("so few seeds and steps give numbers and no verdicts", "[claims]") {
  const testing::Folder folder;
  testing::write_bands(folder, 300, 100);
  const auto result = run(folder, "--steps 1 --seeds 2 --threads 2 --data '" + folder.path() +
                                      "' --out '" + folder.path() + "'");
  CAPTURE(result.out, result.err);
  REQUIRE(result.code == 0);
  REQUIRE(contains(result.out, "There are no verdicts"));
  REQUIRE(contains(result.out, "measured: "));
  REQUIRE_FALSE(contains(result.out, "verdict: "));
  REQUIRE_FALSE(contains(testing::read_text(folder.file("verdicts.md")), "**"));
  for (std::size_t number = 1; number <= claims::all_claims().size(); ++number) {
    const bool by_default = number == 2 || number == 7 || number == 8;
    CAPTURE(number);
    REQUIRE(contains(result.out, "\n" + std::to_string(number) + ". ") == by_default);
  }
}

TEST_CASE("one claim alone is examined where one is asked for", "[claims]") {
  const testing::Folder folder;
  testing::write_bands(folder, 300, 100);
  const auto result = run(
      folder, "--claim 9 --steps 1 --data '" + folder.path() + "' --out '" + folder.path() + "'");
  REQUIRE(result.code == 0);
  REQUIRE(contains(result.out, "9. "));
  REQUIRE_FALSE(contains(result.out, "1. "));
}

TEST_CASE("bad options and missing data of the claims end with code 1 and a reason", "[claims]") {
  const testing::Folder folder;
  for (const char* bad : {"--claim 11", "--claim 0", "--seeds 1", "--steps many", "extra"}) {
    const auto result = run(folder, bad);
    CAPTURE(bad);
    REQUIRE(result.code == 1);
    REQUIRE(contains(result.err, "[claims]"));
  }
  const auto result = run(folder, "--data '" + folder.path() + "/none'");
  REQUIRE(result.code == 1);
  REQUIRE(contains(result.err, folder.path() + "/none/train-images-idx3-ubyte.gz: "));
}

TEST_CASE("the repository keeps a full run's verdicts and pictures of every claim", "[claims]") {
  const std::string kept = CLAIMS_SOURCES;
  const std::string verdicts = testing::read_text(kept + "/verdicts.md");
  REQUIRE(contains(verdicts, "5 seeds. Shown"));
  for (const auto& claim : claims::all_claims()) {
    CAPTURE(claim.name);
    REQUIRE(contains(verdicts, claim.title));
    REQUIRE(contains(testing::read_text(kept + "/" + claim.name + ".svg"), "means over 5"));
  }
}

TEST_CASE("the table of claims in examples/README.md is made of the kept verdicts", "[claims]") {
  const std::string verdicts = testing::read_text(std::string(CLAIMS_SOURCES) + "/verdicts.md");
  const std::string readme = testing::read_text(std::string(CLAIMS_SOURCES) + "/../README.md");
  std::size_t rows = 0, begin = readme.find("## Why it works");
  REQUIRE(begin != std::string::npos);
  const std::size_t end = readme.find("\n## ", begin);
  for (begin = readme.find("\n| ", begin); begin < end; begin = readme.find("\n| ", begin + 1)) {
    const std::string row = readme.substr(begin, readme.find('\n', begin + 1) - begin + 1);
    CAPTURE(row);
    REQUIRE(contains(verdicts, row));
    ++rows;
  }
  REQUIRE(rows == count(verdicts, "\n| "));
}
