// SPDX-License-Identifier: MIT
// Files that lie: each is an error, found without reading outside of it and without taking memory
// for what it does not hold. The sanitizers watch these tests too. Last, what good calls take and leave.

#include <batchnorm/batchnorm.hpp>
#include <batchnorm/safetensors.hpp>
#include <stdexcept>

#include "safetensors/files.hpp"
#include "support/allocations.hpp"
#include "support/catch.hpp"
#include "support/random.hpp"
#include "support/refused.hpp"

using batchnorm::BatchNorm1d, batchnorm::Options;
using batchnorm::SafetensorsBytes, batchnorm::SafetensorsReader, batchnorm::SafetensorsWriter;
using testing::check_throws, testing::Folder, testing::little_endian, testing::safetensors;

namespace {

std::string good_file() {
  const Folder folder("hostile_good");
  batchnorm::save_safetensors(folder / "f", BatchNorm1d<float>(3));
  return testing::read_file(folder / "f");
}

/// Reads the file and all that it holds.
void read_all(const std::filesystem::path& path) {
  SafetensorsReader file(path);
  for (const auto& [name, entry] : file.entries()) {
    if (entry.extents.size() == 1) static_cast<void>(file.tensor<double, 1>(name));
    if (entry.extents.size() == 2) static_cast<void>(file.tensor<float, 2>(name));
  }
  static_cast<void>(file.layer<BatchNorm1d<float>>());
}

void check_hostile(const std::string& bytes, const std::string& words) {
  const Folder folder("hostile");
  testing::write_file(folder / "f", bytes);
  check_throws<std::invalid_argument>({"[safetensors]", words}, [&] { read_all(folder / "f"); });
}

std::string entry(const std::string& name, const std::string& dtype, const std::string& shape,
                  const std::string& offsets) {
  return "\"" + name + R"(":{"dtype":")" + dtype + R"(","shape":)" + shape + R"(,"data_offsets":)" +
         offsets + "}";
}

}  // namespace

TEST_CASE("a file cut anywhere is an error", "[hostile]") {
  const Folder folder("cut");
  const std::string good = good_file();
  testing::write_file(folder / "f", good);
  CHECK_NOTHROW(read_all(folder / "f"));
  for (std::size_t size = 0; size < good.size(); ++size) {
    INFO("cut to " << size << " bytes of " << good.size());
    testing::write_file(folder / "f", good.substr(0, size));
    CHECK_THROWS_AS(SafetensorsReader(folder / "f"), std::invalid_argument);
  }
  testing::write_file(folder / "f", good + "x");
  CHECK_THROWS_AS(SafetensorsReader(folder / "f"), std::invalid_argument);
}

TEST_CASE("a file with any byte changed is read within its bounds", "[hostile]") {
  const Folder folder("changed");
  const std::string good = good_file();
  testing::Random random(1);
  int refused = 0;
  for (std::size_t i = 0; i < good.size(); ++i) {
    for (const unsigned change : {1u, 0x80u, 1 + static_cast<unsigned>(random.bits() % 255)}) {
      std::string bad = good;
      bad[i] = static_cast<char>(static_cast<unsigned char>(bad[i]) ^ change);
      testing::write_file(folder / "f", bad);
      try {
        read_all(folder / "f");
      } catch (const std::invalid_argument&) {
        ++refused;
      }
    }
  }
  CHECK(refused > static_cast<int>(good.size()));  // most; a changed number cannot be told
}

TEST_CASE("a file of torch.save is recognized", "[hostile]") {
  check_hostile("PK\3\4 and the rest of a zip file", "write it with safetensors.torch.save_file");
}

TEST_CASE("a header length beyond the file is an error and takes no memory", "[hostile]") {
  testing::largest_allocation = 0;
  for (const std::uint64_t length :
       {std::uint64_t{3}, std::uint64_t{100}, std::uint64_t{1} << 31, std::uint64_t{1} << 63,
        ~std::uint64_t{0}, ~std::uint64_t{0} - 7}) {
    check_hostile(little_endian(length, 8) + "{}", "expected a header within the file");
  }
  CHECK(testing::largest_allocation < 1 << 20);
  check_hostile("", "expected 8 bytes and a header, got 0 bytes");
  check_hostile("1234567", "expected 8 bytes and a header, got 7 bytes");
}

TEST_CASE("a header beyond the format's limit is an error", "[hostile]") {
  const Folder folder("limit");
  testing::write_file(folder / "f", little_endian(100'000'001, 8));
  std::filesystem::resize_file(folder / "f", 100'000'100);  // sparse
  testing::largest_allocation = 0;
  check_throws<std::invalid_argument>({"and up to 100000000, got one of 100000001"},
                                      [&] { read_all(folder / "f"); });
  CHECK(testing::largest_allocation < 1 << 20);
}

