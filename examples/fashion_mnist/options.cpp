// SPDX-License-Identifier: MIT
#include "options.hpp"

#include <cxxopts.hpp>
#include <limits>

#include "command_line.hpp"

namespace fashion_mnist {
namespace {

cxxopts::Options describe() {
  cxxopts::Options parser("fashion_mnist",
                          "Trains a convolutional network with and without batch normalization on "
                          "Fashion-MNIST, side by side from the same weights.\n");
  parser.add_options()                                                                     //
      ("model", "lenet or convbn", cxxopts::value<std::string>()->default_value("lenet"))  //
      ("bn", "train with batch norm: both (with and without), on, off",
       cxxopts::value<std::string>()->default_value("both"))  //
      ("no-conv-bias", "convolutions without a bias")         //
      ("preset",
       "d2l (rate 0.1, batch 128, 10 epochs: Dive into Deep Learning 8.5) or best (the most "
       "accurate: with batch norm, 10 epochs, cosine schedule); options given beside it win",
       cxxopts::value<std::string>())                                                   //
      ("epochs", "passes over the images (default: 3)", cxxopts::value<std::string>())  //
      ("batch", "images in a batch (default: 256)", cxxopts::value<std::string>())      //
      ("lr", "learning rate (default: 1 for sgd, 0.001 for adam)",
       cxxopts::value<std::string>())  //
      ("optimizer", "sgd or adam (default: sgd for lenet, adam for convbn)",
       cxxopts::value<std::string>())                                     //
      ("momentum", "of sgd (default: 0)", cxxopts::value<std::string>())  //
      ("schedule", "of the rate: constant or cosine (default: constant)",
       cxxopts::value<std::string>())                                                      //
      ("seed", "of weights and order", cxxopts::value<std::string>()->default_value("0"))  //
      ("threads", "to compute with (default: all cores)", cxxopts::value<std::string>())   //
      ("images", "use the first N training and at most N test images (default: all)",
       cxxopts::value<std::string>());
  add_common_options(parser, Options{}.data, Options{}.out,
                     "curves.csv, epochs.csv and curves.svg");
  return parser;
}

/// An optimizer and its default rate; the one already chosen keeps the rate it has.
void use(OptimizerKind optimizer, Options& options) {
  if (optimizer == options.optimizer) return;
  options.optimizer = optimizer;
  options.learning_rate = optimizer == OptimizerKind::sgd ? 1.0 : 0.001;
}

void apply_preset(const CommandLine& line, Options& options) {
  if (!line.has("preset")) return;
  bool best = false;
  line.set("preset", best, {{"d2l", false}, {"best", true}});
  options.epochs = 10;
  options.batch = 128;
  if (best) {
    options.bn = BatchNormRuns::on;
    options.schedule = Schedule::cosine;
  } else {
    use(OptimizerKind::sgd, options);
    options.learning_rate = 0.1;
  }
}

/// The model chooses the optimizer and the rate first, then the preset, then the user.
void choose_training(const CommandLine& line, Options& options) {
  line.set("model", options.model, {{"lenet", Model::lenet}, {"convbn", Model::convbn}});
  if (options.model == Model::convbn) use(OptimizerKind::adam, options);
  apply_preset(line, options);
  OptimizerKind optimizer = options.optimizer;
  line.set("optimizer", optimizer, {{"sgd", OptimizerKind::sgd}, {"adam", OptimizerKind::adam}});
  use(optimizer, options);
  line.set("lr", options.learning_rate, 0.0, 1e6);
  line.set("momentum", options.momentum, 0.0, 1.0);
  if (line.has("momentum") && options.optimizer == OptimizerKind::adam) {
    line.fail("--momentum: belongs to sgd, not to adam");
  }
  line.set("schedule", options.schedule,
           {{"constant", Schedule::constant}, {"cosine", Schedule::cosine}});
}

Options read(const CommandLine& line) {
  constexpr std::size_t kMaxImages = 1'000'000;
  Options options;
  choose_training(line, options);
  line.set("bn", options.bn,
           {{"both", BatchNormRuns::both}, {"on", BatchNormRuns::on}, {"off", BatchNormRuns::off}});
  options.conv_bias = !line.has("no-conv-bias");
  line.set("epochs", options.epochs, 1, 10'000);
  line.set("batch", options.batch, 2, kMaxImages);  // batch norm needs two values for a variance
  line.set("seed", options.seed, 0, std::numeric_limits<std::int64_t>::max());
  options.threads = all_cores();
  line.set("threads", options.threads, 1, 1024);
  line.set("images", options.images, 2, kMaxImages);
  line.set("data", options.data);
  line.set("out", options.out);
  return options;
}

}  // namespace

std::optional<Options> parse_options(int argc, const char* const* argv) {
  auto parser = describe();
  const auto line = parse_command_line("fashion_mnist", parser, argc, argv);
  return line ? std::optional(read(*line)) : std::nullopt;
}

const char* name(Model model) { return model == Model::lenet ? "LeNet" : "ConvBNNet"; }

const char* name(OptimizerKind optimizer) {
  return optimizer == OptimizerKind::sgd ? "SGD" : "Adam";
}

const char* name(Schedule schedule) {
  return schedule == Schedule::constant ? "constant" : "cosine";
}

}  // namespace fashion_mnist
