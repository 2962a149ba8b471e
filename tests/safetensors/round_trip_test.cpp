// SPDX-License-Identifier: MIT
// Layers and tensors to safetensors files and back.

#include <batchnorm/batchnorm.hpp>
#include <batchnorm/safetensors.hpp>
#include <cerrno>
#include <cmath>
#include <csignal>
#include <cstring>
#include <stdexcept>
#if __has_include(<sys/resource.h>)
#include <sys/resource.h>
#endif

#include "safetensors/files.hpp"
#include "support/catch.hpp"
#include "support/random.hpp"
#include "support/refused.hpp"

using batchnorm::BatchNorm1d;
using batchnorm::BatchNorm2d;
using batchnorm::BatchNorm3d;
using batchnorm::load_safetensors;
using batchnorm::Momentum;
using batchnorm::Options;
using batchnorm::SafetensorsReader;
using batchnorm::SafetensorsWriter;
using batchnorm::save_safetensors;
using batchnorm::VarianceEstimate;
using testing::check_refused;
using testing::check_throws;
using testing::Folder;
using testing::little_endian;
using testing::same_bits;

namespace {

template <class Layer>
Layer random_layer(Eigen::Index channels, const Options& options = {}) {
  Layer bn(channels, options);
  testing::Random random(static_cast<std::uint64_t>(channels));
  random.fill(bn.gamma());
  random.fill(bn.beta());
  random.fill(bn.running_mean());
  random.fill(bn.running_var());
  bn.running_var() = bn.running_var().array().square();
  bn.num_batches_tracked() = 12345678901;
  return bn;
}

template <class Layer>
bool same_layer(const Layer& a, const Layer& b) {
  return same_bits(a.gamma(), b.gamma()) && same_bits(a.beta(), b.beta()) &&
         same_bits(a.running_mean(), b.running_mean()) &&
         same_bits(a.running_var(), b.running_var()) &&
         a.num_batches_tracked() == b.num_batches_tracked();
}

/// A file by hand: a layer of one channel, and metadata.
std::string one_channel(const std::string& metadata) {
  return testing::safetensors(
      "{" + (metadata.empty() ? "" : "\"__metadata__\":{" + metadata + "},") +
          R"("bn.weight":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},)"
          R"("bn.bias":{"dtype":"F64","shape":[1],"data_offsets":[4,12]},)"
          R"("bn.running_mean":{"dtype":"F16","shape":[1],"data_offsets":[12,14]},)"
          R"("bn.running_var":{"dtype":"BF16","shape":[1],"data_offsets":[14,16]},)"
          R"("bn.num_batches_tracked":{"dtype":"I64","shape":[],"data_offsets":[16,24]}}   )",
      // 1.5, -0.1, 1.5 and 1.5, by their IEEE bits; 258
      little_endian(0x3fc00000, 4) + little_endian(0xbfb999999999999a, 8) +
          little_endian(0x3e00, 2) + little_endian(0x3fc0, 2) + little_endian(258, 8));
}
const char* const all_metadata =
    R"("bn.eps":"1e-3","bn.momentum":"weight_of_new 0.25","bn.running_variance":"population")";

}  // namespace

TEMPLATE_TEST_CASE("a layer comes back from its file to the bit", "[safetensors]",
                   BatchNorm1d<float>, BatchNorm2d<double>, BatchNorm3d<Eigen::half>,
                   BatchNorm1d<Eigen::bfloat16>) {
  const Folder folder("round_trip");
  const auto path = folder / "bn.safetensors";
  const auto bn = random_layer<TestType>(7);
  save_safetensors(path, bn);
  TestType copy(7);
  load_safetensors(path, copy);
  CHECK(same_layer(bn, copy));
  save_safetensors(path, random_layer<TestType>(9));  // over the old file
  CHECK(SafetensorsReader(path).layer<TestType>().num_features() == 9);
  CHECK(folder.files() == 1);
}

TEST_CASE("a file that was put together by hand is read", "[safetensors]") {
  const Folder folder("by_hand");
  testing::write_file(folder / "f", one_channel(all_metadata));
  SafetensorsReader file(folder / "f");
  const auto bn = file.layer<BatchNorm2d<double>>("bn.");
  CHECK(bn.gamma()[0] == 1.5);
  CHECK(bn.beta()[0] == -0.1);
  CHECK(bn.running_mean()[0] == 1.5);
  CHECK(bn.running_var()[0] == 1.5);
  CHECK(bn.num_batches_tracked() == 258);
  CHECK(bn.options().eps == 1e-3);
  CHECK(bn.options().momentum == Momentum::weight_of_new(0.25));
  CHECK(bn.options().running_variance == VarianceEstimate::population);
  CHECK(file.tensor<float, 1>("bn.bias")(0) == -0.1f);
  CHECK(file.tensor<double, 0>("bn.num_batches_tracked")() == 258);
  CHECK(file.entries().size() == 5);
  CHECK(file.entries().at("bn.running_mean").dtype == "F16");
}

