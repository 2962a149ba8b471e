// SPDX-License-Identifier: MIT
// Layers and tensors to safetensors files and back.

#include <batchnorm/batchnorm.hpp>
#include <batchnorm/safetensors.hpp>

#include "safetensors/one_layer.hpp"
#include "support/catch.hpp"

using batchnorm::BatchNorm1d, batchnorm::BatchNorm2d, batchnorm::BatchNorm3d;
using batchnorm::load_safetensors, batchnorm::save_safetensors;
using batchnorm::Momentum, batchnorm::Options, batchnorm::VarianceEstimate;
using batchnorm::SafetensorsReader, batchnorm::SafetensorsWriter;
using testing::all_metadata, testing::Folder, testing::little_endian, testing::same_bits;
using testing::one_channel, testing::random_layer, testing::same_layer;

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
      R"({"__metadata__":{"bn.channel_axis":"first","bn.eps":"0.001",)"
      R"("bn.momentum":"weight_of_new 0.010000000000000009","bn.non_finite":"skip_update",)"
      R"("bn.running_variance":"population","bn.single_value":"accept"},)"
      R"("bn.bias":{"data_offsets":[8,12],"dtype":"F32","shape":[1]},)"
      R"("bn.num_batches_tracked":{"data_offsets":[0,8],"dtype":"I64","shape":[]},)"
      R"("bn.running_mean":{"data_offsets":[12,16],"dtype":"F32","shape":[1]},)"
      R"("bn.running_var":{"data_offsets":[16,20],"dtype":"F32","shape":[1]},)"
      R"("bn.weight":{"data_offsets":[20,24],"dtype":"F32","shape":[1]},)"
      R"("h":{"data_offsets":[24,36],"dtype":"F16","shape":[2,3]}})";
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

  std::size_t entries = 0;
  for (const auto& [name, entry] : SafetensorsReader(folder / "net").entries()) {
    entries += !name.empty() && !entry.dtype.empty();
  }
  SafetensorsReader file(folder / "net");
  CHECK(entries == file.entries().size());
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

TEST_CASE("a layer comes back with the options that it had", "[safetensors]") {
  const Folder folder("options");
  using batchnorm::ChannelAxis, batchnorm::NonFinite, batchnorm::SingleValue;
  for (const auto single : {SingleValue::reject, SingleValue::use_running, SingleValue::accept}) {
    for (const auto bad : {NonFinite::skip_update, NonFinite::propagate, NonFinite::reject}) {
      for (const auto axis : {ChannelAxis::first, ChannelAxis::last}) {
        Options options;
        options.channel_axis = axis, options.single_value = single, options.non_finite = bad;
        SafetensorsWriter().add("bn.", BatchNorm2d<float>(2, options)).write(folder / "f");
        const Options again =
            SafetensorsReader(folder / "f").layer<BatchNorm2d<float>>("bn.").options();
        CHECK(again.channel_axis == axis);
        CHECK(again.single_value == single);
        CHECK(again.non_finite == bad);
      }
    }
  }
}

TEST_CASE("a layer that takes another's place in a file has its own options", "[safetensors]") {
  const Folder folder("replaced");
  Options old;
  old.channel_axis = batchnorm::ChannelAxis::last;
  old.single_value = batchnorm::SingleValue::accept;
  old.non_finite = batchnorm::NonFinite::propagate;
  SafetensorsWriter().add("bn.", BatchNorm2d<float>(2, old)).write(folder / "f");
  SafetensorsWriter again;
  {
    const SafetensorsReader file(folder / "f");
    for (const auto& [key, value] : file.metadata()) again.add_metadata(key, value);
  }
  again.add("bn.", BatchNorm2d<float>(2)).write(folder / "f");
  const Options now = SafetensorsReader(folder / "f").layer<BatchNorm2d<float>>("bn.").options();
  CHECK(now.channel_axis == batchnorm::ChannelAxis::first);
  CHECK(now.single_value == batchnorm::SingleValue::reject);
  CHECK(now.non_finite == batchnorm::NonFinite::skip_update);
}

TEST_CASE("a file of nothing is one", "[safetensors]") {
  const Folder folder("nothing");
  SafetensorsWriter().write(folder / "f");
  CHECK(testing::read_file(folder / "f") == testing::safetensors("{}      ", ""));
  SafetensorsReader file(folder / "f");
  CHECK(file.entries().empty());
  CHECK(file.metadata().empty());
}