TEST_CASE("ranges that overlap, leave gaps or leave the data are errors", "[hostile]") {
  const std::string data(16, '\0');
  const auto two = [&](const std::string& first, const std::string& second) {
    return safetensors(
        "{" + entry("a", "F32", "[2]", first) + "," + entry("b", "F32", "[2]", second) + "}", data);
  };
  const Folder folder("ranges");
  testing::write_file(folder / "f", two("[8,16]", "[0,8]"));
  CHECK_NOTHROW(SafetensorsReader(folder / "f"));
  const std::string filled = "expected tensors without gaps and overlaps in the data";
  check_hostile(two("[0,8]", "[0,8]"), filled);
  check_hostile(two("[0,8]", "[4,12]"), filled);
  check_hostile(two("[4,12]", "[8,16]"), filled);
  check_hostile(safetensors("{" + entry("a", "F32", "[2]", "[0,8]") + "}", data), filled);
  check_hostile(safetensors("{" + entry("a", "F32", "[2]", "[8,16]") + "}", data), filled);
  check_hostile(safetensors("{}", data), filled);
  const std::string within = "expected offsets within the 16 bytes of data";
  check_hostile(two("[0,8]", "[8,17]"), within);
  check_hostile(two("[0,8]", "[16,8]"), within);
  check_hostile(two("[0,8]", "[18446744073709551608,18446744073709551615]"), within);
}

TEST_CASE("shapes that do not fit their bytes are errors", "[hostile]") {
  const std::string data(8, '\0');
  const auto one = [&](const std::string& shape) {
    return safetensors("{" + entry("a", "F32", shape, "[0,8]") + "}", data);
  };
  check_hostile(one("[3]"), "a: expected 12 bytes for F32 of shape [3], got 8");
  check_hostile(one("[]"), "a: expected 4 bytes for F32 of shape [], got 8");
  check_hostile(one("[2,0]"), "a: expected 0 bytes for F32 of shape [2,0], got 8");
  check_hostile(safetensors("{" + entry("a", "U8", "[9]", "[0,8]") + "}", data),
                "a: expected 9 bytes for U8 of shape [9], got 8");
  const std::string fits = "a: expected a shape that fits a file";
  check_hostile(one("[4611686018427387906]"), fits);  // * 4 = 2^64 + 8
  check_hostile(one("[2147483649,2147483648,2147483648]"), fits);
  check_hostile(one("[18446744073709551615]"), fits);
  check_hostile(one("[0,9223372036854775807,9223372036854775807]"), fits);
  const std::string whole = "a: expected dtype, shape and data_offsets of whole numbers";
  for (const char* shape : {"[-2]", "[2.0]", "[2e0]", "[true]", "[null]", "[\"2\"]", "2", "{}",
                            "[99999999999999999999]"}) {
    check_hostile(one(shape), whole);
  }
}

TEST_CASE("a dtype that is not read is an error when its tensor is asked for", "[hostile]") {
  const std::string numbers =
      "a: expected dtype F64, F32, F16, BF16, I8 to I64, U8 to U64 or BOOL, got ";
  for (const char* dtype : {"F31", "", "C64", "F4", "F8_E4M3"}) {
    const std::string shape = std::string(dtype) == "F8_E4M3" ? "[8]" : "[1]";
    check_hostile(safetensors("{" + entry("a", dtype, shape, "[0,8]") + "}", std::string(8, '\0')),
                  numbers + dtype + ", which bytes() reads");
  }
}

TEST_CASE("a shape of an unknown dtype has to fit a file too", "[hostile]") {
  for (const char* shape :
       {"[9223372036854775807,2]", "[0,9223372036854775807,2]", "[18446744073709551615]"}) {
    check_hostile(safetensors("{" + entry("a", "F4", shape, "[0,8]") + "}", std::string(8, '\0')),
                  "a: expected a shape that fits a file");
  }
  check_hostile(safetensors("{" + entry("a", "F4", "[16]", "[0,9]") + "}", std::string(8, '\0')),
                "a: expected offsets within the 8 bytes of data");
  // One that fits, but not in memory, is refused before memory is asked for.
  check_hostile(
      safetensors("{" + entry("a", "F4", "[1099511627776]", "[0,8]") + "}", std::string(8, '\0')),
      "a: expected dtype F64");
}

TEST_CASE("a counter of a dtype that is no number is an error", "[hostile]") {
  const Folder folder("counter");
  const Eigen::VectorXf one = Eigen::VectorXf::Ones(1);
  SafetensorsWriter writer;
  for (const char* name : {"weight", "bias", "running_mean", "running_var"}) writer.add(name, one);
  writer.add("num_batches_tracked", SafetensorsBytes{"F4", {}, {1}}).write(folder / "f");
  SafetensorsReader file(folder / "f");
  check_throws<std::invalid_argument>({"num_batches_tracked: expected dtype F64, ", "got F4"}, [&] {
    static_cast<void>(file.layer<BatchNorm1d<float>>("", Options()));
  });
}

