// SPDX-License-Identifier: MIT
#include <algorithm>
#include <limits>
#include <sstream>

#include "../support/catch.hpp"
#include "plot.hpp"
#include "text.hpp"

namespace {

using fashion_mnist::History;
using testing::count;

History history(const std::string& network, double loss) {
  History result;
  result.network = network;
  for (int i = 0; i < 40; ++i) {
    result.curve.push_back({(i + 0.5) / 20.0, loss / (1.0 + i), 0.5 + 0.01 * i});
  }
  result.epochs = {{loss, 0.6, 0.55, 4.0}, {0.5 * loss, 0.8, 0.75, 4.0}};
  return result;
}

std::string svg(const std::vector<History>& histories) {
  std::ostringstream out;
  fashion_mnist::write_svg(out, "A <title> & more", "below", histories);
  return out.str();
}

}  // namespace

TEST_CASE("the picture holds the curves, the test points, the labels and the title", "[fashion]") {
  const std::string picture = svg({history("with BN", 2.0), history("without BN", 3.0)});
  REQUIRE(picture.rfind("<svg xmlns='http://www.w3.org/2000/svg'", 0) == 0);
  REQUIRE(picture.substr(picture.size() - 7) == "</svg>\n");
  REQUIRE(count(picture, "A &lt;title> &amp; more") == 2);  // drawn, and for screen readers
  REQUIRE(count(picture, "<polyline class='line") == 4);    // accuracy and loss of each
  REQUIRE(count(picture, "class='dot f") == 4);             // two epochs of each
  REQUIRE(count(picture, ">with BN: training 0.800, test 0.750<") == 1);
  REQUIRE(count(picture, ">with BN: 1.000<") == 1);  // the loss of the last epoch
  REQUIRE(count(picture, ">epoch<") == 2);
  for (const char* tag : {"text", "style", "title", "svg"}) {
    REQUIRE(count(picture, "<" + std::string(tag)) == count(picture, "</" + std::string(tag)));
  }
}

TEST_CASE("a loss above 3 is drawn at 3, and the picture says so", "[fashion]") {
  REQUIRE(count(svg({history("with BN", 3.0)}), "cut off at 3") == 0);
  REQUIRE(count(svg({history("with BN", 3.1)}), "cut off at 3") == 1);
  REQUIRE(count(svg({history("with BN", 2.0), history("without BN", 1e9)}), ">3.0</text>") ==
          1);  // the highest tick
}

TEST_CASE("values that are not finite do not reach the picture", "[fashion]") {
  History diverged = history("without BN", 3.0);
  for (std::size_t i = 10; i < 40; ++i) {
    diverged.curve[i].loss = std::numeric_limits<double>::quiet_NaN();
  }
  diverged.curve[9].loss = std::numeric_limits<double>::infinity();
  const std::string picture = svg({history("with BN", 2.0), diverged});
  REQUIRE(count(picture, "='nan") + count(picture, "='inf") == 0);
  REQUIRE(count(picture, ",nan") + count(picture, ",inf") == 0);
  REQUIRE(count(picture, "<polyline class='line") == 4);
}

TEST_CASE("a picture of nothing is still a picture", "[fashion]") {
  REQUIRE(count(svg({}), "</svg>") == 1);
  REQUIRE(count(svg({History{}}), "</svg>") == 1);
}
