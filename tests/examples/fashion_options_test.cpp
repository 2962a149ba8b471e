// SPDX-License-Identifier: MIT
#include <vector>

#include "../support/catch.hpp"
#include "command_line.hpp"
#include "options.hpp"

namespace {

using namespace fashion_mnist;

Options parse(std::vector<const char*> arguments) {
  arguments.insert(arguments.begin(), "fashion_mnist");
  const auto options = parse_options(static_cast<int>(arguments.size()), arguments.data());
  REQUIRE(options.has_value());
  return *options;
}

void require_error(const std::vector<const char*>& arguments, const std::string& what) {
  std::string error;
  try {
    parse(arguments);
  } catch (const OptionError& caught) {
    error = caught.what();
  }
  CAPTURE(error);
  REQUIRE(error.find(what) != std::string::npos);
  REQUIRE(error.find("--help") != std::string::npos);
}

}  // namespace

TEST_CASE("without options LeNet is trained twice for three epochs at rate 1", "[fashion]") {
  const Options options = parse({});
  REQUIRE(options.model == Model::lenet);
  REQUIRE(options.bn == BatchNormRuns::both);
  REQUIRE(options.conv_bias);
  REQUIRE(options.epochs == 3);
  REQUIRE(options.batch == 256);
  REQUIRE(options.learning_rate == 1.0);
  REQUIRE(options.optimizer == OptimizerKind::sgd);
  REQUIRE(options.momentum == 0.0);
  REQUIRE(options.schedule == Schedule::constant);
  REQUIRE(options.seed == 0);
  REQUIRE(options.threads >= 1);
  REQUIRE(options.images == 0);
  REQUIRE(options.data == "/usr/share/datasets/fashion-mnist");
}

TEST_CASE("every option is taken over", "[fashion]") {
  const Options options =
      parse({"--model",  "convbn",     "--bn=off",   "--no-conv-bias", "--optimizer", "sgd",
             "--epochs", "7",          "--batch=32", "--lr",           "0.25",        "--momentum",
             "0.9",      "--schedule", "cosine",     "--seed",         "42",          "--threads",
             "3",        "--images",   "500",        "--data",         "/in",         "--out",
             "/out"});
  REQUIRE(options.model == Model::convbn);
  REQUIRE(options.bn == BatchNormRuns::off);
  REQUIRE_FALSE(options.conv_bias);
  REQUIRE(options.epochs == 7);
  REQUIRE(options.batch == 32);
  REQUIRE(options.learning_rate == 0.25);
  REQUIRE(options.momentum == 0.9);
  REQUIRE(options.schedule == Schedule::cosine);
  REQUIRE(options.seed == 42);
  REQUIRE(options.threads == 3);
  REQUIRE(options.images == 500);
  REQUIRE(options.data == "/in");
  REQUIRE(options.out == "/out");
}

TEST_CASE("the d2l preset is that of the book, and options beside it win", "[fashion]") {
  const Options d2l = parse({"--preset", "d2l"});
  REQUIRE(d2l.learning_rate == 0.1);
  REQUIRE(d2l.batch == 128);
  REQUIRE(d2l.epochs == 10);
  const Options mixed = parse({"--epochs", "2", "--preset", "d2l", "--bn", "on"});
  REQUIRE(mixed.epochs == 2);
  REQUIRE(mixed.batch == 128);
  REQUIRE(mixed.bn == BatchNormRuns::on);
}

TEST_CASE("the best preset follows a cosine over ten epochs", "[fashion]") {
  const Options best = parse({"--preset", "best"});
  REQUIRE(best.schedule == Schedule::cosine);
  REQUIRE(best.learning_rate == 1.0);
  REQUIRE(best.batch == 128);
  REQUIRE(best.epochs == 10);
  REQUIRE(best.bn == BatchNormRuns::on);
}

TEST_CASE("each optimizer has a rate of its own unless one is given", "[fashion]") {
  REQUIRE(parse({"--optimizer", "adam"}).learning_rate == 0.001);
  REQUIRE(parse({"--optimizer", "adam", "--lr", "0.01"}).learning_rate == 0.01);
  REQUIRE(parse({"--optimizer", "adam", "--preset", "d2l"}).learning_rate == 0.001);
  REQUIRE(parse({"--optimizer", "sgd", "--preset", "d2l"}).learning_rate == 0.1);
}

TEST_CASE("ConvBNNet is trained by Adam unless the options say otherwise", "[fashion]") {
  REQUIRE(parse({"--model", "convbn"}).optimizer == OptimizerKind::adam);
  REQUIRE(parse({"--model", "convbn"}).learning_rate == 0.001);
  REQUIRE(parse({"--model", "convbn", "--optimizer", "sgd"}).learning_rate == 1.0);
  REQUIRE(parse({"--model", "convbn", "--preset", "d2l"}).optimizer == OptimizerKind::sgd);
  REQUIRE(parse({"--model", "convbn", "--preset", "d2l"}).learning_rate == 0.1);
}

TEST_CASE("bad options are errors that name what was expected", "[fashion]") {
  const std::string epochs = "--epochs: expected a whole number from 1 to 10000, got '";
  require_error({"--epochs", "0"}, epochs + "0'");
  require_error({"--epochs=-1"}, epochs + "-1'");
  require_error({"--epochs", "three"}, epochs + "three'");
  require_error({"--epochs", "3x"}, epochs + "3x'");
  require_error({"--epochs", "2.5"}, epochs + "2.5'");
  require_error({"--epochs", "99999999999999999999"}, epochs + "99999999999999999999'");
  require_error({"--epochs="}, "epochs");
  require_error({"--batch", "1"}, "--batch: expected a whole number from 2 to");
  require_error({"--lr", "nan"}, "--lr: expected a number from 0 to");
  require_error({"--lr=-0.5"}, "--lr: expected a number from 0 to");
  require_error({"--lr", "inf"}, "--lr: expected a number from 0 to");
  require_error({"--lr", "1e999"}, "--lr: expected a number from 0 to");
  require_error({"--momentum", "1.5"}, "--momentum: expected a number from 0 to 1, got '1.5'");
  require_error({"--optimizer", "adam", "--momentum", "0.9"}, "--momentum: belongs to sgd");
  require_error({"--threads", "0"}, "--threads: expected a whole number from 1 to");
  require_error({"--images", "1"}, "--images: expected a whole number from 2 to");
  require_error({"--seed=-3"}, "--seed: expected a whole number from 0 to");
  require_error({"--model", "resnet"}, "--model: expected one of lenet, convbn; got 'resnet'");
  require_error({"--preset", "x"}, "--preset: expected one of d2l, best; got 'x'");
  require_error({"--bn", "maybe"}, "--bn: expected one of both, on, off; got 'maybe'");
  require_error({"--optimizer", "lamb"}, "--optimizer: expected one of sgd, adam; got 'lamb'");
  require_error({"--schedule", "step"}, "--schedule: expected one of constant, cosine");
  require_error({"--no-such-option"}, "no-such-option");
  require_error({"left over"}, "unexpected argument 'left over'");
  require_error({"--lr"}, "lr");
}
