// SPDX-License-Identifier: MIT
// Which entries of a file are a layer's: names of every framework, prefixes, counters and options.

#include <batchnorm/batchnorm.hpp>
#include <batchnorm/safetensors.hpp>
#include <stdexcept>
#include <string>
#include <vector>

#include "safetensors/files.hpp"
#include "safetensors/one_layer.hpp"
#include "support/catch.hpp"
#include "support/refused.hpp"

using batchnorm::BatchNorm1d, batchnorm::BatchNorm2d, batchnorm::Options, batchnorm::SwitchedOff;
using batchnorm::SafetensorsBytes, batchnorm::SafetensorsReader, batchnorm::SafetensorsWriter;
using testing::check_refused;
using testing::check_throws;
using testing::Folder;

namespace {

using Names = std::vector<std::string>;
using Shape = std::vector<Eigen::Index>;

/// Two channels: `first` and `first` + 1, in this shape.
void add_two(SafetensorsWriter& writer, const std::string& name, float first,
             const Shape& shape = {2}) {
  const Eigen::Vector2f v(first, first + 1);
  SafetensorsBytes x{"F32", shape, std::vector<unsigned char>(8)};
  for (int i = 0; i < 8; ++i) {
    std::uint32_t bits;
    std::memcpy(&bits, &v[i / 4], 4);
    x.bytes[static_cast<std::size_t>(i)] = static_cast<unsigned char>(bits >> 8 * (i % 4) & 0xff);
  }
  writer.add(name, std::move(x));
}
/// A layer whose gamma, beta, mean and variance are (1, 2), (3, 4), (5, 6) and (7, 8).
void add_layer(SafetensorsWriter& writer, const Names& names, const Shape& shape = {2}) {
  for (std::size_t k = 0; k < 4; ++k)
    add_two(writer, names[k], static_cast<float>(1 + 2 * k), shape);
}
bool is_that_layer(const BatchNorm2d<float>& bn) {
  return bn.gamma() == Eigen::Vector2f(1, 2) && bn.beta() == Eigen::Vector2f(3, 4) &&
         bn.running_mean() == Eigen::Vector2f(5, 6) && bn.running_var() == Eigen::Vector2f(7, 8);
}
BatchNorm2d<float> layer_of(SafetensorsReader& file, const std::string& prefix,
                            const Options& options = {}, SwitchedOff off = SwitchedOff::reject) {
  return file.layer<BatchNorm2d<float>>(prefix, options, off);
}

/// A file of a PyTorch layer "bn." without the entries that are left out.
void write_layer(const std::filesystem::path& path, const Names& left_out = {}) {
  SafetensorsWriter writer;
  const Names names{"bn.weight", "bn.bias", "bn.running_mean", "bn.running_var"};
  for (std::size_t k = 0; k < 4; ++k) {
    if (std::count(left_out.begin(), left_out.end(), names[k]) == 0)
      add_two(writer, names[k], static_cast<float>(1 + 2 * k));
  }
  writer.write(path);
}

}  // namespace

