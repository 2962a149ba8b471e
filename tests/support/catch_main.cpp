// SPDX-License-Identifier: MIT
// The main program of the tests where Catch2 comes as a header alone (2.13 without its library).
#define CATCH_CONFIG_MAIN
#include <catch2/catch.hpp>