TEST_CASE("a file that was written is what the format says", "[safetensors]") {
  const Folder folder("written");
  BatchNorm1d<float> bn(1, Options::keras());
  bn.gamma()[0] = 1.5f;
  bn.num_batches_tracked() = 3;
  Eigen::Matrix<Eigen::half, 2, 3> h;
  for (int i = 0; i < 6; ++i) h(i / 3, i % 3) = static_cast<Eigen::half>(i);
  SafetensorsWriter().add("h", h).add("bn.", bn).write(folder / "f");
  const std::string bytes = testing::read_file(folder / "f");
  const std::string header =
      R"({"__metadata__":{"bn.eps":"0.001","bn.momentum":"weight_of_new 0.010000000000000009",)"
      R"("bn.running_variance":"population"},)"
      R"("bn.num_batches_tracked":{"dtype":"I64","shape":[],"data_offsets":[0,8]},)"
      R"("bn.bias":{"dtype":"F32","shape":[1],"data_offsets":[8,12]},)"
      R"("bn.running_mean":{"dtype":"F32","shape":[1],"data_offsets":[12,16]},)"
      R"("bn.running_var":{"dtype":"F32","shape":[1],"data_offsets":[16,20]},)"
      R"("bn.weight":{"dtype":"F32","shape":[1],"data_offsets":[20,24]},)"
      R"("h":{"dtype":"F16","shape":[2,3],"data_offsets":[24,36]}})";
  REQUIRE(bytes.substr(8, header.size()) == header);
  const std::string data = bytes.substr(bytes.size() - 36);
  CHECK(bytes.size() % 8 == 36 % 8);  // the header is padded
  CHECK(data == little_endian(3, 8) + little_endian(0, 4) + little_endian(0, 4) +
                    little_endian(0x3f800000, 4) + little_endian(0x3fc00000, 4) +
                    little_endian(0, 2) + little_endian(0x3c00, 2) + little_endian(0x4000, 2) +
                    little_endian(0x4200, 2) + little_endian(0x4400, 2) + little_endian(0x4500, 2));
}

TEST_CASE("bfloat16 is written as the upper halves of floats", "[safetensors]") {
  const Folder folder("bfloat16");
  Eigen::Tensor<Eigen::bfloat16, 1> x(3);
  x.setValues({Eigen::bfloat16(1.5f), Eigen::bfloat16(-2.f), Eigen::bfloat16(0x1p100f)});
  SafetensorsWriter().add("x", x).write(folder / "f");
  const std::string bytes = testing::read_file(folder / "f");
  CHECK(bytes.substr(bytes.size() - 6) ==
        little_endian(0x3fc0, 2) + little_endian(0xc000, 2) + little_endian(0x7180, 2));
  SafetensorsReader file(folder / "f");
  CHECK(file.entries().at("x").dtype == "BF16");
  CHECK(file.tensor<float, 1>("x")(0) == 1.5f);
  CHECK(file.tensor<Eigen::bfloat16, 1>("x")(1) == x(1));
  CHECK(file.tensor<double, 1>("x")(2) == 0x1p100);
}

TEST_CASE("a file that shrinks while it is open is an error", "[safetensors]") {
  const Folder folder("shrinks");
  Eigen::Tensor<double, 1> x(100000);  // more than a stream reads ahead
  x.setConstant(7);
  SafetensorsWriter().add("x", x).write(folder / "f");
  SafetensorsReader file(folder / "f");
  std::filesystem::resize_file(folder / "f", 400000);
  check_throws<std::runtime_error>({"x cannot be read"},
                                   [&] { static_cast<void>(file.tensor<double, 1>("x")); });
}

