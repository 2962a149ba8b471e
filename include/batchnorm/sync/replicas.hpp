// SPDX-License-Identifier: MIT
#pragma once

#include <condition_variable>
#include <exception>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "batchnorm/error.hpp"
#include "batchnorm/sync/communicator.hpp"

namespace batchnorm {

/// Ranks that are threads of this process.
///
///   Replicas(4).run([&](Communicator& world) { train(world.rank(), world); });
///
/// If one ends, by an exception or because it is done, while others wait for it in an exchange,
/// these get a std::runtime_error: nobody waits for ever.
class Replicas {
 public:
  /// Throws std::invalid_argument unless ranks >= 1.
  explicit Replicas(int ranks) {
    if (ranks < 1) {
      detail::Where{"Replicas", "Replicas"}.invalid("expected at least 1 rank, got " +
                                                    std::to_string(ranks));
    }
    for (int rank = 0; rank < ranks; ++rank) members_.emplace_back(meeting_, rank, ranks);
  }
  Replicas(const Replicas&) = delete;
  Replicas& operator=(const Replicas&) = delete;

  [[nodiscard]] int size() const { return static_cast<int>(members_.size()); }

  /// A rank's communicator, for threads of your own; leave(rank) says that a thread is done with it.
  [[nodiscard]] Communicator& communicator(int rank) { return member(rank); }
  void leave(int rank) { member(rank).leave(); }

  /// Calls work(communicator) on a thread for each rank, and waits for them all. What the first one
  /// to fail threw is thrown again then. Throws std::runtime_error if a thread cannot be started: the
  /// ranks that were started end first, and those that wait for an exchange get an error.
  template <class Work>
  void run(const Work& work) {
    std::exception_ptr first;
    std::mutex mutex;
    const auto keep_first = [&](const std::exception_ptr& error) {
      const std::lock_guard<std::mutex> lock(mutex);
      if (!first) first = error;
    };
    std::vector<std::thread> threads;
    threads.reserve(members_.size());
    meeting_->reopen();
    const std::exception_ptr not_started = caught([&] {
      for (Member& one : members_) {
        start(threads, [&] {
          keep_first(caught([&] { work(static_cast<Communicator&>(one)); }));
          one.leave();  // after its error is known to be the first
        });
      }
    });
    if (not_started) {
      keep_first(not_started);
      members_[threads.size()].leave();  // so that the ranks before it do not wait for it
    }
    for (std::thread& thread : threads) thread.join();
    if (first) std::rethrow_exception(first);
  }

 private:
  /// Where the ranks meet: one exchange at a time.
  class Meeting {
   public:
    [[nodiscard]] Eigen::MatrixXd exchange(int rank, int ranks, const Eigen::VectorXd& mine) {
      std::unique_lock<std::mutex> lock(mutex_);
      if (arrived_ == 0) {
        gathering_.resize(mine.size(), ranks);
        mismatch_ = false;
      }
      mismatch_ = mismatch_ || mine.size() != gathering_.rows();
      if (!mismatch_) gathering_.col(rank) = mine;
      const long turn = turn_;
      if (++arrived_ == ranks) {
        // Nobody is still reading the result before: all have come since.
        result_.swap(gathering_);
        result_mismatches_ = mismatch_;
        arrived_ = 0;
        ++turn_;
        all_came_.notify_all();
      }
      all_came_.wait(lock, [&] { return turn_ != turn || left_ >= 0; });
      if (turn_ == turn) {
        detail::fail<std::runtime_error>("[Replicas] rank " + std::to_string(rank) +
                                         " waits for an exchange with rank " +
                                         std::to_string(left_) + ", which has ended");
      }
      if (result_mismatches_) {
        detail::fail<std::logic_error>(
            "[Replicas] expected as many numbers from every rank, got different ones: do all ranks "
            "make the same calls?");
      }
      return result_;
    }
    void leave(int rank) {
      const std::lock_guard<std::mutex> lock(mutex_);
      left_ = rank;
      all_came_.notify_all();
    }
    void reopen() {
      left_ = -1;
      arrived_ = 0;
    }

   private:
    std::mutex mutex_;
    std::condition_variable all_came_;
    Eigen::MatrixXd gathering_, result_;  // a column for each rank
    int arrived_ = 0;
    long turn_ = 0;  // exchanges made
    int left_ = -1;  // a rank that has ended
    bool mismatch_ = false, result_mismatches_ = false;
  };

  class Member final : public Communicator {
   public:
    Member(std::shared_ptr<Meeting> meeting, int rank, int ranks)
        : meeting_(std::move(meeting)), rank_(rank), ranks_(ranks) {}
    [[nodiscard]] int rank() const override { return rank_; }
    [[nodiscard]] int size() const override { return ranks_; }
    [[nodiscard]] Eigen::MatrixXd all_gather(const Eigen::VectorXd& mine) override {
      return meeting_->exchange(rank_, ranks_, mine);
    }
    void leave() { meeting_->leave(rank_); }

   private:
    std::shared_ptr<Meeting> meeting_;
    int rank_, ranks_;
  };

  [[nodiscard]] Member& member(int rank) {
    if (rank < 0 || rank >= size()) {
      detail::Where{"Replicas", "communicator"}.invalid("expected a rank from 0 to " +
                                                        std::to_string(size() - 1) + ", got " +
                                                        std::to_string(rank));
    }
    return members_[static_cast<std::size_t>(rank)];
  }
  /// Starts the next rank's thread.
  template <class Body>
  void start(std::vector<std::thread>& threads, const Body& body) const {
#if defined(__cpp_exceptions)
    try {
      threads.emplace_back(body);
    } catch (const std::system_error& error) {
      detail::fail<std::runtime_error>("[Replicas::run] expected a thread for each of " +
                                       std::to_string(size()) + " ranks, got " +
                                       std::to_string(threads.size()) + ": " + error.what());
    }
#else
    threads.emplace_back(body);
#endif
  }
  template <class F>
  [[nodiscard]] static std::exception_ptr caught(const F& f) {
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

  std::shared_ptr<Meeting> meeting_ = std::make_shared<Meeting>();
  std::vector<Member> members_;
};

}  // namespace batchnorm
