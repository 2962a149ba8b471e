// SPDX-License-Identifier: MIT
// Tensors of every dtype, rank and storage order, in files and in memory.

#include <batchnorm/batchnorm.hpp>
#include <batchnorm/safetensors.hpp>
#include <cstdint>
#include <limits>
#include <stdexcept>
#include <utility>

#include "safetensors/files.hpp"
#include "support/catch.hpp"
#include "support/random.hpp"
#include "support/refused.hpp"

using batchnorm::BatchNorm1d;
using batchnorm::Options;
using batchnorm::SafetensorsBytes;
using batchnorm::SafetensorsReader;
using batchnorm::SafetensorsWriter;
using testing::check_throws;
using testing::Folder;
using testing::little_endian;

namespace {

std::string entry(const std::string& name, const std::string& dtype, const std::string& shape,
                  std::size_t begin, std::size_t end) {
  return "\"" + name + R"(":{"dtype":")" + dtype + R"(","shape":)" + shape +
         R"(,"data_offsets":[)" + std::to_string(begin) + "," + std::to_string(end) + "]}";
}

/// A file of one tensor a.
std::string file_of(const std::string& dtype, const std::string& shape, const std::string& data) {
  return testing::safetensors("{" + entry("a", dtype, shape, 0, data.size()) + "}", data);
}

/// A layer bn. of one channel, and a tensor q.
std::string layer_beside(const std::string& dtype, const std::string& shape, std::size_t bytes) {
  const std::string one = little_endian(0x3f800000, 4);
  return testing::safetensors("{" + entry("bn.weight", "F32", "[1]", 0, 4) + "," +
                                  entry("bn.bias", "F32", "[1]", 4, 8) + "," +
                                  entry("bn.running_mean", "F32", "[1]", 8, 12) + "," +
                                  entry("bn.running_var", "F32", "[1]", 12, 16) + "," +
                                  entry("q", dtype, shape, 16, 16 + bytes) + "}",
                              one + one + one + one + std::string(bytes, '\7'));
}

std::vector<unsigned char> bytes_of(const std::string& text) { return {text.begin(), text.end()}; }

/// The bytes that follow the header.
std::string data_of(const std::filesystem::path& path, std::size_t count) {
  const std::string all = testing::read_file(path);
  return all.substr(all.size() - count);
}

/// Numbers 0, 1, 2, ... in row-major order.
template <class X>
void count_up(X& x) {
  for (Eigen::Index r = 0; r < x.rows(); ++r) {
    for (Eigen::Index c = 0; c < x.cols(); ++c) x(r, c) = static_cast<float>(r * x.cols() + c);
  }
}

}  // namespace

TEST_CASE("a tensor of any dtype leaves the others of its file readable", "[safetensors]") {
  const Folder folder("dtypes");
  struct Case {
    const char *dtype, *shape;
    std::size_t bytes;
  };
  for (const Case& c : {Case{"C64", "[2]", 16}, Case{"F4", "[2,8]", 8}, Case{"F6_E2M3", "[4]", 3},
                        Case{"F6_E3M2", "[4]", 3}, Case{"F8_E8M0", "[2]", 2},
                        Case{"F8_E4M3FNUZ", "[2]", 2}, Case{"F8_E5M2FNUZ", "[2]", 2},
                        Case{"F8_E4M3", "[2]", 2}, Case{"NOT_YET_THERE", "[3]", 5}}) {
    INFO(c.dtype);
    testing::write_file(folder / "f", layer_beside(c.dtype, c.shape, c.bytes));
    SafetensorsReader file(folder / "f");
    CHECK(file.layer<BatchNorm1d<float>>("bn.", Options::pytorch()).gamma()[0] == 1);
    CHECK(file.entries().at("q").dtype == c.dtype);
    const SafetensorsBytes q = file.bytes("q");
    CHECK(q.dtype == c.dtype);
    CHECK(q.extents == file.entries().at("q").extents);
    CHECK(q.bytes == std::vector<unsigned char>(c.bytes, 7));
    check_throws<std::invalid_argument>(
        {"q: expected dtype F64, ", std::string(", got ") + c.dtype + ", which bytes() reads"},
        [&] {
          if (q.extents.size() == 1) static_cast<void>(file.vector<float>("q"));
          static_cast<void>(file.matrix<float>("q"));
        });
  }
}

