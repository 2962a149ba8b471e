// SPDX-License-Identifier: MIT
// Layers of any kind, and wrappers of layers, compared with the reference layer.
#pragma once

#include <algorithm>

#include "support/any_layer.hpp"
#include "support/catch.hpp"
#include "support/compare.hpp"

namespace testing {

/// The number of spatial dimensions of the layer that takes a form.
template <class Form>
constexpr int spatial_of = std::max(1, Form::rank - 2);

/// A layer whose forward and backward are those of a wrapper around it, such as Fused.
template <class Form, class Wrapper>
class WrappedLayer : public LayerOfForm<Form> {
 public:
  /// `arguments` are those of the wrapper's constructor after the layer.
  template <class... Arguments>
  WrappedLayer(Index channels, const batchnorm::Options& options, const Arguments&... arguments)
      : LayerOfForm<Form>(channels, options), wrapper_(this->layer_, arguments...) {}

  Values forward(const Values& x) override {
    return Form::read(wrapper_.forward(Form::make(x, this->axis_)), this->axis_);
  }
  Values backward(const Values& x, const Values& dy) override {
    auto dx = Form::make(dy, this->axis_);
    wrapper_.backward(Form::make(x, this->axis_), dx, dx);
    return Form::read(dx, this->axis_);
  }

 protected:
  Wrapper wrapper_;
};

/// Calls f(options, training) with the channels first and last, in training and in eval mode.
template <class F>
void for_axes_and_modes(const F& f) {
  using batchnorm::ChannelAxis;
  for (const ChannelAxis axis : {ChannelAxis::first, ChannelAxis::last}) {
    for (const bool training : {true, false}) {
      INFO((axis == ChannelAxis::first ? "channel first, " : "channel last, ")
           << (training ? "training" : "eval"));
      batchnorm::Options options;
      options.channel_axis = axis;
      f(options, training);
    }
  }
}

/// Sets a layer's mode, and returns a reference layer of the same state and mode.
inline ReferenceLayer reference_of(AnyLayer& layer, Index channels,
                                   const batchnorm::Options& options, bool training) {
  layer.train(training);
  ReferenceLayer reference(channels, options);
  copy_state(layer.state(), reference);
  reference.training = training;
  return reference;
}

/// Compares y and the state after a layer's forward with the reference layer after its forward.
inline void check_forward(const Kind& kind, const ReferenceLayer& reference, const Values& x,
                          const Values& y, const Values& expected_y, const State& after) {
  CHECK(error_of_y(kind, reference, x, y, expected_y) <= 1);
  CHECK(error_of_statistics(kind, reference, after) <= 1);
  CHECK(after.counter == reference.counter);
}

/// Calls backward of the reference layer, and compares dx and the state after a layer's backward
/// with it. The errors of dx and dgamma may be `times` those of a plain layer.
inline void check_backward(const Kind& kind, ReferenceLayer& reference, const Values& x,
                           const Values& dy, const Values& dx, const State& after,
                           double times = 1) {
  const Values expected_dx = reference.backward(x, dy);
  const auto errors = errors_of_gradients(kind, reference, x, dy, dx, expected_dx, after);
  CHECK(errors.dx <= times);
  CHECK(errors.dgamma <= times);
  CHECK(errors.dbeta <= 1);
}

/// Compares a forward and a backward with the reference layer. Parameters and gradients are random.
inline void check_by_reference(const Kind& kind, const batchnorm::Options& options, bool training,
                               const Values& any_x, const Values& any_dy) {
  const Values x = kind.rounded(any_x), dy = kind.rounded(any_dy);
  const auto layer = kind.layer(x.channels, options);
  Random random(99);
  randomize(*layer, random);
  ReferenceLayer reference = reference_of(*layer, x.channels, options, training);
  const Values y = layer->forward(x);
  const Values expected_y = reference.forward(x);
  check_forward(kind, reference, x, y, expected_y, layer->state());
  const Values dx = layer->backward(x, dy);
  check_backward(kind, reference, x, dy, dx, layer->state());
}

/// Compares a forward and a backward of a layer and an activation with the reference layer, whose y
/// is z: y = act(z), and the backward of the reference layer gets slope(z) * dy. The caller has set
/// the parameters of the layer.
template <class Act, class Slope>
void check_with_activation(const Kind& kind, AnyLayer& layer, Index channels,
                           const batchnorm::Options& options, bool training, const Act& act,
                           const Slope& slope, double times = 1) {
  const auto spatial = small_spatial(kind.rank);
  const Values x = kind.rounded(random_values(11, channels, spatial, 1));
  const Values dy = kind.rounded(random_values(11, channels, spatial, 2));
  ReferenceLayer reference = reference_of(layer, channels, options, training);
  const Values y = layer.forward(x), z = reference.forward(x);
  check_forward(kind, reference, x, y, z.mapped(act), layer.state());
  Values dz = dy;
  for (std::size_t i = 0; i < dz.data.size(); ++i) dz.data[i] *= slope(z.data[i]);
  const Values dx = layer.backward(x, dy);
  check_backward(kind, reference, x, dz, dx, layer.state(), times);
}

}  // namespace testing
