// SPDX-License-Identifier: MIT
// A layer's options, every field of any bits, and with them its parameters, statistics and values. What
// calls may do to a layer so built is told by bounds, for any number that comes.
#include <algorithm>
#include <array>
#include <batchnorm/batchnorm.hpp>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <typeinfo>

#include "fuzz/choices.hpp"
#include "fuzz/require.hpp"
#include "support/same_state.hpp"

namespace {

using batchnorm::BatchNorm1d;
using batchnorm::Momentum;
using batchnorm::NonFinite;
using batchnorm::SingleValue;
using batchnorm::VarianceEstimate;
using Eigen::Index;
using fuzz::Choices;
using fuzz::require;
using fuzz::require_within;
using Real = long double;

/// What a call throws.
enum class Outcome { done, invalid_argument, logic_error, domain_error };

template <class Call>
Outcome outcome_of(const char* where, const Call& call) {
  try {
    call();
    return Outcome::done;
  } catch (const std::logic_error& error) {
    const std::string start = std::string("[BatchNorm1d::") + where + "] expected ";
    require(std::string(error.what()).rfind(start, 0) == 0, "an error says where");
    if (typeid(error) == typeid(std::invalid_argument)) return Outcome::invalid_argument;
    if (typeid(error) == typeid(std::domain_error)) return Outcome::domain_error;
    require(typeid(error) == typeid(std::logic_error), "an error is of a documented type");
    return Outcome::logic_error;
  }
}

struct AnyMomentum {
  Momentum momentum;
  bool is_valid;
};
AnyMomentum any_momentum(Choices& choices) {
  const int kind = choices.below(4);
  const double w = choices.any<double>();
  if (kind == 0) return {Momentum::cumulative(), true};
  if (kind == 1) return {Momentum::weight_of_old(w), 1 - w >= 0 && 1 - w <= 1};
  if (kind == 2) return {Momentum::weight_of_new(0.25), true};
  return {Momentum::weight_of_new(w), w >= 0 && w <= 1};
}

struct AnyOptions {
  batchnorm::Options options;
  bool are_valid;
};
template <class Param>
AnyOptions any_options(Choices& choices) {
  AnyOptions any;
  batchnorm::Options& o = any.options;
  const auto flags = choices.any<std::uint8_t>();
  if (flags & 1) o.eps = choices.any<double>();
  const AnyMomentum momentum = any_momentum(choices);
  o.momentum = momentum.momentum;
  o.running_variance = flags & 2 ? VarianceEstimate::population : VarianceEstimate::unbiased;
  o.scale = flags & 4;
  o.shift = flags & 8;
  o.track_running_stats = flags & 16;
  o.channel_axis = flags & 32 ? batchnorm::ChannelAxis::last : batchnorm::ChannelAxis::first;
  o.single_value = std::array{SingleValue::reject, SingleValue::use_running,
                              SingleValue::accept}[static_cast<std::size_t>(choices.below(3))];
  o.non_finite = std::array{NonFinite::skip_update, NonFinite::propagate,
                            NonFinite::reject}[static_cast<std::size_t>(choices.below(3))];
  const double smallest = std::is_same_v<Param, double> ? 0x1p-1022 : 0x1p-126;
  const bool is_valid_eps = o.eps == 0 || (o.eps >= smallest && o.eps <= 0x1.fffffffffffffp1023);
  any.are_valid = momentum.is_valid && is_valid_eps &&
                  !(o.single_value == SingleValue::use_running && !o.track_running_stats);
  return any;
}

template <class Scalar>
constexpr Real largest = 0;
template <>
constexpr Real largest<float> = 0x1.fffffep127L;
template <>
constexpr Real largest<double> = 0x1.fffffffffffffp1023L;
template <>
constexpr Real largest<Eigen::half> = 65504;
template <>
constexpr Real largest<Eigen::bfloat16> = 0x1.fep127L;

/// A layer and what happens to it.
template <class Scalar>
class Layer {
  using BatchNorm = BatchNorm1d<Scalar>;
  using Param = typename BatchNorm::Param;
  using Vector = typename BatchNorm::Vector;
  using Matrix = Eigen::Matrix<Scalar, Eigen::Dynamic, Eigen::Dynamic>;