TEMPLATE_TEST_CASE("integers come back from a file to the bit", "[safetensors]", std::int8_t,
                   std::int16_t, std::int32_t, std::int64_t, std::uint8_t, std::uint16_t,
                   std::uint32_t, std::uint64_t, bool) {
  using Limits = std::numeric_limits<TestType>;
  const Folder folder("integers");
  Eigen::Tensor<TestType, 2> x(3, 1);
  x(0, 0) = (Limits::min)(), x(1, 0) = TestType(1), x(2, 0) = (Limits::max)();
  SafetensorsWriter().add("x", x).write(folder / "f");
  SafetensorsReader file(folder / "f");
  const std::string sign = Limits::is_signed ? "I" : "U";
  CHECK(file.entries().at("x").dtype ==
        (std::is_same_v<TestType, bool> ? "BOOL" : sign + std::to_string(8 * sizeof(TestType))));
  const auto again = file.tensor<TestType, 2>("x");
  for (int i = 0; i < 3; ++i) CHECK(again(i, 0) == x(i, 0));
  CHECK(file.matrix<double>("x")(2, 0) == static_cast<double>((Limits::max)()));
}

TEST_CASE("long and long long are written by their size", "[safetensors]") {
  const Folder folder("long");
  const Eigen::Matrix<long, 1, 2> a(1, -2);
  const Eigen::Matrix<long long, 1, 2> b(3, -4);
  SafetensorsWriter().add("a", a).add("b", b).write(folder / "f");
  SafetensorsReader file(folder / "f");
  CHECK(file.entries().at("a").dtype == (sizeof(long) == 8 ? "I64" : "I32"));
  CHECK(file.entries().at("b").dtype == "I64");
  CHECK(file.vector<long>("a")[1] == -2);
  CHECK(file.vector<long long>("b")[1] == -4);
}

TEST_CASE("an integer that does not fit is refused exactly", "[safetensors]") {
  const Folder folder("fit");
  const auto is_read = [&](const auto& values, auto as) {
    SafetensorsWriter().add("x", values).write(folder / "f");
    SafetensorsReader file(folder / "f");
    try {
      return file.vector<decltype(as)>("x").size() == 1;
    } catch (const std::invalid_argument&) {
      return false;
    }
  };
  const auto one = [](auto v) { return Eigen::Matrix<decltype(v), 1, 1>(v); };
  constexpr auto largest = (std::numeric_limits<std::int64_t>::max)();
  CHECK(is_read(one(static_cast<std::uint64_t>(largest)), std::int64_t{}));
  CHECK_FALSE(is_read(one(static_cast<std::uint64_t>(largest) + 1), std::int64_t{}));
  CHECK(is_read(one(largest), std::uint64_t{}));
  CHECK_FALSE(is_read(one(std::int64_t{-1}), std::uint64_t{}));
  CHECK_FALSE(is_read(one(std::int8_t{-1}), std::uint8_t{}));
  CHECK_FALSE(is_read(one(std::int16_t{128}), std::int8_t{}));
  CHECK(is_read(one(std::int16_t{-128}), std::int8_t{}));
  CHECK(is_read(one(255.9f), std::uint8_t{}));
  CHECK_FALSE(is_read(one(256.f), std::uint8_t{}));
  CHECK(is_read(one(-0.9f), std::uint8_t{}));
  CHECK_FALSE(is_read(one(-1.f), std::uint8_t{}));
}

TEST_CASE("a byte of BOOL that is not 0 is true", "[safetensors]") {
  const Folder folder("bool");
  testing::write_file(folder / "f", file_of("BOOL", "[3]", std::string("\0\1\2", 3)));
  SafetensorsReader file(folder / "f");
  CHECK(file.vector<float>("a") == Eigen::Vector3f(0, 1, 1));
}

TEST_CASE("tensors of rank 0 and above 5 are written", "[safetensors]") {
  const Folder folder("ranks");
  Eigen::Tensor<float, 0, Eigen::RowMajor> rows;
  Eigen::Tensor<double, 0> columns;
  rows.setConstant(3.5f);
  columns.setConstant(-2);
  Eigen::Tensor<std::int32_t, 7> x(2, 1, 3, 1, 2, 1, 2);
  for (Eigen::Index i = 0; i < x.size(); ++i) x.data()[i] = static_cast<std::int32_t>(i);
  const Eigen::TensorFixedSize<float, Eigen::Sizes<2, 3>> fixed =
      Eigen::TensorFixedSize<float, Eigen::Sizes<2, 3>>().setConstant(4);
  SafetensorsWriter()
      .add("logit_scale", rows)
      .add("columns", columns)
      .add("sum", x.cast<float>().sum())
      .add("x", x)
      .add("fixed", fixed)
      .write(folder / "f");
  SafetensorsReader file(folder / "f");
  CHECK(file.entries().at("logit_scale").extents.empty());
  CHECK(file.tensor<float, 0>("logit_scale")() == 3.5f);
  CHECK(file.tensor<double, 0>("columns")() == -2);
  CHECK(file.tensor<float, 0>("sum")() == 23 * 24 / 2);
  CHECK(file.tensor<float, 2>("fixed")(1, 2) == 4);
  const auto again = file.tensor<std::int32_t, 7>("x");
  CHECK(again(1, 0, 2, 0, 1, 0, 0) == x(1, 0, 2, 0, 1, 0, 0));
  CHECK(again(0, 0, 1, 0, 0, 0, 1) == x(0, 0, 1, 0, 0, 0, 1));
}

