// SPDX-License-Identifier: MIT
// The folder that fashion_mnist and claims write their results to.
#pragma once

#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <string>
#include <system_error>

namespace fashion_mnist {

/// Before the training, so that no hour of it is lost to a folder that cannot be made.
inline void make_folder(const std::string& program, const std::filesystem::path& folder) {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error) {
    throw std::runtime_error("[" + program + "] the folder " + folder.string() +
                             " cannot be made (" + error.message() + "); name another with --out.");
  }
}

/// Calls write(stream) on a new file and checks that all of it arrived.
template <class Write>
void write_file(const std::string& program, const std::filesystem::path& path, const Write& write) {
  std::ofstream out(path);
  write(out);
  out.close();
  if (!out) {
    throw std::runtime_error("[" + program + "] " + path.string() +
                             " cannot be written; name another folder with --out.");
  }
}

}  // namespace fashion_mnist
