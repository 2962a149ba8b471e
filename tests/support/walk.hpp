// SPDX-License-Identifier: MIT
// Calls of a layer, chosen by a source of choices, valid and not, in any layout, against a slow model
// of the layer. After each one all state and all memory is compared: what the model says has changed,
// and everything else to the bit. After a refused call that is everything.
#pragma once

#include <batchnorm/batchnorm.hpp>
#include <cmath>
#include <cstring>
#include <iomanip>
#include <limits>
#include <sstream>
#include <string>
#include <typeinfo>
#include <utility>
#include <vector>

#include "support/model.hpp"
#include "support/random.hpp"
#include "support/same_state.hpp"

namespace testing {

using batchnorm::BatchNorm;
using batchnorm::ChannelAxis;
using batchnorm::Momentum;
using batchnorm::NonFinite;
using batchnorm::Options;
using batchnorm::Saved;
using batchnorm::SingleValue;
using batchnorm::VarianceEstimate;

// A Source makes the choices: it has bits() and uniform() of Random.

/// How many calls were made, and of those that may be refused how many came back and how many were: a
/// test of one kind alone would be none.
struct Count {
  long made = 0, done = 0, refused = 0;
};

template <class T, class Source>
const T& one_of(Source& random, const std::vector<T>& choices) {
  return choices[random.bits() % choices.size()];
}
template <class Source>
bool chance(Source& random, double p) {
  return random.uniform() < p;
}
inline std::string text(Real v) {
  std::ostringstream s;
  s << std::setprecision(12) << v;
  return s.str();
}

template <class Source>
Momentum random_momentum(Source& random) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  if (chance(random, 0.1)) {
    return Momentum::weight_of_new(one_of<double>(random, {-0.1, 1.5, nan, HUGE_VAL}));
  }
  if (chance(random, 0.3)) return Momentum::cumulative();
  const double w = one_of<double>(random, {0, 0.1, 0.25, 1, random.uniform()});
  return chance(random, 0.5) ? Momentum::weight_of_new(w) : Momentum::weight_of_old(w);
}

template <class Source>
Options random_options(Source& random) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  Options o;
  o.eps = one_of<double>(random, {1e-5, 1e-3, 1e-10, 1});
  if (chance(random, 0.05)) o.eps = one_of<double>(random, {0, -1, nan, HUGE_VAL, 1e-310});
  o.momentum = random_momentum(random);
  if (chance(random, 0.5)) o.running_variance = VarianceEstimate::population;
  o.scale = chance(random, 0.8);
  o.shift = chance(random, 0.8);
  o.track_running_stats = chance(random, 0.8);
  if (chance(random, 0.5)) o.channel_axis = ChannelAxis::last;
  o.single_value = one_of<SingleValue>(
      random, {SingleValue::reject, SingleValue::use_running, SingleValue::accept});
  o.non_finite =
      one_of<NonFinite>(random, {NonFinite::skip_update, NonFinite::propagate, NonFinite::reject});
  return o;
}

/// Makes a call; which of the exceptions came, if any.
template <class Call>
Refusals refusals_of(const Call& call) {
  Refusals r;
  try {
    call();
  } catch (const std::exception& e) {
    r.invalid_argument = typeid(e) == typeid(std::invalid_argument);
    r.logic_error = typeid(e) == typeid(std::logic_error);
    r.domain_error = typeid(e) == typeid(std::domain_error);
    if (!r.any()) throw;
  }
  return r;
}

/// One layer, its model, and memory for the arguments of calls.
template <class Scalar, int spatial, class Source>
class Walk {
  using Layer = BatchNorm<Scalar, spatial>;
  using Param = typename Layer::Param;
  using Layout = testing::LayoutOf<Scalar, spatial>;

 public:
  Walk(Index channels, const Options& options, Source& random, Count& count)
      : random_(random),
        values_(random.bits()),
        count_(count),
        layer_(channels, options),
        model_(channels, options) {
    model_.state = state_of(layer_);
    for (const Layout& layout : testing::layouts<Scalar, spatial>()) {
      if (layout.axis == options.channel_axis || !layout.is_dense) layouts_.push_back(&layout);
    }
    memory_.resize(3 * section);
    for (Scalar& v : memory_) v = static_cast<Scalar>(values_.uniform(-1, 1));
  }