TEST_CASE("a network's layers and weights share a file", "[safetensors]") {
  const Folder folder("network");
  Options options = Options::flax();
  options.shift = false;
  const auto bn1 = random_layer<BatchNorm2d<float>>(4);
  const auto bn10 = random_layer<BatchNorm2d<float>>(5, options);
  options.track_running_stats = false;
  options.momentum = Momentum::cumulative();
  const auto bare = random_layer<BatchNorm1d<double>>(6, options);
  Eigen::Tensor<double, 3> conv(2, 3, 4);  // column-major
  for (Eigen::Index i = 0; i < 24; ++i) conv.data()[i] = static_cast<double>(i);
  const Eigen::Matrix<std::int64_t, 1, 3> numbers(1, -2, 3);
  SafetensorsWriter writer;
  writer.add("a.bn1.", bn1).add("a.bn10.", bn10).add("b.", bare);
  writer.add("conv", conv).add("numbers", numbers).add_metadata("made by", "a test");
  writer.write(folder / "net");

  SafetensorsReader file(folder / "net");
  CHECK(file.metadata().at("made by") == "a test");
  CHECK(same_layer(file.layer<BatchNorm2d<float>>("a.bn1."), bn1));
  const auto again = file.layer<BatchNorm2d<float>>("a.bn10.");
  CHECK(same_layer(again, bn10));
  CHECK_FALSE(again.options().shift);
  CHECK(again.options().momentum == options.flax().momentum);
  const auto bare_again = file.layer<BatchNorm1d<double>>("b.");
  CHECK(same_bits(bare_again.gamma(), bare.gamma()));
  CHECK_FALSE(bare_again.options().track_running_stats);
  CHECK(bare_again.options().momentum.is_cumulative());
  const auto rows = file.tensor<float, 3>("conv");
  CHECK(rows(1, 2, 3) == static_cast<float>(conv(1, 2, 3)));
  CHECK(rows(1, 0, 2) == static_cast<float>(conv(1, 0, 2)));
  CHECK(file.tensor<double, 1>("numbers")(1) == -2);

  Options last = file.options("a.bn1.");
  last.channel_axis = batchnorm::ChannelAxis::last;
  CHECK(same_layer(file.layer<BatchNorm2d<float>>("a.bn1.", last), bn1));
}

TEST_CASE("a file without metadata needs options to be stated", "[safetensors]") {
  const Folder folder("stated");
  testing::write_file(folder / "f", one_channel(""));
  SafetensorsReader file(folder / "f");
  const auto refuse = [&](const std::string& words, const auto& call) {
    check_throws<std::invalid_argument>({"[safetensors] " + (folder / "f").string() + ": " + words},
                                        call);
  };
  refuse("bn.eps: expected it in the file's metadata, got none: state options",
         [&] { static_cast<void>(file.layer<BatchNorm1d<float>>("bn.")); });
  CHECK(file.layer<BatchNorm1d<float>>("bn.", Options::keras()).options().eps == 1e-3);

  testing::write_file(folder / "f", one_channel(R"("bn.eps":"1e-3")"));
  SafetensorsReader partly(folder / "f");
  refuse("bn.momentum: expected it in the file's metadata",
         [&] { static_cast<void>(partly.layer<BatchNorm1d<float>>("bn.")); });
  CHECK(partly.layer<BatchNorm1d<float>>("bn.", Options::keras()).gamma()[0] == 1.5f);
}

TEST_CASE("options that are stated have to agree with the file", "[safetensors]") {
  const Folder folder("agree");
  testing::write_file(folder / "f", one_channel(all_metadata));
  Options options;
  options.eps = 0.001;
  options.momentum = Momentum::weight_of_new(0.25);
  options.running_variance = VarianceEstimate::population;
  BatchNorm1d<float> right(1, options);
  load_safetensors(folder / "f", right, "bn.");
  CHECK(right.gamma()[0] == 1.5f);

  const auto refuse = [&](const Options& wrong, const std::string& words) {
    BatchNorm1d<float> bn(1, wrong);
    check_refused<std::invalid_argument>(bn, {words},
                                         [&] { load_safetensors(folder / "f", bn, "bn."); });
  };
  Options wrong = options;
  wrong.eps = 1e-5;
  refuse(wrong, "bn.eps: expected the layer to have 0.001, got one of 1e-05; build it with");
  wrong = options;
  wrong.momentum = Momentum::cumulative();
  refuse(wrong,
         "bn.momentum: expected the layer to have weight_of_new 0.25, got one of cumulative");
  wrong = options;
  wrong.running_variance = VarianceEstimate::unbiased;
  refuse(wrong, "bn.running_variance: expected the layer to have population, got one of unbiased");
}

