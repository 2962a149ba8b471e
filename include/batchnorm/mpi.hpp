// SPDX-License-Identifier: MIT
#pragma once

// Ranks that are processes, on one machine or many, by MPI's C interface. For CMake, this is the
// target batchnorm::mpi of find_package(batchnorm COMPONENTS mpi).
//
//   int main(int argc, char** argv) {
//     batchnorm::MpiRanks(argc, argv).run([&](batchnorm::Communicator& world) {
//       batchnorm::BatchNorm2d<float> bn(64);
//       batchnorm::SyncBatchNorm sync(bn, world);   // sync.hpp
//     });
//   }
//
//   mpirun -n 4 ./program         (as root: mpirun --allow-run-as-root --oversubscribe -n 4)

#ifndef OMPI_SKIP_MPICXX
#define OMPI_SKIP_MPICXX 1  // the C interface alone
#endif
#include <mpi.h>

#include <cstdio>
#include <exception>
#include <limits>
#include <stdexcept>

#include "batchnorm/error.hpp"
#include "batchnorm/sync/communicator.hpp"

namespace batchnorm {

/// The processes of an MPI communicator. It works on a duplicate, so that its messages do not mix
/// with others. An error that MPI finds ends the job. All processes construct it after MPI_Init,
/// destroy it before MPI_Finalize, and call it from one thread at a time.
class MpiCommunicator final : public Communicator {
 public:
  explicit MpiCommunicator(MPI_Comm processes = MPI_COMM_WORLD) {
    MPI_Comm_dup(processes, &comm_);
    MPI_Comm_set_errhandler(comm_, MPI_ERRORS_ARE_FATAL);
    MPI_Comm_rank(comm_, &rank_);
    MPI_Comm_size(comm_, &size_);
    MPI_Op_create(&add, /*commute=*/0, &sum_in_order_);
  }
  ~MpiCommunicator() override {
    MPI_Op_free(&sum_in_order_);
    MPI_Comm_free(&comm_);
  }
  MpiCommunicator& operator=(MpiCommunicator&&) = delete;  // nor copies

  [[nodiscard]] int rank() const override { return rank_; }
  [[nodiscard]] int size() const override { return size_; }

  [[nodiscard]] Eigen::MatrixXd all_gather(const Eigen::VectorXd& mine) override {
    const int count = checked(mine.size());
    Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::ColMajor> all(mine.size(), size_);
    MPI_Allgather(mine.data(), count, MPI_DOUBLE, all.data(), count, MPI_DOUBLE, comm_);
    return all;
  }

  /// MPI never reorders an operation that does not commute. So its tree of additions keeps the
  /// order of the ranks, and all ranks and all runs of as many ranks have the same bits.
  [[nodiscard]] Eigen::VectorXd all_reduce(const Eigen::VectorXd& mine) override {
    Eigen::VectorXd sum(mine.size());
    MPI_Allreduce(mine.data(), sum.data(), checked(mine.size()), MPI_DOUBLE, sum_in_order_, comm_);
    return sum;
  }

 private:
  static void add(void* lower_ranks, void* sum, int* count, MPI_Datatype*) {
    const double* a = static_cast<const double*>(lower_ranks);
    double* b = static_cast<double*>(sum);
    for (int i = 0; i < *count; ++i) b[i] = a[i] + b[i];
  }
  [[nodiscard]] static int checked(Eigen::Index count) {
    if (count > (std::numeric_limits<int>::max)()) {   // GCOV_EXCL_BR_LINE: takes 16 GB
      detail::fail<std::length_error>(detail::joined(  // GCOV_EXCL_LINE: as above
          {"[MpiCommunicator] expected less than 2^31 numbers, got ", count}));
    }
    return static_cast<int>(count);
  }

  MPI_Comm comm_ = MPI_COMM_NULL;
  MPI_Op sum_in_order_ = MPI_OP_NULL;
  int rank_ = 0, size_ = 1;
};

/// The processes that mpirun started. Starts MPI and ends it, which a program may do once.
class MpiRanks {
 public:
  MpiRanks(int& argc, char**& argv) {
    int provided = 0;
    MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &provided);
  }
  ~MpiRanks() { MPI_Finalize(); }
  MpiRanks& operator=(MpiRanks&&) = delete;  // nor copies

  /// Calls work(communicator). If it throws, prints the message and ends the job with an error on
  /// all processes, so that no process waits for one that has ended.
  template <class Work>
  void run(const Work& work) {
    MpiCommunicator world;
#if defined(__cpp_exceptions)
    try {
      work(static_cast<Communicator&>(world));
      // GCOV_EXCL_START: mpi.one_rank_* execute it, but a job that is aborted saves no counts.
    } catch (const std::exception& error) {
      give_up(world, error.what());
    } catch (...) {
      give_up(world, "an error of unknown type");
    }  // GCOV_EXCL_STOP
#else
    work(static_cast<Communicator&>(world));
#endif
  }

 private:
  static void give_up(const Communicator& world, const char* what) {  // GCOV_EXCL_START: as above
    std::fprintf(stderr, "%s (rank %d of %d ends the job)\n", what, world.rank(), world.size());
    std::fflush(stderr);
    MPI_Abort(MPI_COMM_WORLD, 1);
  }  // GCOV_EXCL_STOP
};

}  // namespace batchnorm
