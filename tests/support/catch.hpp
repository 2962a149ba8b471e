// SPDX-License-Identifier: MIT
// Catch2 3 where it is installed, else Catch2 2.13: one set of tests serves both.
#pragma once

#if __has_include(<catch2/catch_all.hpp>)
#include <catch2/catch_all.hpp>
using Catch::Approx;  // as in Catch2 2
#else
#include <catch2/catch.hpp>
#endif
#if defined(__clang__)  // TEMPLATE_TEST_CASE leaves out a macro's argument, as C++20 allows
#pragma clang diagnostic ignored "-Wc++20-extensions"
#endif