TEST_CASE("what is no layer is refused, and the layer stays as it was", "[safetensors]") {
  const Folder folder("no_layer");
  const auto path = folder / "f";
  const auto refuse = [&](const std::vector<std::string>& words) {
    BatchNorm1d<float> bn = random_layer<BatchNorm1d<float>>(1);
    check_refused<std::invalid_argument>(bn, words, [&] { load_safetensors(path, bn, "bn."); });
  };
  const auto replaced = [](std::string text, const std::string& from, const std::string& to) {
    return text.replace(text.find(from), from.size(), to);
  };
  const std::string good = one_channel("");
  testing::write_file(path, replaced(good, "bn.weight", "bn.height"));
  refuse({"[load_state_dict] bn.height: expected an entry of a batch-norm layer"});
  testing::write_file(path, replaced(good, "bn.weight", "BN.weight"));
  refuse(
      {"bn.weight: expected it (or gamma, or scale), got no such entry; build the layer with "
       "Options::scale = false"});
  testing::write_file(path, replaced(good, "\"I64\"", "\"F64\""));
  refuse({"bn.num_batches_tracked: expected a count of batches", "got 1.27469e-321 (F64)"});
  testing::write_file(path, replaced(good, "\"F64\"", "\"I64\""));
  refuse({"bn.bias: expected dtype F64, F32, F16 or BF16, got I64"});
  testing::write_file(path, replaced(good, "\"F32\"", "\"I32\""));
  refuse({"bn.weight: expected dtype F64, F32, F16 or BF16, got I32"});
  SafetensorsWriter()
      .add("bn.weight", Eigen::Matrix2f::Ones())
      .add("bn.bias", Eigen::Vector2f::Ones())
      .write(path);
  refuse({"bn.weight: expected a number for each channel, got shape [2,2]"});
  const std::string bits = little_endian(0x3fc0, 2) + little_endian(258, 8);
  testing::write_file(path, replaced(good, bits, little_endian(0x7fc0, 2) + little_endian(1, 8)));
  refuse({"[load_state_dict] bn.running_var: expected variances", "got nan in channel 0"});
  testing::write_file(path, replaced(good, bits, little_endian(0xbfc0, 2) + little_endian(1, 8)));
  refuse({"[load_state_dict] bn.running_var: expected variances", "got -1.5 in channel 0"});

  testing::write_file(path, good);
  SafetensorsReader file(path);
  check_throws<std::invalid_argument>(
      {"a.weight: expected a batch-norm layer, got no such entry"},
      [&] { static_cast<void>(file.layer<BatchNorm1d<float>>("a.", Options::pytorch())); });
  SafetensorsWriter()
      .add("conv.weight", Eigen::Matrix2f::Ones().eval())
      .add("none.weight", Eigen::VectorXf())
      .write(folder / "others");
  SafetensorsReader others(folder / "others");
  for (const std::string prefix : {"conv.", "none."}) {
    check_throws<std::invalid_argument>(
        {prefix + "weight: expected a batch-norm layer, got no such entry"},
        [&] { static_cast<void>(others.layer<BatchNorm1d<float>>(prefix, Options::pytorch())); });
  }
  check_throws<std::invalid_argument>({": weight: expected it, got no such entry"},
                                      [&] { static_cast<void>(file.tensor<float, 1>("weight")); });
  check_throws<std::invalid_argument>({"bn.weight: expected rank 2, got shape [1]"}, [&] {
    static_cast<void>(file.tensor<float, 2>("bn.weight"));
  });
  for (const char* bad : {R"("bn.eps":"small")", R"("bn.eps":"1e999")", R"("bn.momentum":"0.1")",
                          R"("bn.momentum":"weight_of_new x")", R"("bn.running_variance":"yes")"}) {
    testing::write_file(path, one_channel(bad));
    refuse({std::string(bad).substr(1, 5), ": expected", "got \""});
  }
}

TEST_CASE("numbers that an integer cannot be are refused, others cut", "[safetensors]") {
  const Folder folder("integers");
  SafetensorsWriter()
      .add("fit", Eigen::Vector3d(-0x1p63, 2.75, 0x1p62))
      .add("huge", Eigen::Vector2d(1, 0x1p63))
      .add("low", Eigen::Vector2f(1, -1e30f))
      .add("nan", Eigen::Vector2f(1, std::numeric_limits<float>::quiet_NaN()))
      .add("largest", Eigen::Matrix<std::int64_t, 1, 1>(std::numeric_limits<std::int64_t>::max()))
      .write(folder / "f");
  SafetensorsReader file(folder / "f");
  const auto fit = file.tensor<std::int64_t, 1>("fit");
  CHECK(fit(0) == std::numeric_limits<std::int64_t>::min());
  CHECK(fit(1) == 2);
  CHECK(fit(2) == std::int64_t{1} << 62);
  CHECK(file.tensor<std::int64_t, 1>("largest")(0) == std::numeric_limits<std::int64_t>::max());
  const std::string expected = ": expected integers below 9.22337e+18, got ";
  const auto refuse = [&](const std::string& words, const auto& call) {
    check_throws<std::invalid_argument>({words}, call);
  };
  refuse("huge" + expected + "9.2",
         [&] { static_cast<void>(file.tensor<std::int64_t, 1>("huge")); });
  refuse("low" + expected + "-1", [&] { static_cast<void>(file.tensor<std::int64_t, 1>("low")); });
  refuse("nan" + expected + "nan", [&] { static_cast<void>(file.tensor<std::int64_t, 1>("nan")); });
  refuse("largest: expected integers below 2.14748e+09, got 9.2",
         [&] { static_cast<void>(file.tensor<std::int32_t, 1>("largest")); });
}

