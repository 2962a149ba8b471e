// SPDX-License-Identifier: MIT
// The progress line on terminals of different widths, and the verdict after the training.
#include <algorithm>
#include <sstream>

#include "../support/catch.hpp"
#include "progress.hpp"
#include "report.hpp"

namespace {

/// Of UTF-8: every byte except those that continue a character.
std::size_t columns_of(const std::string& text) {
  return static_cast<std::size_t>(std::count_if(
      text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) >> 6) != 2; }));
}

fashion_mnist::ProgressLine halfway() {
  fashion_mnist::ProgressLine line;
  line.label = "epoch 2/3";
  line.fraction = 0.5;
  line.seconds_left = 83;
  line.rate = 12345;
  line.measure = "accuracy";
  line.status = "with BN 0.832, without BN 0.452";
  return line;
}

std::string verdict_of(const std::vector<std::pair<std::string, double>>& networks) {
  std::vector<fashion_mnist::Run> runs;
  for (const auto& [network, test_accuracy] : networks) {
    runs.emplace_back();
    runs.back().history.network = network;
    runs.back().history.epochs = {{2.0, 0.1, 0.1, 5.0}, {1.0, 0.5, test_accuracy, 5.0}};
  }
  std::ostringstream out;
  fashion_mnist::print_verdict(out, runs);
  return out.str();
}

}  // namespace

TEST_CASE("the progress line fits and shows both networks from 60 columns on", "[fashion]") {
  for (const char* label : {"epoch 2/3", "epoch 10/10", "epoch 100/100"}) {
    for (std::size_t columns = 59; columns <= 200; ++columns) {
      auto line = halfway();
      line.label = label;
      line.seconds_left = 623;
      const std::string text = fashion_mnist::text_of(line, columns);
      CAPTURE(text, columns);
      REQUIRE(columns_of(text) <= columns);
      REQUIRE(text.find("with BN 0.832, without BN 0.452") != std::string::npos);
      REQUIRE(text.find(label) == 0);
      REQUIRE(text.find(" 50 %") != std::string::npos);
    }
  }
}

TEST_CASE("a narrow progress line leaves out what matters less", "[fashion]") {
  using fashion_mnist::text_of;
  REQUIRE(text_of(halfway(), 59) == "epoch 2/3  50 %  1:23 left  with BN 0.832, without BN 0.452");
  REQUIRE(text_of(halfway(), 68) ==
          "epoch 2/3 ████····  50 %  1:23 left  with BN 0.832, without BN 0.452");
  REQUIRE(text_of(halfway(), 77) ==
          "epoch 2/3 ████····  50 %  1:23 left  accuracy with BN 0.832, without BN 0.452");
  REQUIRE(text_of(halfway(), 93) ==
          "epoch 2/3 ████····  50 %  1:23 left  12345 images/s  "
          "accuracy with BN 0.832, without BN 0.452");
  REQUIRE(text_of(halfway(), 20) == "with BN 0.832, witho");
}

TEST_CASE("a wide progress line has a longer bar, up to 32 columns", "[fashion]") {
  const std::string narrow = fashion_mnist::text_of(halfway(), 93);
  REQUIRE(columns_of(fashion_mnist::text_of(halfway(), 99)) == 99);
  REQUIRE(columns_of(fashion_mnist::text_of(halfway(), 500)) == columns_of(narrow) + 32 - 8);
}

TEST_CASE("the verdict is one sentence with the test accuracies of the last epoch", "[fashion]") {
  REQUIRE(verdict_of({{"with BN", 0.848}, {"without BN", 0.656}}) ==
          "\nVerdict: after 2 epochs, batch normalization raises the test accuracy: 0.848 with it, "
          "0.656 without it.\n");
  REQUIRE(verdict_of({{"with BN", 0.5}, {"without BN", 0.75}}) ==
          "\nVerdict: after 2 epochs, batch normalization LOWERS the test accuracy: 0.500 with it, "
          "0.750 without it.\n");
  REQUIRE(verdict_of({{"with BN", 0.5001}, {"without BN", 0.4999}}) ==
          "\nVerdict: after 2 epochs, batch normalization does NOT change the test accuracy: 0.500 "
          "with it, 0.500 without it.\n");
  REQUIRE(verdict_of({{"without BN", 0.656}}) ==
          "\nVerdict: after 2 epochs, the network without BN has a test accuracy of 0.656.\n");
}
