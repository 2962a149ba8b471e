#!/bin/sh
# SPDX-License-Identifier: MIT
# What takes too long for every day, before a release: about four hours on two cores, as root.
#   sh tests/release.sh
# The core in fresh systems of three kinds and in many builds; all tests, those of opt-in headers with
# clang and the sanitizers as well; a million random calls; the search for the worst accuracy, and its
# table beside PyTorch and oneDNN; tensors of 2^31 values, which take 10 GB; races, integers that wrap
# and uninitialised memory; coverage; ten minutes of fuzzing for each target; mutants of the library.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
sh "$root/tests/chroots.sh"
sh "$root/tests/builds.sh"
EVERYWHERE=ON sh "$root/tests/run.sh" --all
"$root/build/tests/tests/random_calls_test" "[.release]"
"$root/build/tests/tests/accuracy_search_test" "[.release]"
"$root/build/tests/tests/huge_test" "[.release]"
sh "$root/tests/memory.sh"
sh "$root/tests/platforms.sh"
sh "$root/tests/coverage.sh"
sh "$root/tests/accuracy/run.sh"
sh "$root/tests/fuzz/run.sh" 600
sh "$root/tests/mutations.sh"
printf '\nReady for a release.\n'
