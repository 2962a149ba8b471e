// SPDX-License-Identifier: MIT
#pragma once

#include <Eigen/Core>

namespace batchnorm {

/// One of several ranks, threads or processes, that exchange numbers. Ranks make the same calls in
/// the same order, each with as many numbers as the others; a call returns when all have made it,
/// and throws where that cannot be. To bring a network of your own, derive from this.
class Communicator {
 public:
  virtual ~Communicator() = default;

  [[nodiscard]] virtual int rank() const = 0;  ///< in [0, size())
  [[nodiscard]] virtual int size() const = 0;

  /// The numbers of all ranks: column r is rank r's.
  [[nodiscard]] virtual Eigen::MatrixXd all_gather(const Eigen::VectorXd& mine) = 0;

  /// Their sum over the ranks, of the same bits on every rank. Added in rank order, unless a
  /// communicator knows of a cheaper way that is fixed too.
  [[nodiscard]] virtual Eigen::VectorXd all_reduce(const Eigen::VectorXd& mine) {
    const Eigen::MatrixXd all = all_gather(mine);
    Eigen::VectorXd sum = all.col(0);
    for (Eigen::Index r = 1; r < all.cols(); ++r) sum += all.col(r);
    return sum;
  }

 protected:
  Communicator() = default;
  Communicator(const Communicator&) = default;
  Communicator& operator=(const Communicator&) = default;
};

}  // namespace batchnorm
