// SPDX-License-Identifier: MIT
#include "../support/catch.hpp"
#include "close.hpp"
#include "optimizer.hpp"

namespace {

/// One parameter of one number.
struct Single {
  nn::Vector<double> value = nn::Vector<double>::Constant(1, 1.0);
  nn::Vector<double> grad = nn::Vector<double>::Zero(1);
  std::vector<nn::Parameter<double>> parameters{{value, grad}};

  double step(nn::Optimizer<double>& optimizer, double gradient) {
    grad[0] = gradient;
    optimizer.step(parameters, 0.1);
    return value[0];
  }
};

}  // namespace

TEST_CASE("plain gradient descent on written numbers", "[nn]") {
  nn::Sgd<double> sgd;
  Single p;
  REQUIRE(testing::close(p.step(sgd, 0.5), 0.95, 1e-14));   // 1 - .1 * .5
  REQUIRE(testing::close(p.step(sgd, -1.0), 1.05, 1e-14));  // .95 + .1
}

TEST_CASE("gradient descent with momentum on written numbers", "[nn]") {
  nn::Sgd<double> sgd(0.9);
  Single p;
  // v = .5, p = 1 - .05; v = .9 * .5 + .5 = .95, p = .95 - .095; v = .855 - 1, p = .855 + .0145
  REQUIRE(testing::close(p.step(sgd, 0.5), 0.95, 1e-14));
  REQUIRE(testing::close(p.step(sgd, 0.5), 0.855, 1e-14));
  REQUIRE(testing::close(p.step(sgd, -1.0), 0.8695, 1e-14));
}

TEST_CASE("Adam on written numbers", "[nn]") {
  nn::AdamOptions options;
  options.eps = 0.0;
  nn::Adam<double> adam(options);
  Single p;
  // Step 1, g = .5: m / (1 - .9) = g and v / (1 - .999) = g^2, so p moves by the rate.
  REQUIRE(testing::close(p.step(adam, 0.5), 0.9, 1e-13));
  // Step 2, g = -.25: m = .9 * .05 - .1 * .25 = .02, of 1 - .81 = .19;
  // v = .999 * .00025 + .001 * .0625 = .00031225, of 1 - .998001 = .001999.
  const double expected = 0.9 - 0.1 * (0.02 / 0.19) / std::sqrt(0.00031225 / 0.001999);
  // 1 - .998001 loses three digits of double's sixteen.
  REQUIRE(testing::close(p.step(adam, -0.25), expected, 1e-12));
}

TEST_CASE("Adam's eps keeps a parameter without a gradient where it is", "[nn]") {
  nn::Adam<double> adam;
  Single p;
  REQUIRE(p.step(adam, 0.0) == 1.0);
}
