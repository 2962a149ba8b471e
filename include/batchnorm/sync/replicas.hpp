// SPDX-License-Identifier: MIT
#pragma once

#include <condition_variable>
#include <exception>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "batchnorm/sync/agreement.hpp"

namespace batchnorm {

/// Ranks that are threads of this process.
///
///   Replicas(4).run([&](Communicator& world) { train(world.rank(), world); });
///
/// If a rank ends, by an exception or because it is done, the ranks that wait for it in an exchange
/// get a std::runtime_error. So no rank waits for ever.
class Replicas {
 public:
  /// Throws std::invalid_argument unless ranks >= 1.
  explicit Replicas(int ranks) {
    const detail::Where where{"Replicas", "Replicas"};
    if (ranks < 1) where.invalid({"expected at least 1 rank, got ", ranks});
    for (int rank = 0; rank < ranks; ++rank) members_.emplace_back(*this, rank);
  }
  Replicas(const Replicas&) = delete;
  Replicas& operator=(const Replicas&) = delete;

  [[nodiscard]] int size() const { return static_cast<int>(members_.size()); }

  /// A rank's communicator, for threads that the program starts itself. leave(rank) says that such
  /// a thread will not use it any more.
  [[nodiscard]] Communicator& communicator(int rank) {
    const detail::Where where{"Replicas", "communicator"};
    if (rank < 0 || rank >= size())
      where.invalid({"expected a rank from 0 to ", size() - 1, ", got ", rank});
    return members_[static_cast<std::size_t>(rank)];
  }
  void leave(int rank) { end(communicator(rank).rank(), nullptr); }

  /// Calls work(communicator) on a thread for each rank and waits for all of them. Then it throws
  /// the exception of the rank that failed first in time. It throws std::runtime_error if a thread
  /// cannot be started; before that it waits for the ranks that were started. Those of them that
  /// wait for an exchange get an error.
  template <class Work>
  void run(const Work& work) {
    std::vector<std::thread> threads;
    threads.reserve(members_.size());
    left_ = -1;
    arrived_ = 0;
    first_error_ = nullptr;
    const detail::Caught not_started = detail::caught([&] {
      for (Member& one : members_) {
        threads.emplace_back([this, &one, &work] {
          end(one.rank(), thrown_by([&] { work(static_cast<Communicator&>(one)); }));
        });
      }
    });
    if (not_started.kind != detail::Caught::nothing) {
      const auto started = static_cast<int>(threads.size());
      const std::string text = "[Replicas::run] expected a thread for each of " +
                               std::to_string(size()) + " ranks, got " + std::to_string(started) +
                               ": " + not_started.text;
      end(started, std::make_exception_ptr(std::runtime_error(text)));
    }
    for (std::thread& thread : threads) thread.join();
    if (first_error_) std::rethrow_exception(first_error_);
  }

 private:
  class Member final : public Communicator {
   public:
    Member(Replicas& all, int rank) : all_(&all), rank_(rank) {}
    [[nodiscard]] int rank() const override { return rank_; }
    [[nodiscard]] int size() const override { return all_->size(); }
    [[nodiscard]] Eigen::MatrixXd all_gather(const Eigen::VectorXd& mine) override {
      return all_->exchange(rank_, mine);
    }

   private:
    Replicas* all_;
    int rank_;
  };

  /// Says that a rank has ended, with an error or with nullptr, to the ranks that wait for it.
  void end(int rank, const std::exception_ptr& error) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!first_error_) first_error_ = error;
    left_ = rank;
    all_came_.notify_all();
  }
  /// Throws if a rank has ended: then no exchange will be complete.
  void check_all_there(int rank) const {
    if (left_ < 0) return;
    detail::fail<std::runtime_error>("[Replicas] rank " + std::to_string(rank) +
                                     " waits for an exchange with rank " + std::to_string(left_) +
                                     ", which has ended");
  }
  [[nodiscard]] Eigen::MatrixXd exchange(int rank, const Eigen::VectorXd& mine) {
    std::unique_lock<std::mutex> lock(mutex_);
    check_all_there(rank);
    if (arrived_ == 0) {
      // Not resize, which frees the matrix first: if it then threw, it would be freed again.
      if (gathering_.rows() != mine.size()) gathering_ = Eigen::MatrixXd(mine.size(), size());
      mismatch_ = false;
    }
    mismatch_ = mismatch_ || mine.size() != gathering_.rows();
    if (!mismatch_) gathering_.col(rank) = mine;
    const long turn = turn_;
    if (++arrived_ == size()) {
      // No rank still reads the previous result: all ranks have arrived since then.
      result_.swap(gathering_);
      result_mismatches_ = mismatch_;
      arrived_ = 0;
      ++turn_;
      all_came_.notify_all();
    }
    all_came_.wait(lock, [&] { return turn_ != turn || left_ >= 0; });
    if (turn_ == turn) check_all_there(rank);
    if (result_mismatches_) {
      detail::fail<std::logic_error>(
          "[Replicas] expected as many numbers from every rank, got different ones: do all ranks "
          "make the same calls?");
    }
    return result_;
  }
  template <class F>
  [[nodiscard]] static std::exception_ptr thrown_by(const F& f) {
#if defined(__cpp_exceptions)
    try {
      f();
    } catch (...) {
      return std::current_exception();
    }
#else
    f();
#endif
    return nullptr;
  }

  std::vector<Member> members_;
  std::mutex mutex_;  // of the members below
  std::condition_variable all_came_;
  Eigen::MatrixXd gathering_, result_;  // a column for each rank
  int arrived_ = 0;                     // ranks in the exchange under way
  long turn_ = 0;                       // exchanges made
  int left_ = -1;                       // a rank that has ended
  std::exception_ptr first_error_;      // of a rank
  bool mismatch_ = false, result_mismatches_ = false;
};

}  // namespace batchnorm
