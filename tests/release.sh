#!/bin/sh
# SPDX-License-Identifier: MIT
# What takes too long for every day, before a release: about two hours and a half on two cores.
#   sh tests/release.sh
# All tests, those of opt-in headers with clang and the sanitizers as well; a million random calls; the
# search for the worst accuracy, and its table beside PyTorch and oneDNN; tensors of 2^31 values, which
# take 10 GB; races, integers that wrap and uninitialised memory; ten minutes of fuzzing for each
# target; mutants of the library.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
EVERYWHERE=ON sh "$root/tests/run.sh" --all
"$root/build/tests/tests/random_calls_test" "[.release]"
"$root/build/tests/tests/accuracy_test" "[.release]"
"$root/build/tests/tests/huge_test" "[.release]"
sh "$root/tests/memory.sh"
sh "$root/tests/accuracy/run.sh"
sh "$root/tests/fuzz/run.sh" 600
sh "$root/tests/mutations.sh"
printf '\nReady for a release.\n'