  static constexpr bool is_double = std::is_same_v<Scalar, double>;
  // What is promised of y, one rounding to a narrow scalar, and the smallest steps.
  static constexpr Real exactness = is_double ? 1e-12L : 6e-7L;
  static constexpr Real unit = is_double                             ? 0x1p-53L
                               : std::is_same_v<Scalar, float>       ? 0x1p-24L
                               : std::is_same_v<Scalar, Eigen::half> ? 0x1p-11L
                                                                     : 0x1p-8L;
  static constexpr Real step = is_double                             ? 0x1p-1072L
                               : std::is_same_v<Scalar, Eigen::half> ? 0x1p-24L
                                                                     : 0x1p-131L;

 public:
  Layer(Index channels, const batchnorm::Options& options, Choices& choices)
      : choices_(choices), bn_(channels, options), x_(0, channels) {}

  void step_once() {
    switch (choices_.below(8)) {
      case 0:
        return set_momentum();
      case 1:
        return assign();
      case 2:
        return bn_.train(choices_.below(2) == 1);
      case 3:
        return backward();
      case 4:
        return bn_.reset_running_stats();
      default:
        return forward();
    }
  }

 private:
  static Real real(Scalar v) { return static_cast<Real>(static_cast<double>(v)); }
  static bool is_finite(Real v) { return std::abs(v) <= std::numeric_limits<Real>::max(); }
  [[nodiscard]] Real gamma(Index c) const {
    return bn_.options().scale ? static_cast<Real>(bn_.gamma()[c]) : 1;
  }
  [[nodiscard]] Real beta(Index c) const {
    return bn_.options().shift ? static_cast<Real>(bn_.beta()[c]) : 0;
  }

  /// Makes a call, which changes nothing unless it is done.
  template <class Call>
  Outcome call(const char* where, const Call& f) {
    const BatchNorm before = bn_;
    const Outcome outcome = outcome_of(where, f);
    if (outcome != Outcome::done) {
      require(testing::same_state(bn_, before), "a refused call leaves the layer as it was");
    }
    return outcome;
  }

  void set_momentum() {
    const AnyMomentum any = any_momentum(choices_);
    const Outcome outcome = call("set_momentum", [&] { bn_.set_momentum(any.momentum); });
    require(outcome == (any.is_valid ? Outcome::done : Outcome::invalid_argument),
            "a momentum is taken if its weight lies in [0, 1]");
  }

  /// Any bits, but variances are not negative.
  void assign() {
    Vector* const vectors[] = {&bn_.gamma(),     &bn_.beta(),         &bn_.grad_gamma(),
                               &bn_.grad_beta(), &bn_.running_mean(), &bn_.running_var()};
    const int which = choices_.below(6);
    for (Param& v : *vectors[which]) v = choices_.any<Param>();
    if (which == 5) *vectors[which] = vectors[which]->cwiseAbs();
  }

  Matrix any_values(Index n, int kind) {
    Matrix x(n, bn_.num_features());
    for (Scalar& v : x.reshaped()) v = choices_.any<Scalar>();
    for (Index c = 0; c < x.cols() && n > 0; ++c) {
      if (kind >> c % 8 & 1) x.col(c).setConstant(x(0, c));
    }
    return x;
  }

  // Forward. -------------------------------------------------------------------------------------

  void forward() {
    const batchnorm::Options& o = bn_.options();
    const Index n = choices_.below(7);
    const Matrix x = any_values(n, choices_.any<std::uint8_t>());
    Matrix y = Matrix::Constant(n, x.cols(), static_cast<Scalar>(7.0));
    const Matrix untouched = y;
    const BatchNorm before = bn_;
    const bool training = bn_.is_training();
    const bool may_use_batch = training || !o.track_running_stats;
    const bool too_few = may_use_batch && (n == 1 || (n == 0 && training));
    const bool by_batch =
        may_use_batch && n > 0 && !(n == 1 && o.single_value == SingleValue::use_running);
    bool all_finite = true;
    for (const Scalar v : x.reshaped()) all_finite = all_finite && is_finite(real(v));

    const Outcome outcome = call("forward", [&] { bn_.forward(x, y); });
    const Outcome expected =
        too_few && o.single_value == SingleValue::reject               ? Outcome::invalid_argument
        : by_batch && !all_finite && o.non_finite == NonFinite::reject ? Outcome::domain_error
                                                                       : Outcome::done;
    require(outcome == expected, "forward is refused where it is said to be");
    if (outcome != Outcome::done) {
      require(testing::same_bits(y, untouched), "a refused forward does not write");
      return;
    }
    x_ = x;
    const bool updates = by_batch && training && o.track_running_stats;
    require(bn_.num_batches_tracked() == before.num_batches_tracked() + updates,
            "a training batch is counted, and nothing else");
    for (Index c = 0; c < x.cols(); ++c) {
      if (by_batch) {
        check_by_batch(x, y, c);
      } else if (n > 0) {
        check_by_running(x, y, c, before);
      }
      if (o.track_running_stats) check_statistics(x, c, before, updates);
    }
  }

