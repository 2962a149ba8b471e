// SPDX-License-Identifier: MIT
// Runs a program as a user does.
#pragma once

#include <sys/wait.h>

#include <cstdlib>
#include <string>

#include "fashion_files.hpp"
#include "text.hpp"

namespace testing {

struct Ended {
  int code;
  std::string out, err;
};

/// Its output goes to files in the folder.
inline Ended run_program(const Folder& folder, const std::string& program,
                         const std::string& arguments) {
  const std::string out = folder.file("stdout"), err = folder.file("stderr");
  const std::string command = "'" + program + "' " + arguments + " >'" + out + "' 2>'" + err + "'";
  const int status = std::system(command.c_str());
  REQUIRE(WIFEXITED(status));
  return {WEXITSTATUS(status), read_text(out), read_text(err)};
}

}  // namespace testing
