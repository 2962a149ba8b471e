#!/bin/sh
# SPDX-License-Identifier: MIT
# Looks for races, for integers that wrap, and for reads of memory that was never written.
#   sh tests/check.sh memory                  all three
#   sh tests/check.sh memory races            a thread pool, threads as ranks, threads that share a
#                                             folded layer, with the thread sanitizer
#   sh tests/check.sh memory integers         every test with clang's checks of undefined behaviour
#                                             and of integers, except in wraps_on_purpose.txt
#   sh tests/check.sh memory uninitialised    the quick tests with valgrind
# Builds in build/memory-*. tests/run.sh --all runs the address sanitizer.
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
jobs=${JOBS:-$(nproc 2>/dev/null || echo 2)}
. "$root/tests/tools/packages.sh"
core="g++ cmake make libeigen3-dev catch2 pkg-config"

# build TARGETS CMAKE_OPTION...: into $folder.
build() {
  targets=$1
  shift
  mkdir -p "$folder"
  if ! cmake -S "$root" -B "$folder" -DCMAKE_BUILD_TYPE=Debug -DCMAKE_CXX_FLAGS_DEBUG="-O1 -g1" \
      -DBATCHNORM_TESTS=ON -DBATCHNORM_EXAMPLES=OFF -DBATCHNORM_WERROR=ON "$@" >"$folder/configure.log" 2>&1; then
    cat "$folder/configure.log" >&2
    return 1
  fi
  # shellcheck disable=SC2086  # a list, meant to split
  cmake --build "$folder" -j "$jobs" --target $targets
}

races() {
  folder=$root/build/memory-races
  # shellcheck disable=SC2086
  need_packages $core
  # Eigen's pool has fences that the sanitizer does not follow, but passes no data by them.
  build "threads_test crew_test channel_affine_test sync_test fused_test shared_inference" \
    -DBATCHNORM_EXAMPLES=ON -DCMAKE_CXX_FLAGS="-fsanitize=thread -Wno-tsan"
  for program in tests/threads_test tests/crew_test tests/channel_affine_test tests/sync_test \
      tests/fused_test bin/shared_inference; do
    echo "$program"
    TSAN_OPTIONS=halt_on_error=1 "$folder/$program"
  done
}

integers() {
  folder=$root/build/memory-integers
  # shellcheck disable=SC2086
  need_packages $core clang libclang-rt-dev nlohmann-json3-dev
  checks=undefined,float-cast-overflow,integer,implicit-conversion,local-bounds
  build all -DCMAKE_CXX_COMPILER=clang++ -DCMAKE_CXX_FLAGS="-fsanitize=$checks \
    -fno-sanitize-recover=all -fsanitize-ignorelist=$root/tests/tools/wraps_on_purpose.txt"
  (cd "$folder" && ctest --output-on-failure -j "$jobs" -R _test$)
}

uninitialised() {
  folder=$root/build/memory-uninitialised
  # shellcheck disable=SC2086
  need_packages $core valgrind
  # Not extremes_test, whose reference needs the 80 bits of a long double: valgrind has 64.
  programs="hand_computed_test arguments_test errors_test instantiate_test golden_test state_test"
  build "$programs"
  for program in $programs; do
    echo "$program"
    valgrind -q --error-exitcode=1 "$folder/tests/$program"
  done
}

case ${1:-} in
  '') races; integers; uninitialised ;;
  races | integers | uninitialised) "$1" ;;
  --help) sed -n '3,/^[^#]/s/^# //p' "$0"; exit 0 ;;
  *) echo "Unknown part $1; there are races, integers and uninitialised" >&2; exit 1 ;;
esac
printf '\nNothing found.\n'