TEST_CASE("a layer is found and read under the names of every framework", "[safetensors]") {
  struct Case {
    const char *framework, *prefix;
    Names names;
    Shape shape;
  };
  const Shape images{1, 1, 1, 2};
  const Case cases[] = {
      {"PyTorch",
       "net.1.",
       {"net.1.weight", "net.1.bias", "net.1.running_mean", "net.1.running_var"},
       {2}},
      {"Keras", "bn/", {"bn/gamma", "bn/beta", "bn/moving_mean", "bn/moving_variance"}, {2}},
      {"TensorFlow",
       "net/bn/",
       {"net/bn/gamma:0", "net/bn/beta:0", "net/bn/moving_mean:0", "net/bn/moving_variance:0"},
       {2}},
      {"Flax", "bn.", {"bn.scale", "bn.bias", "bn.mean", "bn.var"}, {2}},
      {"Flax, by collection",
       "params.net.bn.",
       {"params.net.bn.scale", "params.net.bn.bias", "batch_stats.net.bn.mean",
        "batch_stats.net.bn.var"},
       {2}},
      {"Flax, by collection, alone",
       "params/",
       {"params/scale", "params/bias", "batch_stats/mean", "batch_stats/var"},
       {2}},
      {"Flax, by collection, of a model",
       "model/params/bn/",
       {"model/params/bn/scale", "model/params/bn/bias", "model/batch_stats/bn/mean",
        "model/batch_stats/bn/var"},
       {2}},
      {"Haiku",
       "net/~/bn/",
       {"net/~/bn/scale", "net/~/bn/offset", "net/~/bn/~/mean_ema/average",
        "net/~/bn/~/var_ema/average"},
       images},
      {"Haiku, module and name by a dot",
       "net/~/bn.",
       {"net/~/bn.scale", "net/~/bn.offset", "net/~/bn/~/mean_ema.average",
        "net/~/bn/~/var_ema.average"},
       images},
      {"Haiku, alone", "", {"scale", "offset", "~/mean_ema/average", "~/var_ema/average"}, {1, 2}},
      {"Sonnet 1", "bn/", {"bn/gamma", "bn/beta", "bn/moving_mean", "bn/moving_variance"}, images},
      {"Sonnet 2",
       "bn/",
       {"bn/scale:0", "bn/offset:0", "bn/moving_mean/average:0", "bn/moving_variance/average:0"},
       images},
      {"MXNet", "bn0_", {"bn0_gamma", "bn0_beta", "bn0_moving_mean", "bn0_moving_var"}, {2}},
      {"MXNet, a checkpoint",
       "arg:bn0_",
       {"arg:bn0_gamma", "arg:bn0_beta", "aux:bn0_moving_mean", "aux:bn0_moving_var"},
       {2}},
      {"Gluon", "bn0_", {"bn0_gamma", "bn0_beta", "bn0_running_mean", "bn0_running_var"}, {2}},
      {"Paddle", "bn.", {"bn.weight", "bn.bias", "bn._mean", "bn._variance"}, {2}},
      {"no prefix", "", {"gamma", "beta", "moving_mean", "moving_variance"}, {1, 2, 1, 1}}};
  const Folder folder("frameworks");
  for (const Case& c : cases) {
    INFO(c.framework);
    SafetensorsWriter writer;
    add_layer(writer, c.names, c.shape);
    add_two(writer, "fc.weight", 0);
    add_two(writer, "fc.bias", 0);
    writer.add("conv.weight", Eigen::Matrix2f::Ones()).write(folder / "f");
    SafetensorsReader file(folder / "f");
    CHECK(file.batch_norm_prefixes() == Names{c.prefix});
    CHECK(is_that_layer(layer_of(file, c.prefix)));
    BatchNorm2d<float> bn(2);
    file.load(bn, c.prefix);
    CHECK(is_that_layer(bn));
  }
}

TEST_CASE("averages without correction and counters of Haiku are left alone", "[safetensors]") {
  const Folder folder("haiku");
  SafetensorsWriter writer;
  add_layer(writer, {"bn/scale", "bn/offset", "bn/~/mean_ema/average", "bn/~/var_ema/average"},
            {1, 2});
  const Eigen::Matrix<std::int32_t, 1, 1> count(3);
  for (const std::string ema : {"mean_ema", "var_ema"}) {
    add_two(writer, "bn/~/" + ema + "/hidden", 50, {1, 2});
    writer.add("bn/~/" + ema + "/counter", count);
  }
  writer.write(folder / "f");
  SafetensorsReader file(folder / "f");
  CHECK(file.batch_norm_prefixes() == Names{"bn/"});
  const auto bn = layer_of(file, "bn/");
  CHECK(is_that_layer(bn));
  CHECK(bn.num_batches_tracked() == 0);
}