  static bool is_finite_channel(const Matrix& x, Index c) {
    for (Index i = 0; i < x.rows(); ++i) {
      if (!is_finite(real(x(i, c)))) return false;
    }
    return true;
  }

  /// Of n values none is further than sqrt(n - 1) deviations from their mean.
  void check_by_batch(const Matrix& x, const Matrix& y, Index c) {
    if (!is_finite_channel(x, c) || !is_finite(gamma(c)) || !is_finite(beta(c))) return;
    const Real mean = bn_.saved().mean[c], inv_std = bn_.saved().inv_std[c];
    const Real low = real(x.col(c).minCoeff()), high = real(x.col(c).maxCoeff());
    const Real rounding = 0x1p-52L * std::max(std::abs(low), std::abs(high));
    require_within(low - rounding, mean, high + rounding, "a mean lies among the values");
    require_within(0, inv_std * std::sqrt(Real(bn_.options().eps)), 1 + 1e-15L,
                   "a deviation is at least sqrt(eps)");
    const bool is_constant = (x.col(c).array() == x(0, c)).all();
    const Scalar exactly_beta = static_cast<Scalar>(static_cast<double>(beta(c)));
    // A mean is rounded to double, which shows where values are further from 0 than from each other.
    const Real x_hat = std::sqrt(Real(x.rows() - 1)) + 4e-16L * std::abs(mean) * inv_std;
    const Real most = (std::abs(gamma(c)) * x_hat + std::abs(beta(c))) * (1 + 2 * exactness);
    for (Index i = 0; i < x.rows(); ++i) {
      if (is_constant) require(y(i, c) == exactly_beta, "a constant channel gives beta");
      if (most > 0.99L * largest<Scalar>) continue;
      const Real there = most * (1 + unit) + exactness + step;
      require_within(-there, real(y(i, c)), there, "y lies within sqrt(n - 1) deviations");
    }
  }

  /// As exact as promised, by the statistics that were there.
  void check_by_running(const Matrix& x, const Matrix& y, Index c, const BatchNorm& before) {
    const Real mean = before.running_mean()[c], var = before.running_var()[c];
    if (!is_finite(mean) || !is_finite(var) || !is_finite(gamma(c)) || !is_finite(beta(c))) return;
    for (Index i = 0; i < x.rows(); ++i) {
      if (!is_finite(real(x(i, c)))) continue;
      const Real deviation = std::sqrt(var + Real(bn_.options().eps));
      const Real scaled = deviation > 0 ? gamma(c) * (real(x(i, c)) - mean) / deviation : 0;
      const Real exact = scaled + beta(c);
      if (std::abs(exact) > 0.99L * largest<Scalar>) continue;
      const Real size = std::max({Real(1), std::abs(scaled), std::abs(beta(c))});
      const Real error = exactness * size + unit * std::abs(exact) + step;
      require_within(exact - error, real(y(i, c)), exact + error,
                     "y in eval mode is the function of the running statistics");
    }
  }

  /// Running statistics lie between what they were and the batch's.
  void check_statistics(const Matrix& x, Index c, const BatchNorm& before, bool updates) {
    const Param mean = bn_.running_mean()[c], old_mean = before.running_mean()[c];
    const Param var = bn_.running_var()[c], old_var = before.running_var()[c];
    const batchnorm::Options& o = bn_.options();
    const auto same = [](Param a, Param b) {
      return testing::same_bits(Vector::Constant(1, a).eval(), Vector::Constant(1, b).eval());
    };
    const bool finite = is_finite_channel(x, c);
    const bool no_weight = !o.momentum.is_cumulative() && o.momentum.weight_of_new() == 0;
    if (!updates || no_weight || (!finite && o.non_finite == NonFinite::skip_update)) {
      require(same(mean, old_mean) && same(var, old_var),
              "running statistics stay where nothing moves them");
      return;
    }
    const bool unbiased = o.running_variance == VarianceEstimate::unbiased;
    if (unbiased && x.rows() == 1)
      require(same(var, old_var), "one value has no unbiased variance");
    if (!finite || !is_finite(old_mean) || !is_finite(old_var)) return;
    const Real low = real(x.col(c).minCoeff()), high = real(x.col(c).maxCoeff());
    const Real rounding = 4 * (is_double ? 0x1p-53L : 0x1p-24L);
    const Real size = std::max(std::abs(Real(old_mean)), std::max(std::abs(low), std::abs(high)));
    require_within(std::min(Real(old_mean), low) - rounding * size - step, mean,
                   std::max(Real(old_mean), high) + rounding * size + step,
                   "a running mean lies between the old one and the values");
    const Real n = static_cast<Real>(x.rows()), range = high - low;
    const Real most = range * range / 4 * (unbiased && n > 1 ? n / (n - 1) : 1);
    const Real there = std::max(Real(old_var), most) * (1 + 3e-6L) + step;
    require_within(0, var, std::min(there, largest<Param>),
                   "a running variance lies between the old one and the largest of such values");
  }

