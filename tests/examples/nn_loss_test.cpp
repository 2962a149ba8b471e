// SPDX-License-Identifier: MIT
#include "close.hpp"
#include "gradient_check.hpp"
#include "loss.hpp"

TEST_CASE("softmax cross entropy on written numbers", "[nn]") {
  nn::Tensor<double> logits(2, 2, 1, 1), d;
  logits.setValues({{{{0.0}}, {{0.0}}}, {{{std::log(3.0)}}, {{0.0}}}});
  // p = (1/2, 1/2) with label 0 and (3/4, 1/4) with label 1: the loss is (ln 2 + ln 4) / 2, and
  // dz = (p - one_hot) / 2. Of the first a tie, which the first class wins, so it counts as right.
  const auto result = nn::softmax_cross_entropy(logits, {0, 1}, &d);
  REQUIRE(testing::close(result.loss, 1.5 * std::log(2.0), 1e-14));
  REQUIRE(result.correct == 1);
  const double expected[] = {-0.25, 0.25, 0.375, -0.375};
  for (int i = 0; i < 4; ++i) REQUIRE(testing::close(d.data()[i], expected[i], 1e-14));
}

TEST_CASE("softmax cross entropy of huge logits overflows nowhere", "[nn]") {
  nn::Tensor<float> logits(1, 2, 1, 1), d;
  logits.setValues({{{{3e4F}}, {{-3e4F}}}});
  const auto result = nn::softmax_cross_entropy(logits, {1}, &d);
  REQUIRE(result.loss == 6e4);
  REQUIRE(d(0, 0, 0, 0) == 1.0F);
  REQUIRE(d(0, 1, 0, 0) == -1.0F);
}

TEST_CASE("softmax cross entropy has the gradient of its function", "[nn]") {
  nn::Random random(1);
  auto logits = testing::random_tensor(nn::Shape(4, 5, 1, 1), random, -2.0, 2.0);
  const std::vector<std::uint8_t> labels{3, 0, 4, 3};
  nn::Tensor<double> d;
  nn::softmax_cross_entropy(logits, labels, &d);
  const auto loss = [&] { return nn::softmax_cross_entropy<double>(logits, labels, nullptr).loss; };
  for (nn::Index i = 0; i < logits.size(); ++i) {
    testing::require_close(d.data()[i], testing::central_difference(logits.data()[i], loss));
  }
}