TEST_CASE("a name is written once", "[safetensors]") {
  SafetensorsWriter writer;
  writer.add("a", Eigen::VectorXf::Ones(2));
  check_throws<std::invalid_argument>({"[safetensors] expected a new name, got a again"},
                                      [&] { writer.add("a", Eigen::VectorXf::Ones(3)); });
  check_throws<std::invalid_argument>(
      {"__metadata__"}, [&] { writer.add("__metadata__", Eigen::VectorXf::Ones(3)); });
}

TEST_CASE("a file is replaced whole or not at all", "[safetensors]") {
  const Folder folder("atomic");
  const auto path = folder / "f";
  const auto bn = random_layer<BatchNorm1d<float>>(5);
  save_safetensors(path, bn);
  const std::string before = testing::read_file(path);
  const auto fails = [&](const std::filesystem::path& to) {
    check_throws<std::runtime_error>(
        {"[safetensors] " + to.string() + " cannot be written: "},
        [&] { save_safetensors(to, random_layer<BatchNorm1d<float>>(9)); });
  };
  SECTION("into no folder") { fails(folder / "none" / "f"); }
  SECTION("over a folder") {
    std::filesystem::create_directory(folder / "g");
    testing::write_file(folder / "g" / "keep", "");
    fails(folder / "g");
    std::filesystem::remove_all(folder / "g");
  }
#if __has_include(<sys/resource.h>)
  SECTION("on a full disk, as a limit on the size of files makes it") {
    std::signal(SIGXFSZ, SIG_IGN);
    rlimit old{};
    REQUIRE(getrlimit(RLIMIT_FSIZE, &old) == 0);
    rlimit small = old;
    small.rlim_cur = 300;
    REQUIRE(setrlimit(RLIMIT_FSIZE, &small) == 0);
    fails(path);
    SafetensorsWriter large;  // fails before all has been handed over
    large.add("x", Eigen::VectorXd::Ones(100000).eval());
    check_throws<std::runtime_error>({"cannot be written: " + std::string(std::strerror(EFBIG))},
                                     [&] { large.write(path); });
    REQUIRE(setrlimit(RLIMIT_FSIZE, &old) == 0);
  }
#endif
  CHECK(testing::read_file(path) == before);
  CHECK(folder.files() == 1);  // no half-written one is left
}

TEST_CASE("a file of nothing is one", "[safetensors]") {
  const Folder folder("nothing");
  SafetensorsWriter().write(folder / "f");
  CHECK(testing::read_file(folder / "f") == testing::safetensors("{}      ", ""));
  SafetensorsReader file(folder / "f");
  CHECK(file.entries().empty());
  CHECK(file.metadata().empty());
}

TEST_CASE("a file that cannot be read is said to be", "[safetensors]") {
  const Folder folder("unreadable");
  check_throws<std::runtime_error>(
      {"[safetensors] " + (folder / "none").string() + ": expected a file"},
      [&] { SafetensorsReader file(folder / "none"); });
  check_throws<std::runtime_error>({"expected a file"},
                                   [&] { SafetensorsReader file(folder / "."); });
#if __has_include(<sys/resource.h>)
  testing::write_file(folder / "f", testing::safetensors("{}", ""));
  rlimit old{};
  REQUIRE(getrlimit(RLIMIT_NOFILE, &old) == 0);
  rlimit none = old;
  none.rlim_cur = 0;  // may be opened from here on
  REQUIRE(setrlimit(RLIMIT_NOFILE, &none) == 0);
  check_throws<std::runtime_error>({"/f: expected a file that can be read"},
                                   [&] { SafetensorsReader file(folder / "f"); });
  REQUIRE(setrlimit(RLIMIT_NOFILE, &old) == 0);
#endif
}
