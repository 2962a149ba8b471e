// SPDX-License-Identifier: MIT
// The examples of inference, run as a user runs them, on images that a network can learn.
#include <sys/wait.h>

#include <cstdlib>

#include "fashion_files.hpp"

namespace {

/// What the command prints; fails the test unless it ends with the code.
std::string printed(const testing::Folder& folder, const std::string& command, int code = 0) {
  const std::string out = folder.file("out");
  const int status = std::system((command + " >'" + out + "' 2>&1").c_str());
  const std::string text = testing::read_text(out);
  INFO(command << "\n" << text);
  REQUIRE(WIFEXITED(status));
  REQUIRE(WEXITSTATUS(status) == code);
  return text;
}

/// The number after `words`.
double number_after(const std::string& text, const std::string& words) {
  const std::size_t at = text.find(words);
  INFO(text);
  REQUIRE(at != std::string::npos);
  return std::strtod(text.c_str() + at + words.size(), nullptr);
}

}  // namespace

TEST_CASE("threads that share a folded layer get the layer's own answers", "[inference]") {
  const testing::Folder folder;
  CHECK(number_after(printed(folder, "'" EXAMPLES_FOLDER "/shared_inference'"),
                     "Verdict: of 1600 answers, ") == 0);
}

TEST_CASE("a folded network predicts what the network with batch norms predicted", "[inference]") {
  const testing::Folder folder;
  testing::write_bands(folder, 600, 200);
  for (const std::string model : {"lenet", "convbn"}) {
    const std::string text =
        printed(folder, "'" EXAMPLES_FOLDER "/fold_for_inference' --epochs 2 --batch 50 --model " +
                            model + " --data '" + folder.path() + "'");
    CHECK(number_after(text, "Verdict: both give the same class for ") == 200);
    CHECK(number_after(text, "images; their logits of up to ") > 0.1);
    // Two networks of some ten layers in float: a few dozen roundings of 6e-8 of the largest logit.
    CHECK(number_after(text, "differ by at most ") <=
          1e-5 * number_after(text, "logits of up to "));
    CHECK(number_after(text, "folded ") == (model == "lenet" ? 11 : 7));  // layers
  }
}

#if defined(LOAD_PYTORCH_WEIGHTS)
TEST_CASE("a network that PyTorch trained predicts the same here", "[inference]") {
  const testing::Folder folder;
  testing::write_bands(folder, 600, 200);
  const std::string file = folder.file("lenet.safetensors"),
                    data = " --data '" + folder.path() + "'";
  printed(folder, "/usr/bin/python3 '" LOAD_PYTORCH_WEIGHTS "/train.py' '" + file + "'" + data);
  const std::string program = "'" EXAMPLES_FOLDER "/load_pytorch_weights' ";
  const std::string text = printed(folder, program + "'" + file + "'" + data);
  CHECK(number_after(text, "Verdict: the same class for ") >= 199);  // one may lie on the border
  CHECK(number_after(text, "of 200 images") >= 0);
  CHECK(printed(folder, program, 1).find("train.py") != std::string::npos);
  CHECK(printed(folder, program + "'" + folder.file("none") + "'", 1)
            .find("expected a file to read") != std::string::npos);
}
#endif