TEST_CASE("the prefixes of a file are those of its batch norms", "[safetensors]") {
  const Folder folder("prefixes");
  SafetensorsWriter writer;
  Options bare;
  bare.scale = bare.shift = false;
  Options without_statistics;
  without_statistics.track_running_stats = false;
  Options nothing = bare;
  nothing.track_running_stats = false;
  const BatchNorm2d<float> plain(2), stats_alone(3, bare), none(2, nothing),
      parameters_alone(4, without_statistics);
  writer.add("b.", plain).add("a.10.", stats_alone).add("c.", parameters_alone).add("d.", none);
  writer.add("e.", none);
  add_two(writer, "e.num_batches_tracked", 0);  // a counter of nothing
  add_two(writer, "norm.weight", 0);            // a layer norm
  add_two(writer, "norm.bias", 0);
  add_two(writer, "bn_mean", 0);  // after "_" this may be anything
  add_two(writer, "bn_var", 0);
  add_two(writer, "half.running_mean", 0);  // without a variance
  add_two(writer, "pair.mean", 0);
  writer.add("pair.var", Eigen::Vector3f(1, 2, 3));  // of another length
  writer.add("table.mean", Eigen::Matrix2f::Ones()).add("table.var", Eigen::Matrix2f::Ones());
  writer.write(folder / "f");
  SafetensorsReader file(folder / "f");
  CHECK(file.batch_norm_prefixes() == Names{"a.10.", "b.", "c."});
  for (const std::string& prefix : file.batch_norm_prefixes())
    CHECK_NOTHROW(file.layer<BatchNorm2d<float>>(prefix));
  CHECK(file.entries().at("table.mean").extents == Shape{2, 2});

  BatchNorm2d<float> again(2, nothing);
  again.num_batches_tracked() = 5;
  file.load(again, "d.");  // it has options and no entries
  CHECK(again.num_batches_tracked() == 0);
  check_throws<std::invalid_argument>({"expected a batch-norm layer under the prefix \"d.\""},
                                      [&] { static_cast<void>(layer_of(file, "d.", nothing)); });
}

TEST_CASE("entries of layers that are deeper in the tree are left alone", "[safetensors]") {
  const Folder folder("deeper");
  SafetensorsWriter writer;
  add_layer(writer, {"weight", "bias", "running_mean", "running_var"});
  writer.add("fc.weight", Eigen::Matrix2f::Ones()).add("fft.w", SafetensorsBytes{"C64", {0}, {}});
  writer.write(folder / "f");
  SafetensorsReader file(folder / "f");
  CHECK(is_that_layer(layer_of(file, "")));
}

TEST_CASE("a prefix that other layers' prefixes start with has its own entries", "[safetensors]") {
  const Folder folder("underscores");  // as in MXNet
  SafetensorsWriter writer;
  add_layer(writer, {"bn_gamma", "bn_beta", "bn_running_mean", "bn_running_var"});
  add_layer(writer, {"bn_1_gamma", "bn_1_beta", "bn_1_running_mean", "bn_1_running_var"});
  writer.write(folder / "f");
  SafetensorsReader file(folder / "f");
  CHECK(file.batch_norm_prefixes() == Names{"bn_", "bn_1_"});
  for (const std::string& prefix : file.batch_norm_prefixes())
    CHECK(is_that_layer(layer_of(file, prefix, Options::pytorch())));
}

TEST_CASE("a layer that this library wrote is found by any prefix", "[safetensors]") {
  const Folder folder("any_prefix");
  Options untracked;
  untracked.track_running_stats = false;
  const auto layer = testing::random_layer<BatchNorm2d<float>>(2);
  const BatchNorm2d<float> parameters_alone(2, untracked);
  SafetensorsWriter writer;
  writer.add("bn", layer).add("bn_", layer).add("bn_2_", layer).add("bn_u_", parameters_alone);
  add_two(writer, "bn_conv_weight", 0);
  writer.write(folder / "f");
  SafetensorsReader file(folder / "f");
  CHECK(file.batch_norm_prefixes() == Names{"bn", "bn_", "bn_2_", "bn_u_"});
  for (const std::string prefix : {"bn", "bn_", "bn_2_"})
    CHECK(testing::same_state(file.layer<BatchNorm2d<float>>(prefix), layer));
  CHECK(testing::same_state(file.layer<BatchNorm2d<float>>("bn_u_"), parameters_alone));
}

TEST_CASE("the statistics' half of a layer's name leads to the whole layer", "[safetensors]") {
  const Folder folder("halves");
  SafetensorsWriter writer;
  add_layer(writer,
            {"params/bn/scale", "params/bn/bias", "batch_stats/bn/mean", "batch_stats/bn/var"});
  writer.write(folder / "f");
  SafetensorsReader file(folder / "f");
  CHECK(is_that_layer(layer_of(file, "batch_stats/bn/")));
}

