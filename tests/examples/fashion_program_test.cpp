// SPDX-License-Identifier: MIT
// Runs the program as a user does.
#include <algorithm>

#include "fashion_files.hpp"
#include "run_program.hpp"

namespace {

using testing::contains;

testing::Ended run(const testing::Folder& folder, const std::string& arguments) {
  return testing::run_program(folder, FASHION_MNIST, arguments);
}

}  // namespace

TEST_CASE("the program trains, prints its table and writes its curves", "[fashion]") {
  const testing::Folder folder;
  testing::write_bands(folder, 400, 100);
  const std::string out = folder.file("some/new/folder");
  const auto result = run(folder, "--images 300 --epochs 2 --batch 50 --threads 2 --data '" +
                                      folder.path() + "' --out '" + out + "'");
  CAPTURE(result.out, result.err);
  REQUIRE(result.code == 0);
  REQUIRE(result.err.empty());
  REQUIRE(contains(result.out, "images/s"));
  REQUIRE_FALSE(contains(result.out, "\r"));  // no bar where there is no terminal
  REQUIRE(contains(result.out, "epoch    loss   train    test   seconds"));
  REQUIRE(contains(result.out, "gamma"));
  REQUIRE(contains(result.out, out + "/curves.svg"));
  REQUIRE(contains(result.out, "epoch 2/2 done  test accuracy with BN "));
  REQUIRE(contains(result.out, "\nVerdict: after 2 epochs, batch normalization "));
  const std::string epochs = testing::read_text(out + "/epochs.csv");
  REQUIRE(std::count(epochs.begin(), epochs.end(), '\n') == 1 + 2 * 2);
  const std::string curves = testing::read_text(out + "/curves.csv");
  REQUIRE(std::count(curves.begin(), curves.end(), '\n') == 1 + 2 * 2 * 6);  // 6 batches an epoch
  REQUIRE(contains(testing::read_text(out + "/curves.svg"), "</svg>"));
}

TEST_CASE("bad options and missing data end the program with code 1 and a reason", "[fashion]") {
  const testing::Folder folder;
  auto result = run(folder, "--epochs nine");
  REQUIRE(result.code == 1);
  REQUIRE(contains(result.err, "nine"));
  result = run(folder, "--data '" + folder.path() + "/none'");
  REQUIRE(result.code == 1);
  REQUIRE(contains(result.err, folder.path() + "/none/train-images-idx3-ubyte.gz: "));
  testing::write_bands(folder, 20, 20);
  result = run(folder, "--data '" + folder.path() + "' --out /dev/null/x");
  REQUIRE(result.code == 1);
  REQUIRE(contains(result.err, "/dev/null/x"));
}

TEST_CASE("--help tells every option and trains nothing", "[fashion]") {
  const testing::Folder folder;
  const auto result = run(folder, "--help --data /none");
  REQUIRE(result.code == 0);
  for (const char* option : {"--model", "--bn", "--no-conv-bias", "--preset", "--epochs", "--batch",
                             "--lr", "--optimizer", "--momentum", "--schedule", "--seed",
                             "--threads", "--images", "--data", "--out"}) {
    REQUIRE(contains(result.out, option));
  }
}
