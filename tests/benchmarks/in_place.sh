#!/bin/sh
# SPDX-License-Identifier: MIT
# Measures the memory that training in place saves on ConvBNNet, and the time of a step, on one thread.
# On a fresh Debian this one command is all it takes:
#   sh tests/benchmarks/in_place.sh
# Builds in build/benchmarks and writes in_place.md there.
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
build=$root/build/benchmarks
. "$root/tests/tools/packages.sh"
need_packages g++ pkg-config libeigen3-dev

mkdir -p "$build"
# shellcheck disable=SC2046  # flags, meant to split
${CXX:-g++} -std=c++17 -O3 -march=native -pthread -I "$root/include" -I "$root/examples/nn" \
  $(pkg-config --cflags eigen3) "$root/tests/benchmarks/in_place.cpp" -o "$build/in_place"
"$build/in_place" >"$build/in_place.md"
cat "$build/in_place.md"
