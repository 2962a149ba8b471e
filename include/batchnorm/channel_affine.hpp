// SPDX-License-Identifier: MIT
#pragma once

#include <Eigen/Core>

namespace batchnorm {

/// A batch-norm layer in eval mode, per channel:  y = scale * (x - center) + shift
/// with scale = gamma / sqrt(running_var + eps), center = running_mean, shift = beta. A value of
/// its own, to share between threads. The center stays apart from the shift because scale * x alone
/// loses digits where a mean is large against its deviation.
template <class Param>
struct ChannelAffine {
  Eigen::Matrix<Param, Eigen::Dynamic, 1> scale;   ///< (C)
  Eigen::Matrix<Param, Eigen::Dynamic, 1> center;  ///< (C)
  Eigen::Matrix<Param, Eigen::Dynamic, 1> shift;   ///< (C)
};

}  // namespace batchnorm
