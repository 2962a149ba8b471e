// SPDX-License-Identifier: MIT
#pragma once

#include <Eigen/Core>
#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <unsupported/Eigen/CXX11/Tensor>

#include "batchnorm/channel_affine.hpp"
#include "batchnorm/detail/arguments.hpp"
#include "batchnorm/detail/core.hpp"
#include "batchnorm/options.hpp"

namespace batchnorm {
namespace detail {

/// on_views for the arguments of a layer's call: checks their ranks and the layer's vectors too.
template <class Scalar, int spatial, class Param, class F, class... A>
void on_views_of(const Core<Param>& layer, const Where& where, const F& f, const A&... arguments) {
  constexpr auto fits = [](int rank) { return rank == spatial + 2 || (spatial == 1 && rank == 2); };
  constexpr bool all_fit = (fits(Argument<Bare<typename A::Type>>::rank) && ...);
  static_assert(spatial != 1 || all_fit, "batchnorm: BatchNorm1d takes (N, C) and (N, C, L)");
  static_assert(spatial != 2 || all_fit, "batchnorm: BatchNorm2d takes (N, C, H, W): rank 4");
  static_assert(spatial != 3 || all_fit, "batchnorm: BatchNorm3d takes (N, C, D, H, W): rank 5");
  if constexpr (all_fit) {
    layer.check_lengths(where);
    on_views<Scalar>(where, layer.options.channel_axis, layer.num_features, f, arguments...);
  }
}

}  // namespace detail

/// Batch normalization over the channels of a tensor (Ioffe and Szegedy, 2015, arXiv 1502.03167).
/// x is (N, C) or, with `spatial` dimensions, (N, C, L), (N, C, H, W) or (N, C, D, H, W):
///
///   y = gamma * x_hat + beta        x_hat = (x - mu) / sqrt(var + eps)
///
/// In training mode mu and var are the mean and the population variance of the n values of a
/// channel, and the running statistics move towards them. In eval mode mu and var are the running
/// statistics. Scalar is float, double, Eigen::half or Eigen::bfloat16. Param is the type of
/// parameters, gradients and running statistics: float for the 16-bit scalars, otherwise Scalar.
///
/// x, y, dy and dx are Eigen tensors (Tensor, TensorMap, TensorFixedSize, TensorRef; x and dy also
/// expressions), row-major or column-major. BatchNorm1d also takes dense matrices and arrays of N
/// rows and C columns, of any strides, and expressions of them. Arguments whose elements lie in
/// memory are used where they lie; they must share one storage order. The others are evaluated
/// once, which allocates memory. A TensorRef that is written must not refer to x or dy.
///
/// forward, infer and backward throw std::invalid_argument if x does not have C channels or another
/// argument does not have x's shape, and std::logic_error if a vector of the layer has another
/// length than C or the layer was moved from. Messages say where, what was expected and what came.
/// A call that throws changes nothing. One thread at a time may call forward or backward. Several
/// threads may call infer while no thread changes the layer.
template <class Scalar, int spatial>
class BatchNorm {
  static_assert(detail::is_supported_scalar<Scalar>,
                "batchnorm: Scalar must be float, double, Eigen::half or Eigen::bfloat16");
  template <class X>
  using IfArgument = std::enable_if_t<!std::is_same_v<X, Saved>, int>;
  /// The type of a result. It checks x's scalar, so that compilers report a wrong one before errors
  /// where the result is used.
  template <class X>
  using PlainOf =
      std::enable_if_t<detail::check_scalar<Scalar, typename detail::Argument<X>::Scalar>() || true,
                       detail::PlainOf<X>>;

 public:
  using Param = detail::ParamOf<Scalar>;
  using Vector = Eigen::Matrix<Param, Eigen::Dynamic, 1>;
  using Index = Eigen::Index;

  /// A layer of C = num_features channels in training mode: gamma 1, beta 0, running mean 0 and
  /// variance 1. Throws std::invalid_argument unless num_features >= 1 and the options are valid.
  explicit BatchNorm(Index num_features, Options options = {})
      : core_(num_features, options, in("BatchNorm")) {}
  template <class Number, std::enable_if_t<std::is_arithmetic_v<Number>, int> = 0>
  BatchNorm(Index, Number, double = 0) = delete;  // say which: Options o; o.eps = 1e-5;

  // Forward. -------------------------------------------------------------------------------------

