// SPDX-License-Identifier: MIT
// Who is measured beside this library.
#pragma once

#include "measure.hpp"

namespace bench {

constexpr const char* by_one_thread = "1 thread";
constexpr const char* compiled_native = "-march=native";

/// This library first. `portable` chooses the one that is compiled without -march=native.
[[nodiscard]] std::vector<Entry> ours_and_peers(int threads, bool portable);

/// Those that take part in ResNet-50: no limit, and no Tensor expressions, which take too long.
[[nodiscard]] std::vector<Entry> ours_and_peers_for_resnet50(int threads, bool portable);

}  // namespace bench