  /// A random call; whether it did what the model says.
  bool step() {
    const double which = random_.uniform();
    if (which < 0.38) return forward();
    if (which < 0.70) return backward();
    if (which < 0.74) return keep();
    if (which < 0.82) return set_mode();
    if (which < 0.90) return assign();
    if (which < 0.93) return set_momentum();
    if (which < 0.96) return reset();
    if (which < 0.98) return fold();
    return copy_or_move();
  }
  [[nodiscard]] const std::string& said() const { return said_; }

 private:
  static constexpr Index section = 12000;  // of memory, for an argument

  // Arguments. ---------------------------------------------------------------------------------

  Extents random_extents(int rank) {
    const auto extent = [&](Index most) {
      const double p = random_.uniform();
      if (p < 0.02) return Index(0);
      return p < 0.3 ? Index(1) : 1 + static_cast<Index>(random_.bits() % as_size(most));
    };
    const bool many = chance(random_, 0.1);
    Extents e{extent(many ? 40 : 6), layer_.num_features()};
    for (std::size_t d = 0; d < 3; ++d)
      e.spatial[d] = static_cast<int>(d) >= 5 - rank ? extent(many && rank == 3 ? 60 : 4) : 1;
    if (chance(random_, 0.04)) e.channels += chance(random_, 0.5) ? 1 : -1;
    if (e.size() > section / 4) e.samples = 1;
    return e;
  }
  Extents other_extents(Extents e, int rank) {
    Index& changed = chance(random_, 0.5) ? e.samples : rank > 2 ? e.spatial[2] : e.channels;
    changed += changed == 0 || chance(random_, 0.5) ? 1 : -1;
    return e;
  }
  /// Where an argument starts in a section of memory, at any alignment.
  Scalar* start(Index which) {
    return memory_.data() + which * section + static_cast<Index>(random_.bits() % 16);
  }
  /// Random values, of one kind for each channel: ordinary, far off, constant, huge, not finite.
  void fill(Placed<Scalar> x, const Layout& layout, double not_finite) {
    values_ = Random(random_.bits());
    struct Kind {
      double mean, deviation;
    };
    std::vector<Kind> kinds;
    constexpr bool is_half = std::is_same_v<Scalar, Eigen::half>;
    for (Index c = 0; c < x.extents.channels; ++c) {
      const double size = std::pow(10, values_.uniform(-2, 2));
      Kind kind{values_.normal(0, 2) * size, size};
      if (chance(values_, 0.1)) kind.deviation = 0;
      if (chance(values_, 0.1)) kind.mean = kind.deviation * (is_half ? 100 : 1e6);
      if (chance(values_, 0.05) && !is_half) {
        const double huge =
            std::pow(10, values_.uniform(-15, std::is_same_v<Scalar, double> ? 100 : 30));
        kind = {huge, huge};
      }
      kinds.push_back(kind);
    }
    layout.strides(x.extents).each(x.extents, [&](Index place, Index, Index c) {
      const Kind kind = kinds[as_size(c)];
      x.data[place] = static_cast<Scalar>(values_.normal(kind.mean, kind.deviation));
    });
    if (x.extents.size() == 0 || !chance(values_, not_finite)) return;
    const float infinity = std::numeric_limits<float>::infinity();
    const float bad = one_of<float>(values_, {infinity, -infinity, std::nanf("")});
    const Index channel = static_cast<Index>(values_.bits() % as_size(x.extents.channels));
    layout.strides(x.extents).each_position(x.extents, 0, channel, [&](Index place, Index, Index) {
      if (chance(values_, 0.6)) x.data[place] = static_cast<Scalar>(bad);
    });
  }
  ModelInput input(Placed<Scalar> x, const Layout& layout) {
    ModelInput in{layout.rank, x.extents, {}};
    layout.strides(x.extents).each(x.extents, [&](Index place, Index, Index) {
      in.values.push_back(static_cast<double>(x.data[place]));
    });
    return in;
  }

  // Calls. -------------------------------------------------------------------------------------