TEST_CASE("elements are written in row-major order, wherever they lie", "[safetensors]") {
  const Folder folder("orders");
  Eigen::MatrixXf columns(3, 4);
  Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor> rows(3, 4);
  count_up(columns);
  count_up(rows);
  Eigen::MatrixXf large = Eigen::MatrixXf::Constant(7, 9, -1);
  auto block = large.block(2, 3, 3, 4);
  block = columns;
  const Eigen::Map<const Eigen::MatrixXf, 0, Eigen::OuterStride<>> map(&large(2, 3), 3, 4,
                                                                       Eigen::OuterStride<>(7));
  Eigen::Tensor<float, 2> tensor(3, 4);
  for (int i = 0; i < 12; ++i) tensor(i / 4, i % 4) = static_cast<float>(i);
  std::string expected;
  for (int i = 0; i < 12; ++i) {
    std::uint32_t bits;
    const auto v = static_cast<float>(i);
    std::memcpy(&bits, &v, 4);
    expected += little_endian(bits, 4);
  }
  const auto check = [&](auto&& x) {
    SafetensorsWriter().add("x", std::forward<decltype(x)>(x)).write(folder / "f");
    CHECK(SafetensorsReader(folder / "f").entries().at("x").extents ==
          std::vector<Eigen::Index>{3, 4});
    CHECK(data_of(folder / "f", 48) == expected);
  };
  check(columns);
  check(rows);
  check(block);
  check(map);
  check(tensor);
  check(Eigen::MatrixXf(columns));
  check(large.block(2, 3, 3, 4));
  check(columns * 1.f);
  check(tensor * 1.f);
  const Eigen::MatrixXf transposed = columns.transpose();
  check(transposed.transpose());
  const auto view = transposed.transpose();
  check(view);

  const auto row = columns.row(1);  // strided
  SafetensorsWriter().add("x", row).write(folder / "f");
  CHECK(SafetensorsReader(folder / "f").vector<float>("x") == Eigen::Vector4f(4, 5, 6, 7));
}

TEST_CASE("tensors longer than a piece are written and read whole", "[safetensors]") {
  const Folder folder("pieces");
  const Eigen::Index rows = 301, cols = 703;
  Eigen::MatrixXd x(rows, cols);
  testing::Random(1).fill(x);
  Eigen::Tensor<Eigen::half, 1> exact(1 << 15);  // one piece
  exact.setConstant(Eigen::half(2));
  SafetensorsWriter().add("x", x).add("exact", exact).write(folder / "f");
  SafetensorsReader file(folder / "f");
  CHECK(file.matrix<double>("x") == x);
  CHECK(file.matrix<double, Eigen::ColMajor>("x") == x);
  CHECK(file.tensor<float, 1>("exact")((1 << 15) - 1) == 2);
  CHECK(file.bytes("x").bytes.size() == sizeof(double) * rows * cols);
}

TEST_CASE("a matrix of a file has its rows and columns in either order", "[safetensors]") {
  const Folder folder("matrix");
  Eigen::MatrixXf w(2, 3);
  count_up(w);
  SafetensorsWriter().add("w", w).add("b", Eigen::Vector2f(1, 2)).write(folder / "f");
  SafetensorsReader file(folder / "f");
  const auto rows = file.matrix<float>("w");
  const auto columns = file.matrix<double, Eigen::ColMajor>("w");
  static_assert(decltype(rows)::IsRowMajor && !decltype(columns)::IsRowMajor);
  CHECK(rows == w);
  CHECK(columns == w.cast<double>());
  const Eigen::VectorXf b = file.vector<float>("b");
  CHECK(b == Eigen::Vector2f(1, 2));
  check_throws<std::invalid_argument>({"b: expected rank 2, got shape [2]"},
                                      [&] { static_cast<void>(file.matrix<float>("b")); });
  check_throws<std::invalid_argument>({"w: expected rank 1, got shape [2,3]"},
                                      [&] { static_cast<void>(file.vector<float>("w")); });
  check_throws<std::invalid_argument>({"c: expected it, got no such entry"},
                                      [&] { static_cast<void>(file.bytes("c")); });
}

