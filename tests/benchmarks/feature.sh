#!/bin/sh
# SPDX-License-Identifier: MIT
# Measures one feature of the library. On a fresh Debian this one command is enough: it installs
# what is missing first.
#   sh tests/benchmarks/feature.sh fused      a fused ReLU and residual, beside separate passes and
#                                             oneDNN, on one thread
#   sh tests/benchmarks/feature.sh in_place   the memory that training ConvBNNet in place saves, and
#                                             the time of a step, on one thread
#   sh tests/benchmarks/feature.sh sync       the time to merge moments and to synchronize layers on
#                                             1, 2 and 4 ranks: processes over MPI, and threads. More
#                                             ranks than processors wait for one another
# Builds in build/benchmarks and writes NAME.md there.
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
build=$root/build/benchmarks
. "$root/tests/tools/packages.sh"

feature=${1:-} compiler=${CXX:-g++} packages='' libraries=''
case $feature in
  fused) packages=libdnnl-dev libraries=-ldnnl ;;
  in_place) ;;
  sync)
    packages=libopenmpi-dev
    export OMPI_CXX="$compiler" OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
    export OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_MCA_mpi_yield_when_idle=1
    compiler=mpicxx
    ;;
  --help) sed -n '3,/^[^#]/s/^# //p' "$0"; exit 0 ;;
  *) echo "Unknown feature '$feature'; there are fused, in_place, sync and --help" >&2; exit 1 ;;
esac

# shellcheck disable=SC2046,SC2086  # lists, meant to split
need_packages $(package_of "${CXX:-g++}") pkg-config libeigen3-dev $packages
mkdir -p "$build"
# shellcheck disable=SC2046,SC2086  # flags, meant to split
$compiler -std=c++17 -O3 -march=native -pthread -I "$root/include" -I "$root/examples/nn" \
  $(pkg-config --cflags eigen3) "$root/tests/benchmarks/$feature.cpp" $libraries \
  -o "$build/$feature"

measure() {
  case $feature in
    sync)
      for ranks in 1 2 4; do mpirun -n $ranks "$build/sync"; done
      for ranks in 2 4; do "$build/sync" --threads $ranks; done
      ;;
    *) OMP_NUM_THREADS=1 "$build/$feature" ;;
  esac
}
measure >"$build/$feature.md"
cat "$build/$feature.md"