  bool forward() {
    const Layout& layout = *one_of(random_, layouts_);
    const Placed<Scalar> x{start(0), random_extents(layout.rank)};
    Placed<Scalar> y{start(1), x.extents};
    fill(x, layout, 0.08);
    bool misplaced = false, over_x = false;
    if (chance(random_, 0.04)) {
      y.extents = other_extents(y.extents, layout.rank);
      misplaced = true;
    } else if (chance(random_, 0.1)) {
      y.data = x.data;
      over_x = true;
    } else if (chance(random_, 0.05) && layout.is_dense && x.extents.size() > 1) {
      y.data = x.data + 1 + random_.bits() % as_size(x.extents.size() - 1);
      misplaced = true;
    }
    const bool by_value = !over_x && !misplaced && chance(random_, 0.3);
    auto expected = model_.forward(input(x, layout), over_x);
    if (misplaced) expected.refusals.invalid_argument = true;
    say("forward" + std::string(by_value ? ", result returned" : "") + (over_x ? ", over x" : ""),
        layout, x.extents);

    const bool done = call(expected.refusals, [&] {
      (by_value ? layout.forward_by_value : layout.forward)(layer_, {x.data, x.extents}, y);
    });
    if (!done) return ok_;
    ModelState after = model_.state;
    model_.take(expected);
    after.counter = model_.state.counter;
    compare_memory(y, layout, expected.y);
    compare_state(after, expected.running_mean, expected.running_var,
                  Model<Scalar>::exactly(after.grad_gamma),
                  Model<Scalar>::exactly(after.grad_beta));
    compare_saved();
    return ok_;
  }

  bool backward() {
    const Layout& layout = *one_of(random_, layouts_);
    const bool of_kept = chance(random_, 0.3) && !kept_.empty();
    const auto& kept = of_kept ? one_of(random_, kept_) : Kept{layer_.saved(), model_.saved};
    // An x of the shape that the forward saw, or of any other.
    Extents e = random_extents(layout.rank);
    if (chance(random_, 0.9) && kept.model.rank > 0) {
      e = kept.model.extents;
      if (kept.model.rank != layout.rank) return true;
      if (e.channels == 0 && layer_.num_features() > 0) return true;
    }
    const Placed<Scalar> x{start(0), e};
    Placed<Scalar> dy{start(2), e}, dx{start(1), e};
    fill(x, layout, 0.02);
    bool misplaced = false;
    if (chance(random_, 0.1)) {
      dx.data = dy.data;  // in place
    } else if (chance(random_, 0.03)) {
      dx.data = x.data;
      misplaced = e.size() > 0;
    } else if (chance(random_, 0.05) && layout.is_dense && e.size() > 1) {
      dx.data = (chance(random_, 0.5) ? x : dy).data + 1 + random_.bits() % as_size(e.size() - 1);
      misplaced = true;
    } else if (chance(random_, 0.04)) {
      Placed<Scalar>& other = chance(random_, 0.5) ? dx : dy;
      other.extents = other_extents(e, layout.rank);
      misplaced = true;
    }
    fill(dy, layout, 0.02);
    const bool by_value = !of_kept && !misplaced && dx.data != dy.data && chance(random_, 0.3);
    const ModelInput in = input(x, layout);
    testing::Refusals refusals = model_.of_lengths();
    typename Model<Scalar>::Backward expected;
    if (!misplaced) {
      expected = model_.backward(kept.model, in, input(dy, layout).values);
    } else {
      expected.refusals = refusals;
      expected.refusals.invalid_argument = true;
      expected.refusals.logic_error |= kept.model.rank == 0 || kept.model.overwritten;
    }
    say(of_kept ? "backward of an earlier forward" : "backward", layout, e);
    const bool done = call(expected.refusals, [&] {
      if (of_kept) {
        layout.backward_of(layer_, kept.saved, {x.data, e}, {dy.data, dy.extents}, dx);
      } else {
        (by_value ? layout.backward_by_value : layout.backward)(layer_, {x.data, e},
                                                                {dy.data, dy.extents}, dx);
      }
    });
    if (!done) return ok_;
    compare_memory(dx, layout, expected.dx);
    compare_state(model_.state, Model<Scalar>::exactly(model_.state.running_mean),
                  Model<Scalar>::exactly(model_.state.running_var), expected.grad_gamma,
                  expected.grad_beta);
    compare_saved();
    return ok_;
  }

