// SPDX-License-Identifier: MIT
// Rank 1 dies, in the way that is named, while the others wait for it in a forward.
#include <batchnorm/mpi.hpp>
#include <batchnorm/sync.hpp>
#include <csignal>
#include <cstdlib>
#include <stdexcept>
#include <string>

int main(int argc, char** argv) {
  const std::string how = argc > 1 ? argv[1] : "";
  batchnorm::MpiRanks(argc, argv).run([&](batchnorm::Communicator& world) {
    batchnorm::BatchNorm1d<double> bn(2);
    batchnorm::SyncBatchNorm sync(bn, world);
    const Eigen::MatrixXd x = Eigen::MatrixXd::Identity(4, 2);
    for (int step = 0; step < 3; ++step) {
      if (step == 1 && world.rank() == 1) {
        if (how == "killed") std::raise(SIGKILL);
        if (how == "exits") std::_Exit(3);
        if (how == "throws") throw std::runtime_error("out of data");
      }
      static_cast<void>(sync.backward(x, sync.forward(x)));
    }
  });
}