TEST_CASE("a key that comes twice is an error, at every depth", "[hostile]") {
  const std::string data(8, '\0');
  check_hostile(safetensors("{" + entry("a", "F32", "[1]", "[0,4]") + "," +
                                entry("a", "F32", "[1]", "[4,8]") + "}",
                            data),
                "expected each key once in the header, got a again");
  check_hostile(
      safetensors(R"({"a":{"dtype":"F32","shape":[2],"shape":[2],"data_offsets":[0,8]}})", data),
      "expected each key once in the header, got shape again");
  check_hostile(safetensors(R"({"__metadata__":{"x":"1","x":"2"}})", ""),
                "expected each key once in the header, got x again");
}

TEST_CASE("a header that is not the format's JSON is an error", "[hostile]") {
  const auto header = [](const std::string& text, const std::string& words) {
    check_hostile(safetensors(text, ""), words);
  };
  header("", "expected a header that starts with {");
  header("[]", "expected a header that starts with {");
  header(" {}", "expected a header that starts with {");
  for (const char* text : {"{", "{}}", "{} x", "{\"a\"}", "{\"a\":}", "{'a':1}", "{\"a\xff\":{}}",
                           "{\"a\":1,}", "{/**/}", "{\"a\":NaN}"}) {
    header(text, "expected a header of JSON, got something else");
  }
  header(std::string("{}\0{\"a\":1}", 10), "expected a header of text, got a zero in it");
  const std::string three = "a: expected dtype, shape and data_offsets";
  header(R"({"a":1})", three);
  header(R"({"a":[]})", three);
  header(R"({"a":{}})", three);
  header(R"({"a":{"dtype":"F32","shape":[0]}})", three);
  header(R"({"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0],"more":1}})", three);
  header(R"({"a":{"dtype":4,"shape":[0],"data_offsets":[0,0]}})", three);
  header(R"({"a":{"dtype":"F32","shape":[0],"data_offsets":[0]}})", three);
  header(R"({"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0,0]}})", three);
  for (const char* offsets : {"[0,0.5]", "[0,-1]", "{}", "null"}) {
    header("{" + entry("a", "F32", "[0]", offsets) + "}", three);
  }
  header(R"({"__metadata__":[]})", "expected metadata of texts by name");
  header(R"({"__metadata__":{"x":1}})", "expected metadata of texts, got no text for x");
}

TEST_CASE("deep JSON is an error, at any depth", "[hostile]") {
  for (const int depth : {3, 100, 1'000'000}) {
    std::string lists, objects = "{\"a\":";
    for (int d = 0; d < depth; ++d) lists += '[', objects += "{\"a\":";
    check_hostile(safetensors("{\"a\":" + lists, ""), "expected lists of numbers in the header");
    check_hostile(safetensors(objects, ""), "expected lists of numbers in the header");
    check_hostile(safetensors(R"({"a":{"shape":)" + lists, ""),
                  "expected lists of numbers in the header, got them nested");
  }
}

TEST_CASE("writing and reading take memory for a piece, not for the tensors", "[hostile]") {
  const Folder folder("memory");
  Eigen::MatrixXf columns = Eigen::MatrixXf::Ones(1000, 1000);
  Eigen::Tensor<double, 3> tensor(100, 100, 100);
  tensor.setConstant(2);
  SafetensorsBytes bytes{"F8_E8M0", {1000000}, std::vector<unsigned char>(1000000)};
  testing::largest_allocation = 0;
  SafetensorsWriter().add("m", columns).add("t", tensor).add("b", bytes).write(folder / "f");
  CHECK(testing::largest_allocation < 200'000);
  SafetensorsReader file(folder / "f");
  testing::largest_allocation = 0;
  CHECK(file.matrix<std::uint8_t>("m")(999, 999) == 1);
  if (testing::counts_allocations) CHECK(testing::largest_allocation < 1'200'000);
}

TEST_CASE("a layer whose name is taken adds nothing", "[hostile]") {
  const Folder folder("taken");
  SafetensorsWriter writer;
  BatchNorm1d<float> bn(2);
  writer.add("bn.running_var", Eigen::Vector2f(1, 2));
  check_throws<std::invalid_argument>({"expected a new name, got bn.running_var again"},
                                      [&] { writer.add("bn.", bn); });
  writer.write(folder / "f");
  SafetensorsReader file(folder / "f");
  CHECK(file.entries().size() == 1);
  CHECK(file.metadata().empty());
}