  bool keep() {
    if (kept_.size() > 3) kept_.erase(kept_.begin());
    kept_.push_back(chance(random_, 0.05) ? Kept{Saved(), ModelSaved()}
                                          : Kept{layer_.saved(), model_.saved});
    return true;
  }

  bool set_mode() {
    say("train or eval");
    const bool on = chance(random_, 0.6);
    if (on || chance(random_, 0.5)) {
      layer_.train(on);
    } else {
      layer_.eval();
    }
    model_.state.training = on;
    return compare_all();
  }

  /// A user writes parameters, gradients or statistics, or gives a vector another length.
  bool assign() {
    say("assign to a vector");
    values_ = Random(random_.bits());
    using Get = typename Layer::Vector& (Layer::*)();
    const Get vectors[] = {&Layer::gamma,     &Layer::beta,         &Layer::grad_gamma,
                           &Layer::grad_beta, &Layer::running_mean, &Layer::running_var};
    const Options& o = layer_.options();
    const bool on[] = {
        o.scale, o.shift, o.scale, o.shift, o.track_running_stats, o.track_running_stats};
    for (int k = 0; k < 6; ++k) {
      auto& v = (layer_.*vectors[k])();
      const Index length = on[k] ? layer_.num_features() : 0;
      if (v.size() != length) {  // as it must be, again
        if (chance(random_, 0.7)) v.setConstant(length, Param(1));
        continue;
      }
      if (chance(random_, 0.02)) {
        v.setConstant(length + (chance(random_, 0.5) || length == 0 ? 1 : -1), Param(2));
        continue;
      }
      if (!chance(random_, 0.2)) continue;
      for (Param& p : v) {
        const double size = std::pow(10, values_.uniform(-2, 2));
        p = static_cast<Param>(k == 5 ? values_.uniform(0, 3) * size : values_.normal() * size);
        if (chance(values_, 0.1)) p = 0;
      }
    }
    ModelState state = state_of(layer_);
    state.counter = model_.state.counter;
    state.training = model_.state.training;
    model_.state = state;
    return compare_all();
  }

  bool set_momentum() {
    const Momentum momentum = random_momentum(random_);
    say("set_momentum");
    if (call(Model<Scalar>::of_momentum(momentum), [&] { layer_.set_momentum(momentum); })) {
      model_.set_momentum(momentum);
      return compare_all();
    }
    return ok_;
  }

  bool reset() {
    const auto fill = [](std::vector<double>& v, double value) { v.assign(v.size(), value); };
    ModelState& s = model_.state;
    switch (random_.bits() % 3) {
      case 0:
        say("zero_grad");
        layer_.zero_grad();
        fill(s.grad_gamma, 0), fill(s.grad_beta, 0);
        break;
      case 1:
        say("reset_parameters");
        layer_.reset_parameters();
        fill(s.gamma, 1), fill(s.beta, 0);
        break;
      default:
        say("reset_running_stats");
        layer_.reset_running_stats();
        fill(s.running_mean, 0), fill(s.running_var, 1);
        s.counter = 0;
        model_.reset_skipped();
    }
    return compare_all();
  }

  bool fold() {
    say("folded");
    Refusals refusals = model_.of_lengths();
    refusals.logic_error |= !layer_.options().track_running_stats;
    batchnorm::ChannelAffine<Param> affine;
    if (!call(refusals, [&] { affine = layer_.folded(); })) return ok_;
    for (Index c = 0; c < layer_.num_features(); ++c) {
      const std::size_t k = as_size(c);
      const Real var = model_.state.running_var[k];
      const Real sum = var + Real(layer_.options().eps);
      const Real scale = sum == 0 ? Real(0) : model_.gamma(k) / std::sqrt(sum);
      // a rounding in double and one to Param
      const Real error = 1.01L * testing::Promise<Scalar>::stored * std::abs(scale) *
                         (std::is_same_v<Param, double> ? 3 : 1);
      check(testing::Expected{scale, error + testing::Promise<Scalar>::param_step}.agrees(
                static_cast<double>(affine.scale[c])),
            "a scale is wrong");
      check(testing::Expected{model_.state.running_mean[k]}.agrees(
                static_cast<double>(affine.center[c])),
            "a center is wrong");
      check(static_cast<Real>(affine.shift[c]) == model_.beta(k), "a shift is wrong");
    }
    return compare_all();
  }