  /// Returns y, of x's shape and storage order. In training mode the running statistics move, and a
  /// batch is counted. Throws std::invalid_argument for too few values per channel, as
  /// Options::single_value says, and std::domain_error as Options::non_finite says.
  template <class X>
  [[nodiscard]] PlainOf<X> forward(const X& x) {
    return detail::written(x, [this](const auto& values, auto& y) { this->forward(values, y); });
  }
  /// The same into y, already of x's shape. It allocates nothing after the first call with this
  /// shape in this mode. In training mode y must not overlap x, which backward needs. In eval mode
  /// y may be x itself; then backward is refused.
  template <class X, class Y>
  void forward(const X& x, Y&& y) {
    const auto f = [&](const Shape& shape, const View& in_x, const View& out_y) {
      core_.forward(in("forward"), shape, in_x, out_y);
    };
    on_views("forward", f, detail::Reads{"x", x}, detail::Writes{"y", y});
  }
  template <class X, class... Y>
  PlainOf<X> forward(const X& x, const Y&...) const {
    static_assert(sizeof(X) == 0,
                  "batchnorm: forward takes x, or x and y, and changes the layer; "
                  "a const layer has infer(x)");
    return infer(x);
  }

  /// Returns the y of eval mode, whatever the mode, with the same bits as forward in eval mode. The
  /// layer does not change, so threads may share it; nothing is kept for a backward. It uses the
  /// calling thread alone. Throws std::logic_error if running statistics are not tracked.
  template <class X>
  [[nodiscard]] PlainOf<X> infer(const X& x) const {
    return detail::written(x, [this](const auto& values, auto& y) { this->infer(values, y); });
  }
  /// The same into y, already of x's shape: x itself, or apart from x. It allocates nothing.
  template <class X, class Y>
  void infer(const X& x, Y&& y) const {
    const auto f = [&](const Shape&, const View& in_x, const View& out_y) {
      core_.infer(in("infer"), in_x, out_y);
    };
    on_views("infer", f, detail::Reads{"x", x}, detail::Writes{"y", y});
  }

  // Backward. ------------------------------------------------------------------------------------

  /// Returns dx, the gradient with respect to x, of x's shape and storage order. x is what the last
  /// forward was given, dy the gradient with respect to its y:
  ///   dbeta = sum dy        dgamma = sum dy * x_hat
  ///   dx = gamma * inv_std * (dy - dbeta / n - x_hat * dgamma / n)
  /// or dx = gamma * inv_std * dy if running statistics normalized. Adds dgamma to grad_gamma() and
  /// dbeta to grad_beta(). It uses the statistics of that forward, even if the mode or the running
  /// statistics have changed since, and the gamma of now. It may be called again. Throws
  /// std::logic_error if there was no forward or it wrote y over x, std::invalid_argument if x has
  /// another shape than that forward's.
  template <class X, class Dy, IfArgument<X> = 0>
  [[nodiscard]] PlainOf<X> backward(const X& x, const Dy& dy) {
    return backward(core_.saved, x, dy);
  }
  /// The same into dx, already of x's shape: apart from x, but it may be dy. It allocates nothing
  /// after the first call with the shape.
  template <class X, class Dy, class Dx, IfArgument<X> = 0>
  void backward(const X& x, const Dy& dy, Dx&& dx) {
    backward(core_.saved, x, dy, dx);
  }

  template <class Dy>
  PlainOf<Dy> backward(const Dy& dy) {
    static_assert(sizeof(Dy) == 0, "batchnorm: backward needs x: backward(x, dy)");
    return dy;
  }
  template <class X, class... A>
  X backward(const X& x, const A&...) const {
    static_assert(sizeof(X) == 0,
                  "batchnorm: backward takes x and dy, or x, dy and dx, and adds to the gradients "
                  "of a layer that is not const");
    return x;
  }
  /// What the last forward left for backward: the statistics that it normalized with.
  [[nodiscard]] const Saved& saved() const { return core_.saved; }

  /// The backward of an earlier forward, whose saved() was kept, where a graph uses a layer twice.
  template <class X, class Dy>
  [[nodiscard]] PlainOf<X> backward(const Saved& saved, const X& x, const Dy& dy) {
    return detail::written(x, [this, &saved, &dy](const auto& values, auto& dx) {
      this->backward(saved, values, dy, dx);
    });
  }
  template <class X, class Dy, class Dx>
  void backward(const Saved& saved, const X& x, const Dy& dy, Dx&& dx) {
    const auto f = [&](const Shape& shape, const View& in_x, const View& in_dy,
                       const View& out_dx) {
      core_.backward(in("backward"), saved, shape, in_x, in_dy, out_dx);
    };
    on_views("backward", f, detail::Reads{"x", x}, detail::Reads{"dy", dy},
             detail::Writes{"dx", dx});
  }

  // Mode, parameters, statistics. ----------------------------------------------------------------

  /// Training mode: forward normalizes by the batch's statistics and moves the running ones.
  void train(bool on = true) { core_.training = on; }
  /// Eval mode, as by train(false): forward normalizes by the running statistics, if tracked.
  void eval() { core_.training = false; }
  [[nodiscard]] bool is_training() const { return core_.training; }

