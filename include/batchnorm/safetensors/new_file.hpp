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
/// one is removed. A link stays, and the file that it leads to is replaced.
class NewFile {
 public:
  explicit NewFile(const std::filesystem::path& path) : path_(path) {
    std::error_code error;
    if (std::filesystem::is_symlink(path, error)) path_ = weakly_canonical(path, error);
    beside_ = path_;
    beside_ += "." + std::to_string(std::random_device()()) + ".tmp";
    errno = 0;
    file_ = std::fopen(beside_.string().c_str(), "wbx");
    if (!file_) give_up(std::strerror(errno));
    const auto old = std::filesystem::status(path_, error);
    if (std::filesystem::exists(old))
      std::filesystem::permissions(beside_, old.permissions(), error);
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
    if (error) give_up(error.message());
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
