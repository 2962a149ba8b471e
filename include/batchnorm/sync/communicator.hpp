// SPDX-License-Identifier: MIT
#pragma once

#include <Eigen/Core>

namespace batchnorm {

/// One of several ranks, which are threads or processes that exchange numbers. All ranks make the
/// same calls in the same order, with the same count of numbers. A call returns when all ranks have
/// made it, and throws if that cannot happen. Derive from this class to use another network.
class Communicator {
 public:
  virtual ~Communicator() = default;

  [[nodiscard]] virtual int rank() const = 0;  ///< in [0, size())
  [[nodiscard]] virtual int size() const = 0;

  /// The numbers of all ranks: column r is from rank r.
  [[nodiscard]] virtual Eigen::MatrixXd all_gather(const Eigen::VectorXd& mine) = 0;

  /// The sum over the ranks, with the same bits on every rank: added in rank order, unless a
  /// communicator has a faster order that is fixed too.
  [[nodiscard]] virtual Eigen::VectorXd all_reduce(const Eigen::VectorXd& mine) {
    const Eigen::MatrixXd all = all_gather(mine);
    Eigen::VectorXd sum = all.col(0);
    for (Eigen::Index r = 1; r < all.cols(); ++r) sum += all.col(r);
    return sum;
  }
};

}  // namespace batchnorm
