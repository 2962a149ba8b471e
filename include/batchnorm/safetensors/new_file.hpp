// SPDX-License-Identifier: MIT
#pragma once

#include <cerrno>
#include <cstddef>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <random>
#include <stdexcept>
#include <string>
#include <system_error>
#include <utility>
#if defined(_WIN32)
#include <io.h>
#elif __has_include(<unistd.h>)
#include <unistd.h>
#endif

#include "batchnorm/error.hpp"

namespace batchnorm::detail {

/// A new file beside `path`, with the permissions of the old one, that finish() renames to it. So
/// at any time there is either the whole old file or the whole new one. Without finish(), the new
/// one is removed. A link stays, and the file that it leads to is replaced or made.
class NewFile {
 public:
  explicit NewFile(const std::filesystem::path& path) : path_(path) {
    std::error_code error;
    for (int links = 0; std::filesystem::is_symlink(path_, error); ++links) {
      if (links == 40) give_up("its links lead to each other");
      path_ = path_.parent_path() / std::filesystem::read_symlink(path_, error);
    }
    const auto old = std::filesystem::status(path_, error);
    if (exists(old) && !is_regular_file(old)) give_up("it is no regular file");
    beside_ = path_;
    beside_ += "." + std::to_string(std::random_device()()) + ".tmp";
    errno = 0;
#if defined(_WIN32)  // where a name in char has not all letters
    file_ = _wfopen(beside_.c_str(), L"wbx");
#else
    file_ = std::fopen(beside_.c_str(), "wbx");
#endif
    if (!file_) give_up(std::strerror(errno));
    if (exists(old)) std::filesystem::permissions(beside_, old.permissions(), error);
  }
  NewFile(const NewFile&) = delete;
  NewFile& operator=(const NewFile&) = delete;
  ~NewFile() {
    if (file_) std::fclose(file_);
    std::error_code error;
    if (!beside_.empty()) std::filesystem::remove(beside_, error);
  }

  void put(const char* bytes, std::size_t count) {
    if (std::fwrite(bytes, 1, count, file_) != count) give_up(std::strerror(errno));
  }
  void finish() {
    bool done = std::fflush(file_) == 0;
    // The bytes must be on the disk before the name is, in case the machine fails.
#if defined(_WIN32)
    done = done && _commit(_fileno(file_)) == 0;
#elif __has_include(<unistd.h>)
    done = done && fsync(fileno(file_)) == 0;  // GCOV_EXCL_BR_LINE: on a disk that fails
#endif
    const bool closed = std::fclose(std::exchange(file_, nullptr)) == 0;
    if (!done || !closed) give_up(std::strerror(errno));  // GCOV_EXCL_BR_LINE: on a disk that fails
    std::error_code error;
    std::filesystem::rename(beside_, path_, error);
    if (error) give_up(error.message());  // GCOV_EXCL_LINE: on a disk that fails
    beside_.clear();
  }

 private:
  [[noreturn]] void give_up(const std::string& reason) const {
    fail<std::runtime_error>("[safetensors] " + path_.string() + " cannot be written: " + reason);
  }

  std::filesystem::path path_, beside_;
  std::FILE* file_;
};

}  // namespace batchnorm::detail
