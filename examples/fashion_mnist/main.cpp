// SPDX-License-Identifier: MIT
// Trains a convolutional network on Fashion-MNIST, with and without batch normalization.
// Debian packages: zlib1g-dev libcxxopts-dev dataset-fashion-mnist
// Time: about half a minute
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <iostream>
#include <sstream>
#include <string>
#include <vector>

#include "idx.hpp"
#include "options.hpp"
#include "out_folder.hpp"
#include "plot.hpp"
#include "report.hpp"
#include "train.hpp"

namespace {

using namespace fashion_mnist;

std::string title(const Options& options) {
  const std::string runs = options.bn == BatchNormRuns::both ? "with and without"
                           : options.bn == BatchNormRuns::on ? "with"
                                                             : "without";
  return std::string(name(options.model)) + " on Fashion-MNIST, " + runs + " batch normalization";
}

std::string settings(const Options& options) {
  std::ostringstream out;
  out << name(options.optimizer) << ", learning rate " << options.learning_rate;
  if (options.schedule != Schedule::constant) out << " (" << name(options.schedule) << ')';
  if (options.momentum > 0.0) out << ", momentum " << options.momentum;
  out << ", batch " << options.batch;
  if (!options.conv_bias) out << ", no convolution biases";
  out << ", seed " << options.seed;
  if (options.bn == BatchNormRuns::both) out << "; same initial weights, same order of images";
  return out.str();
}

void run(const Options& options) {
  const Dataset train_set = read_dataset(options.data, "train");
  const Dataset test_set = read_dataset(options.data, "t10k");
  const std::filesystem::path folder = options.out;
  make_folder("fashion_mnist", folder);

  std::cout << title(options) << "\n  " << settings(options) << "\n  " << train_set.size()
            << " training and " << test_set.size() << " test images in " << options.data;
  if (options.images != 0) std::cout << ", of each the first " << options.images;
  std::cout << "; " << options.threads << (options.threads == 1 ? " thread" : " threads") << '\n'
            << std::endl;

  std::vector<Run> runs = train(options, train_set, test_set);
  print_table(std::cout, runs);
  print_first_batch_norm(std::cout, runs);

  std::vector<History> histories;
  for (const auto& learned : runs) histories.push_back(learned.history);
  std::cout << "\n  Written\n";
  const auto write = [&](const char* name, const auto& contents) {
    write_file("fashion_mnist", folder / name, contents);
    std::cout << "  " << (folder / name).string() << '\n';
  };
  write("epochs.csv", [&](std::ostream& out) { write_epochs_csv(out, runs); });
  write("curves.csv", [&](std::ostream& out) { write_curves_csv(out, runs); });
  write("curves.svg",
        [&](std::ostream& out) { write_svg(out, title(options), settings(options), histories); });
  print_verdict(std::cout, runs);
}

}  // namespace

int main(int argc, char** argv) try {
  if (const auto options = parse_options(argc, argv)) run(*options);
  return EXIT_SUCCESS;
} catch (const std::exception& error) {
  std::cerr << error.what() << std::endl;
  return EXIT_FAILURE;
}
