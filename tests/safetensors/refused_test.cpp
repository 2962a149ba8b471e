// SPDX-License-Identifier: MIT
// What a file or a call gets wrong: options, entries and numbers that are refused.

#include "support/refused.hpp"

#include <batchnorm/batchnorm.hpp>
#include <batchnorm/safetensors.hpp>
#include <limits>
#include <stdexcept>

#include "safetensors/one_layer.hpp"
#include "support/catch.hpp"

using batchnorm::BatchNorm1d, batchnorm::load_safetensors;
using batchnorm::Momentum, batchnorm::Options, batchnorm::VarianceEstimate;
using batchnorm::SafetensorsReader, batchnorm::SafetensorsWriter;
using testing::all_metadata, testing::one_channel, testing::random_layer;
using testing::check_refused, testing::check_throws;
using testing::Folder, testing::little_endian;

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

  testing::write_file(folder / "f", one_channel(R"("bn.eps":"1e-3","bn.momentum":"cumulative")"));
  SafetensorsReader nearly(folder / "f");
  refuse("bn.running_variance: expected it in the file's metadata",
         [&] { static_cast<void>(nearly.layer<BatchNorm1d<float>>("bn.")); });
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
  wrong = options;
  wrong.momentum = Momentum::weight_of_new(0.25 + 1e-9);
  refuse(wrong, "to have weight_of_new 0.25, got one of weight_of_new 0.250000001");

  BatchNorm1d<float> bn(1, Options::onnx());  // 1 - 0.9 is not 0.1 to the last bit
  Options near = Options::onnx();
  near.momentum = Momentum::weight_of_new(0.1);
  save_safetensors(folder / "f", BatchNorm1d<float>(1, near));
  CHECK_NOTHROW(load_safetensors(folder / "f", bn));
}

TEST_CASE("what another program writes about a whole file is not taken for options",
          "[safetensors]") {
  const Folder folder("another_program");
  SafetensorsWriter writer;
  writer.add_metadata("momentum", "0.9").add_metadata("eps", "small");
  for (const char* name : {"weight", "bias", "running_mean", "running_var"})
    writer.add(name, Eigen::VectorXf(Eigen::VectorXf::Constant(1, 1.5f)));
  writer.write(folder / "f");
  SafetensorsReader file(folder / "f");
  CHECK(file.layer<BatchNorm1d<float>>("", Options::pytorch()).gamma()[0] == 1.5f);
  check_throws<std::invalid_argument>({"eps: expected it in the file's metadata"},
                                      [&] { static_cast<void>(file.options()); });
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
  refuse({path.string() + ": bn.height: expected an entry of a batch-norm layer"});
  testing::write_file(path, replaced(good, "bn.weight", "BN.weight"));
  refuse(
      {"bn.weight: expected it (or gamma, or scale), got no such entry: switch Options::scale off "
       "if "
       "the model has none"});
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
  refuse({path.string() + ": bn.running_var: expected variances", "got nan in channel 0"});
  testing::write_file(path, replaced(good, bits, little_endian(0xbfc0, 2) + little_endian(1, 8)));
  refuse({path.string() + ": bn.running_var: expected variances", "got -1.5 in channel 0"});
}

TEST_CASE("an entry that a file does not have is named", "[safetensors]") {
  const Folder folder("no_entry");
  testing::write_file(folder / "f", one_channel(""));
  SafetensorsReader file(folder / "f");
  check_throws<std::invalid_argument>(
      {"expected a batch-norm layer under the prefix \"a.\", got no such entry"},
      [&] { static_cast<void>(file.layer<BatchNorm1d<float>>("a.", Options::pytorch())); });
  SafetensorsWriter()
      .add("conv.weight", Eigen::Matrix2f::Ones().eval())
      .add("none.weight", Eigen::VectorXf())
      .write(folder / "others");
  SafetensorsReader others(folder / "others");
  for (const std::string prefix : {"conv.", "none."}) {
    check_throws<std::invalid_argument>(
        {"expected a batch-norm layer under the prefix \"" + prefix + "\", got no such entry"},
        [&] { static_cast<void>(others.layer<BatchNorm1d<float>>(prefix, Options::pytorch())); });
  }
  check_throws<std::invalid_argument>({": weight: expected it, got no such entry"},
                                      [&] { static_cast<void>(file.tensor<float, 1>("weight")); });
  check_throws<std::invalid_argument>({"bn.weight: expected rank 2, got shape [1]"}, [&] {
    static_cast<void>(file.tensor<float, 2>("bn.weight"));
  });
}

TEST_CASE("names and metadata that are no UTF-8 are refused, and leave no file", "[safetensors]") {
  const Folder folder("no_text");
  const std::string latin1 = "caf\xe9", utf8 = "caf\xc3\xa9";
  const auto write = [&](const std::string& name, const std::string& value) {
    SafetensorsWriter()
        .add(name, Eigen::Vector2f(1, 2))
        .add_metadata("x", value)
        .write(folder / "f");
  };
  for (const auto& [name, value] : {std::pair(latin1, utf8), std::pair(utf8, latin1)}) {
    check_throws<std::invalid_argument>({"[safetensors] expected names and metadata in UTF-8"},
                                        [&, n = name, v = value] { write(n, v); });
  }
  CHECK(folder.files() == 0);
  write(utf8, utf8);
  CHECK(SafetensorsReader(folder / "f").entries().count(utf8) == 1);
}

TEST_CASE("metadata that is no option is refused", "[safetensors]") {
  const Folder folder("no_option");
  auto bn = random_layer<BatchNorm1d<float>>(1);
  for (const char* bad :
       {R"("bn.eps":"small")", R"("bn.eps":"1e999")", R"("bn.eps":"-1")", R"("bn.momentum":"0.1")",
        R"("bn.momentum":"weight_of_new 1.5")", R"("bn.momentum":"weight_of_new -1")",
        R"("bn.momentum":"weight_of_new x")", R"("bn.running_variance":"yes")",
        R"("bn.channel_axis":"1")", R"("bn.single_value":"2")", R"("bn.non_finite":"ignore")"}) {
    testing::write_file(folder / "f", one_channel(bad));
    check_refused<std::invalid_argument>(bn,
                                         {std::string(bad).substr(1, 5), ": expected", "got \""},
                                         [&] { load_safetensors(folder / "f", bn, "bn."); });
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
  const std::string expected = ": expected integers from -9.22337e+18 to below 9.22337e+18, got ";
  const auto refuse = [&](const std::string& words, const auto& call) {
    check_throws<std::invalid_argument>({words}, call);
  };
  refuse("huge" + expected + "9.2",
         [&] { static_cast<void>(file.tensor<std::int64_t, 1>("huge")); });
  refuse("low" + expected + "-1", [&] { static_cast<void>(file.tensor<std::int64_t, 1>("low")); });
  refuse("nan" + expected + "nan", [&] { static_cast<void>(file.tensor<std::int64_t, 1>("nan")); });
  refuse("largest: expected integers from -2.14748e+09 to below 2.14748e+09, got 9.2",
         [&] { static_cast<void>(file.tensor<std::int32_t, 1>("largest")); });
}

TEST_CASE("a name is written once", "[safetensors]") {
  SafetensorsWriter writer;
  writer.add("a", Eigen::VectorXf::Ones(2));
  check_throws<std::invalid_argument>({"[safetensors] expected a new name, got a again"},
                                      [&] { writer.add("a", Eigen::VectorXf::Ones(3)); });
  check_throws<std::invalid_argument>({"__metadata__, which the format reserves"}, [&] {
    writer.add("__metadata__", Eigen::VectorXf::Ones(3));
  });
}