  bool copy_or_move() {
    say("copy or move");
    if (chance(random_, 0.5)) {
      Layer copy = layer_;
      layer_ = copy;
    } else {
      Layer moved = std::move(layer_);
      Refusals gone;
      gone.logic_error = true;
      const Layout& layout = *layouts_.front();
      const Extents e{2, moved.num_features()};
      const auto forward = [&] { layout.forward(layer_, {start(0), e}, {start(1), e}); };
      const auto before = memory_;
      check(refusals_of(forward).logic_error, "a layer that was moved from was not refused");
      check(same_memory(before), "a layer that was moved from wrote");
      layer_ = std::move(moved);
    }
    return compare_all() && compare_saved();
  }

  // Comparisons. -------------------------------------------------------------------------------

  /// Makes a call. Returns whether it was done, and should be; a refused one must leave all as it
  /// was.
  template <class F>
  bool call(const Refusals& expected, const F& f) {
    const Layer before = layer_;
    memory_before_ = memory_;
    const Refusals got = refusals_of(f);
    const bool done = !got.any();
    (done ? count_.done : count_.refused) += 1;
    check(done == !expected.any(), done ? "expected an exception" : "expected none");
    if (done) return !expected.any();
    check((got.invalid_argument && expected.invalid_argument) ||
              (got.logic_error && expected.logic_error) ||
              (got.domain_error && expected.domain_error),
          "expected another exception");
    check(testing::same_state(layer_, before), "a refused call changed the layer");
    check(same_memory(memory_before_), "a refused call wrote to memory");
    return false;
  }

  /// The results in memory, and everything around them.
  void compare_memory(Placed<Scalar> y, const Layout& layout, const Expectations& expected) {
    std::size_t i = 0;
    layout.strides(y.extents).each(y.extents, [&](Index place, Index, Index) {
      const double got = static_cast<double>(y.data[place]);
      if (!expected[i].agrees(got)) {
        check(false, "value " + std::to_string(i) + " is " + text(got) + ", expected " +
                         text(expected[i].value) + " +- " + text(expected[i].error));
      }
      ++i;
      memory_before_[as_size(y.data + place - memory_.data())] = y.data[place];
    });
    check(same_memory(memory_before_), "memory around the result was written");
  }
  [[nodiscard]] bool same_memory(const std::vector<Scalar>& other) const {
    return std::memcmp(memory_.data(), other.data(), sizeof(Scalar) * memory_.size()) == 0;
  }

  [[nodiscard]] static ModelState state_of(const Layer& layer) {
    const auto list = [](const typename Layer::Vector& v) {
      return std::vector<double>(v.data(), v.data() + v.size());
    };
    return {list(layer.gamma()),         list(layer.beta()),         list(layer.grad_gamma()),
            list(layer.grad_beta()),     list(layer.running_mean()), list(layer.running_var()),
            layer.num_batches_tracked(), layer.is_training()};
  }
  /// The state against what is expected of it, which the model then takes over as it is.
  void compare_state(const ModelState& rest, const Expectations& mean, const Expectations& var,
                     const Expectations& grad_gamma, const Expectations& grad_beta) {
    const ModelState got = state_of(layer_);
    const auto compare = [&](const char* what, const ModelState::Vector& v,
                             const Expectations& expected) {
      check(v.size() == expected.size(), std::string("the length is wrong of ") + what);
      for (std::size_t c = 0; c < std::min(v.size(), expected.size()); ++c) {
        if (expected[c].agrees(v[c])) continue;
        check(false, std::string(what) + " " + std::to_string(c) + " is " + text(v[c]) +
                         ", expected " + text(expected[c].value) + " +- " +
                         text(expected[c].error));
      }
    };
    compare("gamma", got.gamma, Model<Scalar>::exactly(rest.gamma));
    compare("beta", got.beta, Model<Scalar>::exactly(rest.beta));
    compare("grad_gamma", got.grad_gamma, grad_gamma);
    compare("grad_beta", got.grad_beta, grad_beta);
    compare("running_mean", got.running_mean, mean);
    compare("running_var", got.running_var, var);
    check(got.counter == rest.counter, "the counter is wrong");
    check(got.training == rest.training, "the mode is wrong");
    check(layer_.options().momentum == model_.options().momentum, "the momentum is wrong");
    model_.state = got;
  }
  bool compare_all() {
    const ModelState& s = model_.state;
    const auto exactly = [](const ModelState::Vector& v) { return Model<Scalar>::exactly(v); };
    compare_state(s, exactly(s.running_mean), exactly(s.running_var), exactly(s.grad_gamma),
                  exactly(s.grad_beta));
    return ok_;
  }