  // Backward. ------------------------------------------------------------------------------------

  void backward() {
    const Index n = choices_.below(8) == 0 ? choices_.below(7) : x_.rows();
    const Matrix x = n == x_.rows() ? x_ : Matrix::Ones(n, bn_.num_features());
    const Matrix dy = any_values(n, 0);
    Matrix dx = Matrix::Constant(n, dy.cols(), static_cast<Scalar>(7.0));
    const Matrix untouched = dx;
    const bool has_forward = bn_.saved().shape.rank != 0;
    const Outcome outcome = call("backward", [&] { bn_.backward(x, dy, dx); });
    require(outcome == (!has_forward     ? Outcome::logic_error
                        : n != x_.rows() ? Outcome::invalid_argument
                                         : Outcome::done),
            "backward is refused where it is said to be");
    if (outcome != Outcome::done) {
      require(testing::same_bits(dx, untouched), "a refused backward does not write");
      return;
    }
    for (Index c = 0; c < dx.cols() && n > 0; ++c) check_gradient(x, dy, dx, c);
  }

  void check_gradient(const Matrix& x, const Matrix& dy, const Matrix& dx, Index c) {
    if (!bn_.saved().batch_statistics || !is_finite_channel(x, c) || !is_finite_channel(dy, c)) {
      return;
    }
    if (!is_finite(gamma(c))) return;
    Real size = 0;
    for (Index i = 0; i < dy.rows(); ++i) size = std::max(size, std::abs(real(dy(i, c))));
    const Real n = static_cast<Real>(dy.rows());
    if (size * n > 1e300L) return;  // beyond the range of sums
    const Real inv_std = bn_.saved().inv_std[c];
    const Real x_hat = std::sqrt(n - 1) + 4e-16L * std::abs(Real(bn_.saved().mean[c])) * inv_std;
    const Real most = std::abs(gamma(c)) * inv_std * size * (2 + x_hat * x_hat);
    if (most > 0.99L * largest<Scalar>) return;
    for (Index i = 0; i < dx.rows(); ++i) {
      const Real there = most * (1 + 4 * exactness + unit) + step;
      require_within(-there, real(dx(i, c)), there, "dx is no larger than its terms");
      if (dx.rows() == 1) require(real(dx(i, c)) == 0, "one value's dx is 0");
    }
  }

  Choices& choices_;
  BatchNorm bn_;
  Matrix x_;  // of the last forward
};

constexpr int most_steps = 12;

template <class Scalar>
void check_layer(Choices& choices) {
  using Param = typename BatchNorm1d<Scalar>::Param;
  const AnyOptions any = any_options<Param>(choices);
  const Index channels =
      choices.below(4) > 0 ? 1 + choices.below(4) : std::min<Index>(choices.any<Index>(), 100);
  const Outcome outcome = outcome_of(
      "BatchNorm", [&] { static_cast<void>(BatchNorm1d<Scalar>(channels, any.options)); });
  const bool is_valid = any.are_valid && channels > 0;
  require(outcome == (is_valid ? Outcome::done : Outcome::invalid_argument),
          "a layer is built of what is documented as valid");
  if (!is_valid) return;
  Layer<Scalar> layer(channels, any.options, choices);
  for (int k = 0; k < most_steps && !choices.are_over(); ++k) layer.step_once();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  fuzz::Choices choices(data, size);
  switch (choices.below(4)) {
    case 0:
      check_layer<float>(choices);
      break;
    case 1:
      check_layer<double>(choices);
      break;
    case 2:
      check_layer<Eigen::half>(choices);
      break;
    default:
      check_layer<Eigen::bfloat16>(choices);
  }
  return 0;
}
