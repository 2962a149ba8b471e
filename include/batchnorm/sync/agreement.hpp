// SPDX-License-Identifier: MIT
#pragma once

#include <stdexcept>
#include <string>

#include "batchnorm/error.hpp"
#include "batchnorm/sync/communicator.hpp"

namespace batchnorm::detail {

/// What a rank's own checks threw, or `nothing`, to be sent to the other ranks.
struct Caught {
  enum Kind { nothing, invalid, misuse, domain, other };
  Kind kind = nothing;
  std::string text;

  [[noreturn]] void raise() const {
    if (kind == invalid) fail<std::invalid_argument>(text);
    if (kind == misuse) fail<std::logic_error>(text);
    if (kind == domain) fail<std::domain_error>(text);
    fail<std::runtime_error>(text);
  }
};

template <class F>
[[nodiscard]] Caught caught(const F& f) {
#if defined(__cpp_exceptions)
  try {
    f();
  } catch (const std::invalid_argument& e) {
    return {Caught::invalid, e.what()};
  } catch (const std::domain_error& e) {
    return {Caught::domain, e.what()};
  } catch (const std::logic_error& e) {
    return {Caught::misuse, e.what()};
  } catch (const std::exception& e) {
    return {Caught::other, e.what()};
  }
#else
  f();
#endif
  return {};
}

/// Throws, on every rank, the error of the first rank that has an error. All ranks must call it,
/// and at least one must have an error.
[[noreturn]] inline void raise_together(Communicator& world, const Caught& mine) {
  const Eigen::Vector2d head(mine.kind, static_cast<double>(mine.text.size()));
  const Eigen::MatrixXd heads = world.all_gather(head);
  Eigen::Index first = 0;
  while (first + 1 < heads.cols() && heads(0, first) == 0) ++first;

  Eigen::VectorXd letters = Eigen::VectorXd::Zero(static_cast<Eigen::Index>(heads(1, first)));
  for (Eigen::Index i = 0; i < letters.size() && world.rank() == first; ++i)
    letters[i] = mine.text[static_cast<std::size_t>(i)];
  Caught told;
  told.kind = static_cast<Caught::Kind>(static_cast<int>(heads(0, first)));
  for (const double letter : world.all_reduce(letters)) told.text += static_cast<char>(letter);
  if (world.size() > 1)
    told.text += " (on rank " + std::to_string(first) + " of " + std::to_string(world.size()) + ")";
  told.raise();
}

}  // namespace batchnorm::detail
