// SPDX-License-Identifier: MIT
#include "peers.hpp"

#include <algorithm>

namespace bench {

std::vector<Entry> ours_and_peers(int threads, bool portable) {
  std::vector<Entry> all = {
      {"batchnorm", Role::ours, portable ? make_ours_portable : make_ours, threads},
      {"PyTorch", Role::library, make_torch, threads},
      {"oneDNN", Role::library, make_onednn, threads},
      {"oneDNN " + onednn_blocked_layout(), Role::other_layout, make_onednn_blocked, threads},
      {"Eigen loops", Role::by_hand, make_eigen_loops, threads},
      {"Eigen Tensor", Role::by_hand, make_eigen_tensors, threads},
      {"copy", Role::limit, make_copy, threads},
      {"streamed copy", Role::limit, make_streamed_copy, threads}};
  if (threads > 1) all.push_back({by_one_thread, Role::ours_otherwise, all.front().make, 1});
  if (portable) all.push_back({compiled_native, Role::ours_otherwise, make_ours, threads});
  return all;
}

std::vector<Entry> ours_and_peers_for_resnet50(int threads, bool portable) {
  std::vector<Entry> all = ours_and_peers(threads, portable);
  const auto is_left_out = [](const Entry& entry) {
    return entry.role == Role::limit || entry.make == make_eigen_tensors;
  };
  all.erase(std::remove_if(all.begin(), all.end(), is_left_out), all.end());
  return all;
}

}  // namespace bench