  bool compare_saved() {
    const Saved& got = layer_.saved();
    const ModelSaved& expected = model_.saved;
    check(got.count == expected.count, "saved().count is wrong");
    if (expected.count == 0) return ok_;
    check(got.batch_statistics == expected.of_batch, "saved().batch_statistics is wrong");
    check(got.overwritten == expected.overwritten, "saved().overwritten is wrong");
    using By = testing::Promise<Scalar>;
    for (Index c = 0; c < layer_.num_features(); ++c) {
      const std::size_t k = as_size(c);
      const Real mean = expected.mean[k], inv_std = expected.inv_std[k];
      const Real mean_error =
          By::mean * std::sqrt(expected.var[k]) + By::stored * 4 * std::abs(mean);
      check(testing::Expected{mean, mean_error, true}.agrees(got.mean[c]), "saved().mean is wrong");
      check(testing::Expected{inv_std, By::var * inv_std, true}.agrees(got.inv_std[c]),
            "saved().inv_std is wrong");
    }
    return ok_;
  }

  void check(bool ok, const std::string& what) {
    if (ok || !ok_) return;
    ok_ = false;
    said_ += ": " + what;
  }
  void say(const std::string& what) {
    said_ = "channels " + std::to_string(layer_.num_features()) +
            (model_.state.training ? ", training, " : ", eval, ") + what;
  }
  void say(const std::string& what, const Layout& layout, const Extents& e) {
    say(what + ", " + layout.name + ", " + std::to_string(e.samples) + " x " +
        std::to_string(e.channels) + " x " + std::to_string(e.spatial[0]) + " x " +
        std::to_string(e.spatial[1]) + " x " + std::to_string(e.spatial[2]));
  }

  struct Kept {
    Saved saved;
    ModelSaved model;
  };

  Source& random_;
  Random values_;  // of arguments and parameters, which are too many for some sources
  Count& count_;
  Layer layer_;
  Model<Scalar> model_;
  std::vector<const Layout*> layouts_;
  std::vector<Kept> kept_;
  std::vector<Scalar> memory_, memory_before_;
  bool ok_ = true;
  std::string said_;
};

/// Builds a layer of random options where that may be, and makes calls of it. What went wrong, or "".
template <class Scalar, int spatial, class Source>
std::string walk_of_layer(Source& random, int calls, Count& count) {
  const Options options = random_options(random);
  const Index channels = one_of<Index>(random, {0, 1, 2, 3, 5, 9, 17, 33});
  ++count.made;
  const Refusals expected = Model<Scalar>::of_construction(channels, options);
  const Refusals got =
      refusals_of([&] { static_cast<void>(BatchNorm<Scalar, spatial>(channels, options)); });
  if (got.invalid_argument != expected.invalid_argument || got.logic_error || got.domain_error) {
    return std::string("construction: expected ") + (expected.any() ? "an exception" : "none");
  }
  if (expected.any()) return "";
  Walk<Scalar, spatial, Source> layer(channels, options, random, count);
  for (int k = 0; k < calls; ++k, ++count.made) {
    if (!layer.step()) return "call " + std::to_string(k) + " of a layer of " + layer.said();
  }
  return "";
}

}  // namespace testing