TEST_CASE("a file is written again with one layer replaced, the others byte for byte the same",
          "[safetensors]") {
  const Folder folder("replace");
  SafetensorsWriter first;
  BatchNorm1d<float> bn(3);
  first.add("bn.", bn).add("w", Eigen::MatrixXd::Random(3, 5)).add_metadata("made by", "a test");
  first.add("none", Eigen::VectorXf()).add("flag", Eigen::Matrix<bool, 1, 1>(true));
  first.add("f4", SafetensorsBytes{"F4", {3, 2}, bytes_of("abc")});
  first.add("new", SafetensorsBytes{"NOT_YET_THERE", {2}, bytes_of("1234567")});
  first.add("c", SafetensorsBytes{"C64", {1}, bytes_of("complex8")});
  first.write(folder / "f");

  SafetensorsReader file(folder / "f");
  bn.gamma().setConstant(5);
  SafetensorsWriter again;
  for (const auto& [key, value] : file.metadata()) again.add_metadata(key, value);
  for (const auto& item : file.entries()) {
    if (item.first.rfind("bn.", 0) != 0) again.add(item.first, file.bytes(item.first));
  }
#if defined(_WIN32)  // does not replace a file that is open
  const auto path = folder / "again";
#else
  const auto path = folder / "f";
#endif
  again.add("bn.", bn).write(path);

  SafetensorsReader replaced(path);
  CHECK(replaced.metadata() == file.metadata());
  REQUIRE(replaced.entries().size() == 11);
  CHECK(replaced.layer<BatchNorm1d<float>>("bn.").gamma()[2] == 5);
  for (const char* name : {"w", "none", "flag", "f4", "new", "c", "bn.bias"}) {
    INFO(name);
    const SafetensorsBytes a = file.bytes(name), b = replaced.bytes(name);
    CHECK(a.dtype == b.dtype);
    CHECK(a.extents == b.extents);
    CHECK(a.bytes == b.bytes);
  }
  CHECK(replaced.bytes("new").bytes == bytes_of("1234567"));
}

TEST_CASE("bytes that do not have their shape are refused", "[safetensors]") {
  SafetensorsWriter writer;
  const auto refuse = [&](const SafetensorsBytes& x, const std::string& words) {
    check_throws<std::invalid_argument>({"[safetensors] x: expected " + words},
                                        [&] { writer.add("x", x); });
  };
  refuse({"F32", {2}, bytes_of("1234")}, "8 bytes for F32 of shape [2], got 4");
  refuse({"U8", {}, bytes_of("12")}, "1 bytes for U8 of shape [], got 2");
  refuse({"U8", {-1}, bytes_of("12")}, "a shape that fits a file, got shape [-1]");
  refuse({"F4", {-1}, bytes_of("12")}, "a shape that fits a file, got shape [-1]");
  const Eigen::Index half = Eigen::Index{1} << 32;
  refuse({"U8", {half, half}, {}}, "a shape that fits a file");
  refuse({"F4", {half, half}, {}}, "a shape that fits a file");
  CHECK_NOTHROW(writer.add("x", SafetensorsBytes{"U8", {2}, bytes_of("12")}));
}

TEST_CASE("a writer refers to tensors with a name and keeps the others", "[safetensors]") {
  const Folder folder("refers");
  SafetensorsWriter writer;
  Eigen::Vector2f named(1, 2), moved(3, 4);
  Eigen::VectorXf moved_to_heap = Eigen::VectorXf::Constant(1000, 5);
  BatchNorm1d<double> bn(2);
  SafetensorsBytes bytes{"U8", {1}, bytes_of("a")};
  writer.add("named", named).add("moved", std::move(moved)).add("bytes", bytes);
  const float* const heap = moved_to_heap.data();
  writer.add("heap", std::move(moved_to_heap)).add("sum", named + named).add("bn.", bn);
  writer.add("temporary", Eigen::Vector2f(7, 8));
  CHECK(heap[999] == 5);  // moved, not copied
  named[0] = 9;
  moved[0] = 9;
  bn.gamma().setConstant(9);
  bytes.bytes[0] = 'b';
  writer.write(folder / "f");
  SafetensorsReader file(folder / "f");
  CHECK(file.vector<float>("named") == Eigen::Vector2f(9, 2));
  CHECK(file.vector<float>("moved") == Eigen::Vector2f(3, 4));
  CHECK(file.vector<float>("sum") == Eigen::Vector2f(2, 4));
  CHECK(file.vector<float>("temporary") == Eigen::Vector2f(7, 8));
  CHECK(file.vector<float>("heap") == Eigen::VectorXf::Constant(1000, 5));
  CHECK(file.layer<BatchNorm1d<double>>("bn.").gamma()[0] == 1);
  CHECK(file.bytes("bytes").bytes == bytes_of("b"));
}