TEST_CASE("a prefix without its dot is an error that says so", "[safetensors]") {
  const Folder folder("dot");
  SafetensorsWriter writer;
  add_layer(writer, {"net.1.weight", "net.1.bias", "net.1.running_mean", "net.1.running_var"});
  add_layer(writer, {"net/gamma", "net/beta", "net/moving_mean", "net/moving_variance"});
  add_layer(writer, {"bn0_gamma", "bn0_beta", "bn0_moving_mean", "bn0_moving_var"});
  writer.add("net.10.", BatchNorm2d<float>(2)).write(folder / "f");
  SafetensorsReader file(folder / "f");
  const auto refuse = [&](const std::string& words, const auto& call) {
    check_throws<std::invalid_argument>({"[safetensors] ", ": " + words}, call);
  };
  const std::string words =
      "net.1: expected a prefix with its \".\", got one without it: write \"net.1.\"";
  refuse(words, [&] { static_cast<void>(layer_of(file, "net.1")); });
  refuse(words, [&] { static_cast<void>(file.layer<BatchNorm2d<float>>("net.1")); });
  refuse(words, [&] { static_cast<void>(file.state("net.1")); });
  BatchNorm2d<float> bn(2);
  check_refused<std::invalid_argument>(bn, {words}, [&] { file.load(bn, "net.1"); });
  refuse("net: expected a prefix with its \"/\"",
         [&] { static_cast<void>(layer_of(file, "net")); });
  refuse("bn0: expected a prefix with its \"_\"",
         [&] { static_cast<void>(layer_of(file, "bn0")); });
  refuse(
      "expected a batch-norm layer under the prefix \"net.2.\", got no such entry, or none with a "
      "number for each channel: batch_norm_prefixes()",
      [&] { static_cast<void>(layer_of(file, "net.2.")); });
}

TEST_CASE("a part that comes under two names is an error", "[safetensors]") {
  const Folder folder("twice");
  SafetensorsWriter writer;
  add_layer(writer, {"bn.scale", "bn.offset", "bn.mean", "bn.var"});
  add_two(writer, "bn.bias", 0);
  writer.write(folder / "f");
  SafetensorsReader file(folder / "f");
  check_throws<std::invalid_argument>({"bn.offset: expected one entry", "by another name too"},
                                      [&] { static_cast<void>(layer_of(file, "bn.")); });
}

TEMPLATE_TEST_CASE("a counter of any dtype is read if it is whole", "[safetensors]", std::int64_t,
                   std::int32_t, std::uint8_t, float, double, Eigen::half, Eigen::bfloat16) {
  const Folder folder("counter");
  const auto write = [&](double v, const Shape& shape) {
    SafetensorsWriter writer;
    add_layer(writer, {"bn.weight", "bn.bias", "bn.running_mean", "bn.running_var"});
    Eigen::Tensor<TestType, 1> counter(shape.empty() ? 1 : shape[0]);
    counter.setConstant(static_cast<TestType>(v));
    Eigen::Tensor<TestType, 0> number;
    number() = static_cast<TestType>(v);
    const std::string name = "bn.num_batches_tracked";
    (shape.empty() ? writer.add(name, number) : writer.add(name, counter)).write(folder / "f");
  };
  const auto refuse = [&](const std::string& words) {
    SafetensorsReader file(folder / "f");
    check_throws<std::invalid_argument>({"bn.num_batches_tracked: expected ", words},
                                        [&] { static_cast<void>(layer_of(file, "bn.")); });
  };
  for (const Shape& shape : {Shape{}, Shape{1}}) {
    write(7, shape);
    SafetensorsReader file(folder / "f");
    CHECK(layer_of(file, "bn.").num_batches_tracked() == 7);
  }
  write(7, {2});
  refuse("one number, got shape [2]");
  if constexpr (!std::is_same_v<TestType, std::uint8_t>) {
    write(-1, {});
    refuse("a count of batches, a whole number from 0 to 2^53, got -1 (");
  }
  if constexpr (!std::is_integral_v<TestType>) {
    write(2.5, {});
    refuse("got 2.5 (");
    write(std::numeric_limits<double>::infinity(), {});
    refuse("got inf (");
  }
}

