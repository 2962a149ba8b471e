#!/bin/sh
# SPDX-License-Identifier: MIT
# Runs the tests. On a fresh Debian this one command is enough: it installs what is missing first.
#   sh tests/run.sh          the core
#   sh tests/run.sh --all    also the tests that need more packages or more minutes
# Builds in build/tests. CXX names a compiler other than g++: CXX=clang++ sh tests/run.sh. JOBS=1 uses one
# processor core. Under --all each fuzz target runs for FUZZ_SECONDS seconds (60), and EVERYWHERE=ON also tests the opt-in
# headers with clang, with clang and the sanitizers, and with g++ and the sanitizers.
# Checks that take longer: sh tests/check.sh --list lists them.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
jobs=${JOBS:-$(nproc 2>/dev/null || echo 2)}
. "$root/tests/tools/packages.sh"

# build_and_test NAME [CMAKE OPTION...]: -Og compiles fastest and keeps Eigen's assertions. $without,
# where set, names tests that are left out.
build_and_test() {
  build=$root/build/$1
  shift
  mkdir -p "$build"
  if ! cmake -S "$root" -B "$build" -DCMAKE_BUILD_TYPE=Debug -DCMAKE_CXX_FLAGS_DEBUG=-Og \
      -DBATCHNORM_LONG_TESTS_FLAGS=-O2 -DBATCHNORM_TESTS=ON -DBATCHNORM_WERROR=ON \
      -DBATCHNORM_COMPILED=ON "$@" >"$build/configure.log" 2>&1; then
    cat "$build/configure.log" >&2
    return 1
  fi
  if ! with_progress "$build/build.log" cmake --build "$build" -j "$jobs"; then
    show_log "$build/build.log"
    return 1
  fi
  (cd "$build" && ctest --output-on-failure -j "$jobs" -E "${without:-^$}")
}

# also WHAT PACKAGES COMMAND...: one more thing to test.
also() {
  printf '\n== %s\n' "$1"
  # shellcheck disable=SC2086  # a list, meant to split
  need_packages $2
  what=$1
  shift 2
  "$@" || failed="$failed
  $what"
}

# A program chooses its loops by the processor: for SSE2, AVX2 or AVX-512. Emulated processors run those
# that this machine does not choose. golden_test and instantiate_test have layers of half, whose loops
# for AVX2 use F16C.
test_on_emulated_processors() {
  for cpu in Nehalem Haswell,-f16c Haswell; do
    for test in hand_computed golden instantiate; do
      printf '%s\n' "$cpu" "$root/build/$folder/tests/${test}_test"
    done
  done | xargs -d '\n' -P "$jobs" -n 2 qemu-x86_64 -cpu
}

case ${1:-} in
  '' | --all) ;;
  --help) sed -n '3,/^[^#]/s/^# //p' "$0"; exit 0 ;;
  *) echo "Unknown option $1; there are --all and --help" >&2; exit 1 ;;
esac

core="$(package_of "${CXX:-g++}") cmake make libeigen3-dev catch2 pkg-config"
examples="zlib1g-dev libcxxopts-dev"
mpi=libopenmpi-dev
files="nlohmann-json3-dev python3-torch libonnx-testdata" # of other frameworks, and for theirs
folder=tests${CXX:+-${CXX##*/}}
compiling='^(header|cxx20|misuse|surroundings)' # tests that compile by themselves
again=-DBATCHNORM_TESTS_AGAIN=ON
sanitizers="-fsanitize=address,undefined,float-cast-overflow -fno-sanitize-recover=all"
native=
[ "$(uname -m)" != x86_64 ] || native=-march=native
everywhere=${EVERYWHERE:-OFF}
failed=

if [ -z "${1:-}" ]; then
  also "The core" "$core" \
    build_and_test "$folder" -DBATCHNORM_EXAMPLES=OFF -DBATCHNORM_ALL_TESTS=OFF
else
  also "The core, the examples, other frameworks' files and ranks over MPI" \
    "$core $examples $files $mpi" \
    build_and_test "$folder" -DBATCHNORM_EXAMPLES=ON -DBATCHNORM_ALL_TESTS=ON -DBATCHNORM_MPI=ON
  if [ "$(uname -m)" = x86_64 ]; then
    also "The loops that other processors choose, emulated" qemu-user test_on_emulated_processors
  fi
  also "Golden numbers, made again" python3-torch \
    /usr/bin/python3 "$root/tests/golden/make_golden.py" --check
  # -O0, because clang compiles the sanitizers' checks four times as fast as at -Og. The loops of one
  # instruction set, which this processor has, compile in a third of the time of all.
  also "The core with clang, the address and the undefined behaviour sanitizer" \
    "clang libclang-rt-dev" \
    build_and_test tests-clang-sanitized $again -DBATCHNORM_EXAMPLES=OFF \
    -DBATCHNORM_ALL_TESTS="$everywhere" \
    -DCMAKE_CXX_COMPILER=clang++ -DCMAKE_CXX_FLAGS_DEBUG=-O0 \
    -DCMAKE_CXX_FLAGS="$sanitizers $native"
  if [ "$everywhere" = ON ]; then
    also "The core with clang" clang \
      build_and_test tests-clang++ -DBATCHNORM_EXAMPLES=OFF -DBATCHNORM_ALL_TESTS=ON \
      -DCMAKE_CXX_COMPILER=clang++
    without=$compiling
    also "The core with g++ and the sanitizers" "" \
      build_and_test tests-sanitized $again -DBATCHNORM_EXAMPLES=OFF -DBATCHNORM_ALL_TESTS=ON \
      -DCMAKE_CXX_FLAGS="$sanitizers"
  fi
  also "Inputs that libFuzzer makes up" "" sh "$root/tests/fuzz/run.sh" "${FUZZ_SECONDS:-60}"
fi
[ -z "$failed" ] || { printf '\nFailed:%s\n' "$failed" >&2; exit 1; }
printf '\nAll tests passed.\n'
