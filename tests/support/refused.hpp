// SPDX-License-Identifier: MIT
// A refused call throws just what was promised, says where and why, and changes nothing.
#pragma once

#include <string>
#include <typeinfo>
#include <vector>

#include "support/catch.hpp"
#include "support/same_state.hpp"

namespace testing {

/// Makes the call, which must throw an Exception, no other and none derived from it, whose message
/// has all the parts.
template <class Exception, class Call>
void check_throws(const std::vector<std::string>& parts, const Call& call) {
  try {
    call();
  } catch (const std::exception& e) {
    INFO("thrown: " << e.what());
#if defined(__cpp_rtti)
    CHECK(typeid(e) == typeid(Exception));
#endif
    for (const std::string& part : parts) {
      INFO("expected in the message: " << part);
      CHECK(std::string(e.what()).find(part) != std::string::npos);
    }
    return;
  }
  FAIL_CHECK("nothing was thrown; expected: " << (parts.empty() ? "an error" : parts.back()));
}

/// The same, and the layer stays as it is, to the bit.
template <class Exception, class Layer, class Call>
void check_refused(const Layer& layer, const std::vector<std::string>& parts, const Call& call) {
  const Layer before = layer;
  check_throws<Exception>(parts, call);
  CHECK(same_state(layer, before));
}

}  // namespace testing