TEST_CASE("whether there are gamma and beta is taken from the file", "[safetensors]") {
  const Folder folder("switches");
  write_layer(folder / "no_gamma", {"bn.weight"});
  write_layer(folder / "no_beta", {"bn.bias"});
  write_layer(folder / "bare", {"bn.weight", "bn.bias"});
  SafetensorsReader no_gamma(folder / "no_gamma"), no_beta(folder / "no_beta"),
      bare(folder / "bare");
  const auto a = layer_of(no_gamma, "bn."), b = layer_of(no_beta, "bn."), c = layer_of(bare, "bn.");
  CHECK_FALSE(a.options().scale);
  CHECK(a.beta() == Eigen::Vector2f(3, 4));
  CHECK_FALSE(b.options().shift);
  CHECK(b.gamma() == Eigen::Vector2f(1, 2));
  CHECK_FALSE((c.options().scale || c.options().shift));
  CHECK(c.running_var() == Eigen::Vector2f(7, 8));
}

TEST_CASE("statistics are not taken from the file, but have to be there", "[safetensors]") {
  const Folder folder("statistics");
  write_layer(folder / "f", {"bn.running_mean", "bn.running_var"});
  SafetensorsReader file(folder / "f");
  check_throws<std::invalid_argument>({"bn.running_mean: expected it"},
                                      [&] { static_cast<void>(layer_of(file, "bn.")); });
  Options options;
  options.track_running_stats = false;
  CHECK(layer_of(file, "bn.", options).gamma() == Eigen::Vector2f(1, 2));
}

TEST_CASE("a file that contradicts Options::scale or Options::shift is refused", "[safetensors]") {
  const Folder folder("contradicts");
  write_layer(folder / "f");
  SafetensorsReader file(folder / "f");
  Options no_scale, no_shift;
  no_scale.scale = false;
  no_shift.shift = false;
  const std::string gamma =
      "bn.weight: expected no such entry, for Options::scale is off: switch it on, or pass "
      "SwitchedOff::ignore";
  const std::string beta = "bn.bias: expected no such entry, for Options::shift is off";
  check_throws<std::invalid_argument>({gamma},
                                      [&] { static_cast<void>(layer_of(file, "bn.", no_scale)); });
  check_throws<std::invalid_argument>({beta, "SwitchedOff::ignore"},
                                      [&] { static_cast<void>(layer_of(file, "bn.", no_shift)); });
  BatchNorm2d<float> bn(2, no_scale);
  check_refused<std::invalid_argument>(bn, {gamma}, [&] { file.load(bn, "bn."); });

  write_layer(folder / "no_beta", {"bn.bias"});
  SafetensorsReader no_beta(folder / "no_beta");
  BatchNorm2d<float> all(2);
  check_refused<std::invalid_argument>(
      all,
      {"no_beta: bn.bias: expected it (or beta), got no such entry: switch Options::shift "
       "off if the model has none"},
      [&] { no_beta.load(all, "bn."); });
}

TEST_CASE("a gamma or a beta of the file is ignored if the caller says so", "[safetensors]") {
  const Folder folder("ignored");
  write_layer(folder / "f");
  SafetensorsReader file(folder / "f");
  Options no_scale, no_shift, bare;
  no_scale.scale = no_shift.shift = bare.scale = bare.shift = false;
  const auto fixed = layer_of(file, "bn.", no_scale, SwitchedOff::ignore);
  CHECK_FALSE(fixed.options().scale);
  CHECK(fixed.beta() == Eigen::Vector2f(3, 4));
  CHECK(fixed.running_mean() == Eigen::Vector2f(5, 6));
  const auto unshifted = layer_of(file, "bn.", no_shift, SwitchedOff::ignore);
  CHECK_FALSE(unshifted.options().shift);
  CHECK(unshifted.gamma() == Eigen::Vector2f(1, 2));
  const auto neither = layer_of(file, "bn.", bare, SwitchedOff::ignore);
  CHECK(neither.gamma().size() == 0);
  CHECK(neither.beta().size() == 0);
  BatchNorm2d<float> bn(2, bare);
  file.load(bn, "bn.", SwitchedOff::ignore);
  CHECK(bn.running_var() == Eigen::Vector2f(7, 8));
  BatchNorm2d<float> all(2);
  file.load(all, "bn.", SwitchedOff::ignore);
  CHECK(is_that_layer(all));
  bare.track_running_stats = false;
  BatchNorm2d<float> untracked(2, bare);
  file.load(untracked, "bn.", SwitchedOff::ignore);
  CHECK(untracked.running_var().size() == 0);
}
