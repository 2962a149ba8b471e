#!/bin/sh
# SPDX-License-Identifier: MIT
# Measures what merging moments and synchronizing layers cost, on 1, 2 and 4 ranks: processes over MPI
# and threads. On a fresh Debian this one command is all it takes:
#   sh tests/benchmarks/sync.sh
# Builds in build/benchmarks and writes sync.md there. More ranks than processors wait for one another.
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
build=$root/build/benchmarks
. "$root/tests/tools/packages.sh"
need_packages g++ pkg-config libeigen3-dev libopenmpi-dev

mkdir -p "$build"
# shellcheck disable=SC2046  # flags, meant to split
OMPI_CXX=${CXX:-g++} mpicxx -std=c++17 -O3 -march=native -pthread -I "$root/include" \
  $(pkg-config --cflags eigen3) "$root/tests/benchmarks/sync.cpp" -o "$build/sync"
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
export OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_MCA_mpi_yield_when_idle=1
for ranks in 1 2 4; do
  mpirun -n $ranks "$build/sync"
done >"$build/sync.md"
for ranks in 2 4; do
  "$build/sync" --threads $ranks
done >>"$build/sync.md"
cat "$build/sync.md"
