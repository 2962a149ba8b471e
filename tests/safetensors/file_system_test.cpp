// SPDX-License-Identifier: MIT
// What the file system refuses, and what a failed write leaves.

#include <batchnorm/batchnorm.hpp>
#include <batchnorm/safetensors.hpp>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <stdexcept>
#if __has_include(<sys/resource.h>)
#include <sys/resource.h>
#include <sys/stat.h>
#endif

#include "safetensors/one_layer.hpp"
#include "support/catch.hpp"
#include "support/refused.hpp"

using batchnorm::BatchNorm1d, batchnorm::save_safetensors;
using batchnorm::SafetensorsReader, batchnorm::SafetensorsWriter;
using testing::check_throws, testing::Folder, testing::random_layer;

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

#if __has_include(<sys/resource.h>)
TEST_CASE("a link stays a link, and a file keeps its permissions", "[safetensors]") {
  namespace fs = std::filesystem;
  const Folder folder("link");
  const auto layer = random_layer<BatchNorm1d<float>>(5);
  save_safetensors(folder / "real", BatchNorm1d<float>(5));
  fs::permissions(folder / "real", fs::perms::owner_read | fs::perms::owner_write);
  fs::create_symlink("real", folder / "link");
  save_safetensors(folder / "link", layer);
  CHECK(fs::is_symlink(folder / "link"));
  CHECK(testing::same_state(SafetensorsReader(folder / "real").layer<BatchNorm1d<float>>(), layer));
  CHECK(fs::status(folder / "real").permissions() ==
        (fs::perms::owner_read | fs::perms::owner_write));
  fs::create_symlink("new", folder / "to new");
  fs::create_symlink(folder / "to new", folder / "to link");  // an absolute one
  save_safetensors(folder / "to link", layer);
  CHECK(fs::is_symlink(folder / "to new"));
  CHECK(fs::is_regular_file(fs::symlink_status(folder / "new")));
  fs::create_symlink("round", folder / "round");
  check_throws<std::runtime_error>(
      {(folder / "round").string() + " cannot be written: its links lead to each other"},
      [&] { save_safetensors(folder / "round", layer); });
}
TEST_CASE("what is no regular file is not replaced", "[safetensors]") {
  const Folder folder("pipe");
  REQUIRE(mkfifo((folder / "pipe").c_str(), 0600) == 0);
  check_throws<std::runtime_error>({"pipe cannot be written: it is no regular file"}, [&] {
    save_safetensors(folder / "pipe", BatchNorm1d<float>(5));
  });
  CHECK(std::filesystem::is_fifo(folder / "pipe"));
}
#endif

TEST_CASE("a file of a name in other letters is written", "[safetensors]") {
  const Folder folder("letters");
  const auto layer = random_layer<BatchNorm1d<float>>(5);
  const std::filesystem::path path = folder / std::filesystem::u8path("\xc3\xa9 \xe3\x83\x8d");
  save_safetensors(path, layer);
  CHECK(testing::same_state(SafetensorsReader(path).layer<BatchNorm1d<float>>(), layer));
}

TEST_CASE("a file that shrinks while it is open is an error", "[safetensors]") {
  const Folder folder("shrinks");
  Eigen::Tensor<double, 1> short_x(100), x(100000);  // x: more than a stream reads ahead
  short_x.setConstant(8), x.setConstant(7);
  SafetensorsWriter().add("short", short_x).add("x", x).write(folder / "f");
  SafetensorsReader file(folder / "f");
  std::filesystem::resize_file(folder / "f", 400000);
  check_throws<std::runtime_error>({"x cannot be read"},
                                   [&] { static_cast<void>(file.tensor<double, 1>("x")); });
  CHECK((file.tensor<double, 1>("short"))(99) == 8);  // what the file still has can be read
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
