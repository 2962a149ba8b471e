// SPDX-License-Identifier: MIT
#pragma once

#include <Eigen/Core>

#include "batchnorm/channel_affine.hpp"
#include "batchnorm/detail/for_each_element.hpp"
#include "batchnorm/layer.hpp"

// Folds a batch norm in eval mode into the layer before it, or into a linear layer after it. With
// the batch norm as y = scale * (x - center) + shift,
//
//   before:  scale * (W x + b - center) + shift = W' x + b'    W' = scale * W, by output channel
//                                                              b' = scale * (b - center) + shift
//   after:   W (scale * (x - center) + shift) + b = W' x + b'  W' = W * scale, by input feature
//                                                              b' = b + W (shift - scale * center)
//
// It computes in double, rounds to the type of the weights (to 16 bits by way of float), and
// changes no argument. It does not fold into a convolution after the batch norm: that convolution
// pads y with zeros; after folding it would pad x with zeros, which is not the same.
//
// `norm` is a BatchNorm1d, 2d or 3d that tracks running statistics, or a ChannelAffine. `weight` is
// a tensor or, for linear layers, a matrix, of any storage order; `bias` is a vector, or {} for
// none. Throws std::invalid_argument for weights that do not fit or leave the range of their type,
// and std::logic_error for a layer that cannot be folded.
namespace batchnorm {

/// The axes of a linear layer's weights: y = W x (PyTorch), or y = x W (Keras, Flax).
enum class LinearLayout { out_in, in_out };

/// The axes of a convolution's weights, named for two dimensions. One and three are alike.
enum class ConvLayout {
  oihw,  ///< PyTorch, ONNX; with groups (O, I / groups, H, W), depthwise (O, 1, H, W)
  hwio,  ///< Keras, Flax, TensorFlow; with groups (H, W, I / groups, O)
  hwim   ///< Keras's depthwise: (H, W, I, multiplier), output channel i * multiplier + m
};

/// The axes of a transposed convolution's weights.
enum class TransposedConvLayout {
  iohw,  ///< PyTorch, ONNX; with groups (I, O / groups, H, W)
  hwoi   ///< Keras
};

/// A layer's new weights and bias.
template <class Weight>
struct FoldedWeights {
  Weight weight;                                                   ///< of the old shape
  Eigen::Matrix<typename Weight::Scalar, Eigen::Dynamic, 1> bias;  ///< (O)
};

namespace detail {

/// For weights that are passed as X: the result, and the bias.
template <class X>
using Folded = FoldedWeights<PlainOf<X>>;
template <class X>
using BiasOf = Eigen::Matrix<typename Argument<X>::Scalar, Eigen::Dynamic, 1>;

/// y = scale * (x - center) + shift, not rounded to the layer's type.
template <class Scalar, int spatial>
[[nodiscard]] ChannelAffine<double> unrounded_map(const BatchNorm<Scalar, spatial>& bn) {
  ChannelAffine<double> map = bn.folded().template cast<double>();
  const auto map_of = bn.core().eval_maps();
  for (Index c = 0; c < map.scale.size(); ++c) map.scale[c] = map_of(c).gamma * map_of(c).inv_std();
  return map;
}
template <class Param>
[[nodiscard]] ChannelAffine<double> unrounded_map(const ChannelAffine<Param>& affine) {
  return affine.template cast<double>();
}

template <class Scalar>
[[nodiscard]] Scalar rounded_weight(double v, const Where& where) {
  const auto rounded = static_cast<Scalar>(narrow<ParamOf<Scalar>>(v));
  if (is_finite(v) && !is_finite(static_cast<double>(rounded)))
    where.invalid({"expected folded weights in the range of their type, got ", v});
  return rounded;
}
/// The bias in double, zeros if there is none.
template <class Bias>
[[nodiscard]] Eigen::VectorXd checked_bias(const Bias& bias, Index length, const Where& where) {
  if (bias.size() == 0) return Eigen::VectorXd::Zero(length);
  if (bias.size() != length)
    where.invalid({"expected a bias of length ", length, " or none, got ", bias.size()});
  return bias.template cast<double>();
}

/// Folds into the layer before. output_of(index) is the output channel of a weight, below
/// `outputs`.
template <class X, class Norm, class OutputOf>
[[nodiscard]] Folded<X> fold_into_outputs(const X& weight, const BiasOf<X>& bias, const Norm& norm,
                                          Index outputs, const OutputOf& output_of,
                                          const Where& where) {
  using Scalar = typename Argument<X>::Scalar;
  static_assert(is_supported_scalar<Scalar>,
                "batchnorm: weights must be of float, double, Eigen::half or Eigen::bfloat16");
  const ChannelAffine<double> map = unrounded_map(norm);
  Folded<X> folded{PlainOf<X>(weight), BiasOf<X>(outputs)};
  if (const Index channels = map.scale.size(); outputs != channels) {
    where.invalid({"expected ", channels, " output channels, as the batch norm has, got ", outputs,
                   " in weights of ", shape_of(folded.weight).text()});
  }
  const Eigen::VectorXd b = checked_bias(bias, outputs, where);
  for_each_element(folded.weight, [&map, &output_of, &where](const auto& i, Scalar& w) {
    w = rounded_weight<Scalar>(static_cast<double>(w) * map.scale[output_of(i)], where);
  });
  for (Index o = 0; o < outputs; ++o) {
    folded.bias[o] =
        rounded_weight<Scalar>(map.scale[o] * (b[o] - map.center[o]) + map.shift[o], where);
  }
  return folded;
}

template <int least, int most, class X>
constexpr void check_rank() {
  static_assert(Argument<X>::rank >= least && Argument<X>::rank <= most,
                "batchnorm: weights must be of rank 2 for linear layers, 3 to 5 for convolutions");
}

}  // namespace detail

/// A linear layer, then norm, as one linear layer.
template <class X, class Norm>
[[nodiscard]] detail::Folded<X> fold_into_linear(const X& weight, const detail::BiasOf<X>& bias,
                                                 const Norm& norm,
                                                 LinearLayout layout = LinearLayout::out_in) {
  detail::check_rank<2, 2, X>();
  const std::size_t axis = layout == LinearLayout::out_in ? 0 : 1;
  return detail::fold_into_outputs(weight, bias, norm, detail::shape_of(weight).extents[axis],
                                   [axis](const auto& i) { return i[axis]; },
                                   {"batchnorm", "fold_into_linear"});
}

/// A convolution, then norm, as one convolution: in one, two or three dimensions, with any stride,
/// padding, dilation and number of groups.
template <class X, class Norm>
[[nodiscard]] detail::Folded<X> fold_into_conv(const X& weight, const detail::BiasOf<X>& bias,
                                               const Norm& norm,
                                               ConvLayout layout = ConvLayout::oihw) {
  detail::check_rank<3, 5, X>();
  constexpr std::size_t last = static_cast<std::size_t>(detail::Argument<X>::rank) - 1;
  const auto extents = detail::shape_of(weight).extents;
  const detail::Where where{"batchnorm", "fold_into_conv"};
  if (layout == ConvLayout::hwim) {
    return detail::fold_into_outputs(
        weight, bias, norm, extents[last - 1] * extents[last],
        [&extents](const auto& i) { return i[last - 1] * extents[last] + i[last]; }, where);
  }
  const std::size_t axis = layout == ConvLayout::oihw ? 0 : last;
  return detail::fold_into_outputs(
      weight, bias, norm, extents[axis], [axis](const auto& i) { return i[axis]; }, where);
}

/// A transposed convolution, then norm, as one transposed convolution. Its weights do not show the
/// number of groups, so `groups` does.
template <class X, class Norm>
[[nodiscard]] detail::Folded<X> fold_into_transposed_conv(
    const X& weight, const detail::BiasOf<X>& bias, const Norm& norm, Eigen::Index groups = 1,
    TransposedConvLayout layout = TransposedConvLayout::iohw) {
  detail::check_rank<3, 5, X>();
  constexpr std::size_t last = static_cast<std::size_t>(detail::Argument<X>::rank) - 1;
  const auto extents = detail::shape_of(weight).extents;
  const detail::Where where{"batchnorm", "fold_into_transposed_conv"};
  const bool iohw = layout == TransposedConvLayout::iohw;
  const std::size_t input_axis = iohw ? 0 : last, output_axis = iohw ? 1 : last - 1;
  const Eigen::Index inputs = extents[input_axis], outputs_of_group = extents[output_axis];
  if (groups < 1 || inputs % groups != 0)
    where.invalid({"expected groups that divide ", inputs, " input channels, got ", groups});
  return detail::fold_into_outputs(
      weight, bias, norm, outputs_of_group * groups,
      [=](const auto& i) {
        return i[input_axis] / (inputs / groups) * outputs_of_group + i[output_axis];
      },
      where);
}

/// norm, then a linear layer, as one linear layer. If (N, C, H, W) is flattened between the two,
/// each channel has H * W features in a row. If (N, H, W, C) is flattened, use ChannelAxis::last.
template <class X, class Norm>
[[nodiscard]] detail::Folded<X> fold_into_next_linear(const Norm& norm, const X& weight,
                                                      const detail::BiasOf<X>& bias,
                                                      LinearLayout layout = LinearLayout::out_in,
                                                      ChannelAxis flattened = ChannelAxis::first) {
  using Scalar = typename detail::Argument<X>::Scalar;
  using Index = Eigen::Index;
  detail::check_rank<2, 2, X>();
  const detail::Where where{"batchnorm", "fold_into_next_linear"};
  const ChannelAffine<double> map = detail::unrounded_map(norm);
  const detail::Shape shape = detail::shape_of(weight);
  const std::size_t output_axis = layout == LinearLayout::out_in ? 0 : 1;
  const Index inputs = shape.extents[1 - output_axis], outputs = shape.extents[output_axis];
  const Index channels = map.scale.size();
  if (channels == 0 || inputs == 0 || inputs % channels != 0) {
    where.invalid({"expected features of ", channels, " channels, as the batch norm has, got ",
                   inputs, " in weights of ", shape.text()});
  }
  Eigen::VectorXd b = detail::checked_bias(bias, outputs, where);
  detail::Folded<X> folded{detail::PlainOf<X>(weight), detail::BiasOf<X>(outputs)};
  const auto fold_one = [&map, &b, &where, flattened, output_axis, inputs, channels](const auto& i,
                                                                                     Scalar& w) {
    const Index input = i[1 - output_axis];
    const Index c =
        flattened == ChannelAxis::first ? input / (inputs / channels) : input % channels;
    const double old = static_cast<double>(w);
    b[i[output_axis]] += old * (map.shift[c] - map.scale[c] * map.center[c]);
    w = detail::rounded_weight<Scalar>(old * map.scale[c], where);
  };
  detail::for_each_element(folded.weight, fold_one);
  for (Index o = 0; o < outputs; ++o) folded.bias[o] = detail::rounded_weight<Scalar>(b[o], where);
  return folded;
}

}  // namespace batchnorm
