// SPDX-License-Identifier: MIT
#include <sstream>

#include "fashion_files.hpp"
#include "report.hpp"
#include "train.hpp"

namespace {

using namespace fashion_mnist;

struct Bands {
  testing::Folder folder;
  Dataset train_set, test_set;

  Bands() {
    testing::write_bands(folder, 200, 60);
    train_set = read_dataset(folder.path(), "train");
    test_set = read_dataset(folder.path(), "t10k");
  }
};

Options small() {
  Options options;
  options.batch = 20;
  options.learning_rate = 0.5;
  options.epochs = 3;
  return options;
}

bool same(const History& a, const History& b) {
  REQUIRE(a.epochs.size() == b.epochs.size());
  for (std::size_t i = 0; i < a.epochs.size(); ++i) {
    if (a.epochs[i].loss != b.epochs[i].loss) return false;
    if (a.epochs[i].test_accuracy != b.epochs[i].test_accuracy) return false;
  }
  return true;
}

}  // namespace

TEST_CASE("both networks learn bands on noise", "[fashion]") {
  const Bands bands;
  for (const Model model : {Model::lenet, Model::convbn}) {
    Options options = small();
    options.model = model;
    options.bn = BatchNormRuns::on;
    options.learning_rate = model == Model::lenet ? 0.5 : 0.05;
    options.epochs = 6;
    const auto runs = train(options, bands.train_set, bands.test_set);
    REQUIRE(runs.size() == 1);
    REQUIRE(runs[0].history.network == "with BN");
    REQUIRE(runs[0].history.epochs.size() == 6);
    REQUIRE(runs[0].history.epochs.back().loss < 0.5 * runs[0].history.epochs.front().loss);
    // Ten classes: guessing gives .1; the bands do not overlap, so all can be told apart.
    REQUIRE(runs[0].history.epochs.back().test_accuracy > 0.9);
  }
}

TEST_CASE("training depends on the seed and on nothing else", "[fashion]") {
  const Bands bands;
  Options options = small();
  const auto runs = train(options, bands.train_set, bands.test_set);
  REQUIRE(runs.size() == 2);
  options.threads = 3;
  const auto threads = train(options, bands.train_set, bands.test_set);
  REQUIRE(same(runs[0].history, threads[0].history));
  REQUIRE(same(runs[1].history, threads[1].history));
  options.bn = BatchNormRuns::off;
  const auto alone = train(options, bands.train_set, bands.test_set);
  REQUIRE(same(runs[1].history, alone[0].history));
  options.seed = 1;
  REQUIRE_FALSE(same(alone[0].history, train(options, bands.train_set, bands.test_set)[0].history));
}

TEST_CASE("the curve has twenty stretches an epoch where there are batches enough", "[fashion]") {
  const Bands bands;
  Options options = small();
  options.bn = BatchNormRuns::on;
  options.epochs = 2;
  options.batch = 4;  // 50 batches
  auto runs = train(options, bands.train_set, bands.test_set);
  REQUIRE(runs[0].history.curve.size() == 40);
  REQUIRE(runs[0].history.curve.front().epoch < 0.05);
  REQUIRE(runs[0].history.curve.back().epoch > 1.95);
  options.batch = 100;  // 2 batches
  runs = train(options, bands.train_set, bands.test_set);
  REQUIRE(runs[0].history.curve.size() == 4);
}

TEST_CASE("a last batch of one image is left out, fewer images are those asked for", "[fashion]") {
  const Bands bands;
  Options options = small();
  options.bn = BatchNormRuns::on;
  options.images = 41;  // two batches of 20 and one of 1
  options.epochs = 1;
  const auto runs = train(options, bands.train_set, bands.test_set);
  const double correct = runs[0].history.epochs[0].train_accuracy * 40.0;
  REQUIRE(std::abs(correct - std::round(correct)) < 1e-9);
}

TEST_CASE("the table and the files hold what was learned", "[fashion]") {
  std::vector<Run> runs(1);
  runs[0].history.network = "with BN";
  runs[0].history.curve = {{0.5, 1.25, 0.625}};
  runs[0].history.epochs = {{1.5, 0.75, 0.5, 12.25}};
  std::ostringstream table, epochs, curves;
  print_table(table, runs);
  write_epochs_csv(epochs, runs);
  write_curves_csv(curves, runs);
  REQUIRE(table.str().find("  with BN         1   1.500   0.750   0.500      12.2\n") !=
          std::string::npos);
  REQUIRE(epochs.str() ==
          "network,epoch,loss,train_accuracy,test_accuracy,seconds\n"
          "with BN,1,1.5,0.75,0.5,12.25\n");
  REQUIRE(curves.str() == "network,epoch,loss,train_accuracy\nwith BN,0.5,1.25,0.625\n");
}
