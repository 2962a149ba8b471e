// SPDX-License-Identifier: MIT
#include "options.hpp"

#include <algorithm>
#include <charconv>
#include <cxxopts.hpp>
#include <initializer_list>
#include <iostream>
#include <limits>
#include <sstream>
#include <system_error>
#include <thread>
#include <type_traits>
#include <utility>

namespace fashion_mnist {
namespace {

[[noreturn]] void fail(const std::string& what) {
  throw OptionError("[fashion_mnist] " + what + "\nTry --help.");
}

template <class T>
std::string text(const T& value) {
  std::ostringstream out;
  out << value;
  return out.str();
}

/// The whole of given as a number from low to high.
template <class T>
T number(const std::string& option, const std::string& given, T low, T high) {
  T value{};
  const char* const end = given.data() + given.size();
  const auto [rest, error] = std::from_chars(given.data(), end, value);
  const bool inside = value >= low && value <= high;  // a NaN is not
  if (error != std::errc() || rest != end || !inside) {
    fail("--" + option + ": expected " + (std::is_integral_v<T> ? "a whole number" : "a number") +
         " from " + text(low) + " to " + text(high) + ", got '" + given + "'");
  }
  return value;
}

template <class Value>
Value choice(const std::string& option, const std::string& given,
             std::initializer_list<std::pair<const char*, Value>> choices) {
  std::string names;
  for (const auto& [key, value] : choices) {
    if (given == key) return value;
    names += (names.empty() ? "" : ", ") + std::string(key);
  }
  fail("--" + option + ": expected one of " + names + "; got '" + given + "'");
}

cxxopts::Options describe() {
  cxxopts::Options parser("fashion_mnist",
                          "Trains a convolutional network with and without batch normalization on "
                          "Fashion-MNIST, side by side from the same weights.\n");
  // Numbers are taken as text: what cxxopts says of a bad one does not name the option.
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
       cxxopts::value<std::string>())  //
      ("data", "folder of the four idx files",
       cxxopts::value<std::string>()->default_value(Options{}.data))  //
      ("out", "folder for curves.csv, epochs.csv and curves.svg",
       cxxopts::value<std::string>()->default_value(Options{}.out))  //
      ("h,help", "this text");
  return parser;
}

/// An optimizer and its default rate; the one already chosen keeps the rate it has.
void use(OptimizerKind optimizer, Options& options) {
  if (optimizer == options.optimizer) return;
  options.optimizer = optimizer;
  options.learning_rate = optimizer == OptimizerKind::sgd ? 1.0 : 0.001;
}

void apply_preset(const std::string& preset, Options& options) {
  const bool best = choice<bool>("preset", preset, {{"d2l", false}, {"best", true}});
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

Options read(const cxxopts::ParseResult& given) {
  const auto string = [&](const char* key) { return given[key].as<std::string>(); };
  const auto integer = [&](const char* key, long long low, long long high) {
    return number(key, string(key), low, high);
  };
  constexpr long long kMaxImages = 1'000'000;

  Options options;
  options.model =
      choice<Model>("model", string("model"), {{"lenet", Model::lenet}, {"convbn", Model::convbn}});
  // The model chooses first, then the preset, then the user.
  if (options.model == Model::convbn) use(OptimizerKind::adam, options);
  if (given.count("preset") != 0) apply_preset(string("preset"), options);
  if (given.count("optimizer") != 0) {
    use(choice<OptimizerKind>("optimizer", string("optimizer"),
                              {{"sgd", OptimizerKind::sgd}, {"adam", OptimizerKind::adam}}),
        options);
  }
  if (given.count("bn") != 0) {
    options.bn = choice<BatchNormRuns>(
        "bn", string("bn"),
        {{"both", BatchNormRuns::both}, {"on", BatchNormRuns::on}, {"off", BatchNormRuns::off}});
  }
  options.conv_bias = given.count("no-conv-bias") == 0;
  if (given.count("epochs") != 0) options.epochs = static_cast<int>(integer("epochs", 1, 10'000));
  if (given.count("batch") != 0) {
    // Batch norm needs two values to have a variance.
    options.batch = static_cast<std::size_t>(integer("batch", 2, kMaxImages));
  }
  if (given.count("lr") != 0) {
    options.learning_rate = number("lr", string("lr"), 0.0, 1e6);
  }
  if (given.count("momentum") != 0) {
    options.momentum = number("momentum", string("momentum"), 0.0, 1.0);
    if (options.optimizer == OptimizerKind::adam) fail("--momentum: belongs to sgd, not to adam");
  }
  if (given.count("schedule") != 0) {
    options.schedule =
        choice<Schedule>("schedule", string("schedule"),
                         {{"constant", Schedule::constant}, {"cosine", Schedule::cosine}});
  }
  options.seed =
      static_cast<std::uint64_t>(integer("seed", 0, std::numeric_limits<long long>::max()));
  options.threads = given.count("threads") != 0
                        ? static_cast<int>(integer("threads", 1, 1024))
                        : static_cast<int>(std::max(1U, std::thread::hardware_concurrency()));
  if (given.count("images") != 0) {
    options.images = static_cast<std::size_t>(integer("images", 2, kMaxImages));
  }
  options.data = string("data");
  options.out = string("out");
  return options;
}

}  // namespace

std::optional<Options> parse_options(int argc, const char* const* argv) {
  auto parser = describe();
  parser.set_width(100);
  try {
    const auto given = parser.parse(argc, argv);
    if (given.count("help") != 0) {
      std::cout << parser.help();
      return std::nullopt;
    }
    if (!given.unmatched().empty()) fail("unexpected argument '" + given.unmatched().front() + "'");
    return read(given);
  } catch (const OptionError&) {
    throw;
  } catch (const std::exception& error) {  // cxxopts renamed its exceptions between versions
    fail(error.what());
  }
}

const char* name(Model model) { return model == Model::lenet ? "LeNet" : "ConvBNNet"; }

const char* name(OptimizerKind optimizer) {
  return optimizer == OptimizerKind::sgd ? "SGD" : "Adam";
}

const char* name(Schedule schedule) {
  return schedule == Schedule::constant ? "constant" : "cosine";
}

}  // namespace fashion_mnist
