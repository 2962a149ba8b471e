#!/bin/sh
# SPDX-License-Identifier: MIT
# Measures a fused ReLU and residual beside the plain layer, separate passes and oneDNN's, on one
# thread. On a fresh Debian this one command is all it takes:
#   sh tests/benchmarks/fused.sh
# Builds in build/benchmarks and writes fused.md there.
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
build=$root/build/benchmarks
. "$root/tests/tools/packages.sh"
need_packages g++ pkg-config libeigen3-dev libdnnl-dev

mkdir -p "$build"
# shellcheck disable=SC2046  # flags, meant to split
${CXX:-g++} -std=c++17 -O3 -march=native -pthread -I "$root/include" $(pkg-config --cflags eigen3) \
  "$root/tests/benchmarks/fused.cpp" -ldnnl -o "$build/fused"
OMP_NUM_THREADS=1 "$build/fused" >"$build/fused.md"
cat "$build/fused.md"
