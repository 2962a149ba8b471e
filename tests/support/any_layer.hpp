// SPDX-License-Identifier: MIT
// A layer of any scalar, rank, storage order and container behind one interface, so that one test
// body runs over them all and is compiled once.
#pragma once

#include <memory>
#include <string>
#include <type_traits>
#include <vector>

#include "support/values.hpp"

namespace testing {

/// All that a layer knows and shows, in double, which holds every scalar's values exactly.
struct State {
  std::vector<double> gamma, beta, grad_gamma, grad_beta, running_mean, running_var;
  std::int64_t counter = 0;

  friend bool operator==(const State& a, const State& b) {
    return a.gamma == b.gamma && a.beta == b.beta && a.grad_gamma == b.grad_gamma &&
           a.grad_beta == b.grad_beta && a.running_mean == b.running_mean &&
           a.running_var == b.running_var && a.counter == b.counter;
  }
};

class AnyLayer {
 public:
  virtual ~AnyLayer() = default;
  virtual Values forward(const Values& x) = 0;
  virtual Values backward(const Values& x, const Values& dy) = 0;
  virtual void train(bool on) = 0;
  virtual void set_momentum(batchnorm::Momentum momentum) = 0;
  virtual State state() const = 0;
  virtual void set(const State& state) = 0;
};

/// The layer that takes tensors of this rank.
template <class Scalar, int rank>
using LayerOf = std::conditional_t<
    rank == 4, batchnorm::BatchNorm2d<Scalar>,
    std::conditional_t<rank == 5, batchnorm::BatchNorm3d<Scalar>, batchnorm::BatchNorm1d<Scalar>>>;

/// Calls f with a rank of 2 to 5 as a constant, and returns true; returns false for other ranks.
template <class F>
bool with_rank(std::size_t rank, const F& f) {
  if (rank == 2) f(std::integral_constant<int, 2>());
  if (rank == 3) f(std::integral_constant<int, 3>());
  if (rank == 4) f(std::integral_constant<int, 4>());
  if (rank == 5) f(std::integral_constant<int, 5>());
  return rank >= 2 && rank <= 5;
}

template <class Form>
class LayerOfForm : public AnyLayer {
 public:
  LayerOfForm(Index channels, const batchnorm::Options& options)
      : layer_(channels, options), axis_(options.channel_axis) {}

  Values forward(const Values& x) override {
    return Form::read(layer_.forward(Form::make(x, axis_)), axis_);
  }
  Values backward(const Values& x, const Values& dy) override {
    return Form::read(layer_.backward(Form::make(x, axis_), Form::make(dy, axis_)), axis_);
  }
  void train(bool on) override { layer_.train(on); }
  void set_momentum(batchnorm::Momentum momentum) override { layer_.set_momentum(momentum); }
  State state() const override {
    return {list(layer_.gamma()),        list(layer_.beta()),         list(layer_.grad_gamma()),
            list(layer_.grad_beta()),    list(layer_.running_mean()), list(layer_.running_var()),
            layer_.num_batches_tracked()};
  }
  void set(const State& state) override {
    put(state.gamma, layer_.gamma());
    put(state.beta, layer_.beta());
    put(state.grad_gamma, layer_.grad_gamma());
    put(state.grad_beta, layer_.grad_beta());
    put(state.running_mean, layer_.running_mean());
    put(state.running_var, layer_.running_var());
  }

 protected:
  using Layer = LayerOf<typename Form::Scalar, Form::rank>;

  Layer layer_;
  batchnorm::ChannelAxis axis_;

 private:
  using Vector = Eigen::Matrix<typename Layer::Param, Eigen::Dynamic, 1>;

  static std::vector<double> list(const Vector& v) { return {v.data(), v.data() + v.size()}; }
  static void put(const std::vector<double>& from, Vector& to) {
    for (std::size_t c = 0; c < from.size(); ++c) {
      to[static_cast<Index>(c)] = static_cast<typename Layer::Param>(from[c]);
    }
  }
};

/// One kind of layer and argument, and what rounding it may show.
struct Kind {
  std::string name;
  int rank;
  bool is_double;
  double unit;   // half an ulp of 1 that storing a result costs beyond the computation's own error
  double small;  // half the smallest step of the type
  std::unique_ptr<AnyLayer> (*layer)(Index channels, const batchnorm::Options& options);
  Values (*rounded)(const Values& v);  // to the scalar
};

/// The kind whose layers are `Made`: a LayerOfForm, or a class derived from it.
template <class Form, class Made = LayerOfForm<Form>>
Kind kind_of(const char* scalar, double unit, double small) {
  const std::string order = Form::order == Eigen::RowMajor ? "row-major" : "column-major";
  return {std::string(scalar) + " " + Form::name + " of rank " + std::to_string(Form::rank) + ", " +
              order,
          Form::rank,
          std::is_same_v<typename Form::Scalar, double>,
          unit,
          small,
          [](Index channels, const batchnorm::Options& options) -> std::unique_ptr<AnyLayer> {
            return std::make_unique<Made>(channels, options);
          },
          [](const Values& v) {
            return v.mapped([](double one) {
              return static_cast<double>(static_cast<typename Form::Scalar>(one));
            });
          }};
}

template <class Scalar, int order>
void add_kinds_in_order(std::vector<Kind>& kinds, const char* scalar, double unit, double small) {
  kinds.push_back(kind_of<TensorForm<Scalar, 2, order>>(scalar, unit, small));
  kinds.push_back(kind_of<TensorForm<Scalar, 3, order>>(scalar, unit, small));
  kinds.push_back(kind_of<TensorForm<Scalar, 4, order>>(scalar, unit, small));
  kinds.push_back(kind_of<TensorForm<Scalar, 5, order>>(scalar, unit, small));
  kinds.push_back(kind_of<MatrixForm<Scalar, order>>(scalar, unit, small));
}
template <class Scalar>
void add_kinds(std::vector<Kind>& kinds, const char* scalar, double unit, double small) {
  add_kinds_in_order<Scalar, Eigen::RowMajor>(kinds, scalar, unit, small);
  add_kinds_in_order<Scalar, Eigen::ColMajor>(kinds, scalar, unit, small);
}

}  // namespace testing