  /// (C) each, or of length 0 if the option is off.
  [[nodiscard]] Vector& gamma() { return core_.gamma; }
  [[nodiscard]] const Vector& gamma() const { return core_.gamma; }
  [[nodiscard]] Vector& beta() { return core_.beta; }
  [[nodiscard]] const Vector& beta() const { return core_.beta; }
  [[nodiscard]] Vector& grad_gamma() { return core_.grad_gamma; }
  [[nodiscard]] const Vector& grad_gamma() const { return core_.grad_gamma; }
  [[nodiscard]] Vector& grad_beta() { return core_.grad_beta; }
  [[nodiscard]] const Vector& grad_beta() const { return core_.grad_beta; }
  [[nodiscard]] Vector& running_mean() { return core_.running.mean; }
  [[nodiscard]] const Vector& running_mean() const { return core_.running.mean; }
  [[nodiscard]] Vector& running_var() { return core_.running.var; }
  [[nodiscard]] const Vector& running_var() const { return core_.running.var; }

  /// How many training batches were accepted since the last reset.
  [[nodiscard]] std::int64_t& num_batches_tracked() { return core_.running.batches; }
  [[nodiscard]] std::int64_t num_batches_tracked() const { return core_.running.batches; }

  /// Sets the gradients to 0.
  void zero_grad() { core_.grad_gamma.setZero(), core_.grad_beta.setZero(); }
  /// Sets gamma to 1 and beta to 0, and nothing else.
  void reset_parameters() { core_.gamma.setOnes(), core_.beta.setZero(); }
  /// Sets the running mean to 0, the running variance to 1 and the counter to 0.
  void reset_running_stats() { core_.running.reset(); }

  [[nodiscard]] Index num_features() const { return core_.num_features; }
  [[nodiscard]] const Options& options() const { return core_.options; }
  /// Throws std::invalid_argument for a weight outside [0, 1].
  void set_momentum(Momentum momentum) {
    detail::validate(momentum, in("set_momentum"));
    core_.options.momentum = momentum;
  }

  /// Sets the threads to use: those of an Eigen::ThreadPoolDevice, which must outlive the layer and
  /// its copies. nullptr, the default, stands for the calling thread alone. Results are the same to
  /// the bit for any number of threads. A call made on a thread of the pool uses that thread alone.
  /// The calling thread works too: n threads in all are a pool of n - 1 and a device of n.
  template <class Device>
  void set_device(const Device* device) {
    constexpr bool is_pool = std::is_base_of_v<Eigen::ThreadPoolDevice, Device>;
    static_assert(is_pool, "batchnorm: set_device takes an Eigen::ThreadPoolDevice");
    static_assert(!is_pool || detail::is_complete<Device>,
                  "batchnorm: define EIGEN_USE_THREADS before any Eigen header to use set_device");
    if constexpr (is_pool && detail::is_complete<Device>) {
      core_.workers = device ? detail::workers_of(*device) : detail::Workers();
    }
  }
  void set_device(std::nullptr_t) { core_.workers = detail::Workers(); }

  /// The layer in eval mode as y = scale * (x - center) + shift, by the running statistics of now.
  /// It does not know the channel axis: for ChannelAxis::last, call apply(x, ChannelAxis::last).
  /// Throws std::logic_error if they are not tracked.
  [[nodiscard]] ChannelAffine<Param> folded() const {
    core_.check_lengths(in("folded"));
    return core_.folded(in("folded"));
  }

  /// For headers that build on the layer, not for programs.
  [[nodiscard]] detail::Core<Param>& core() { return core_; }
  [[nodiscard]] const detail::Core<Param>& core() const { return core_; }

 private:
  using View = detail::View;
  using Shape = detail::Shape;

  [[nodiscard]] static detail::Where in(const char* call) {
    return {spatial == 1 ? "BatchNorm1d" : spatial == 2 ? "BatchNorm2d" : "BatchNorm3d", call};
  }
  template <class F, class... A>
  void on_views(const char* call, const F& f, const A&... arguments) const {
    detail::on_views_of<Scalar, spatial>(core_, in(call), f, arguments...);
  }

  detail::Core<Param> core_;
};

// Write the scalar: BatchNorm2d<float> bn(64). C++17 cannot deduce arguments of alias templates.

/// For (N, C) tensors and matrices, and (N, C, L).
template <class Scalar>
using BatchNorm1d = BatchNorm<Scalar, 1>;
/// For (N, C, H, W).
template <class Scalar>
using BatchNorm2d = BatchNorm<Scalar, 2>;
/// For (N, C, D, H, W).
template <class Scalar>
using BatchNorm3d = BatchNorm<Scalar, 3>;

}  // namespace batchnorm
