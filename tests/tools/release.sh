#!/bin/sh
# SPDX-License-Identifier: MIT
# Runs everything that a release needs: about four hours on two cores. Needs root.
#   sh tests/check.sh release
# In this order: fresh systems of three suites; many builds; all tests, those of opt-in headers with
# clang and the sanitizers too; a million random calls; the search for the worst accuracy; tensors
# of 2^31 values, which take 10 GB; races, integers that wrap and uninitialised memory; other
# platforms; coverage; the table of accuracy beside PyTorch and oneDNN; ten minutes of fuzzing for
# each target; mutants of the library.
set -eu
unset CXX # each check names its compilers
[ "${1:-}" != --help ] || { sed -n '3,/^[^#]/s/^# //p' "$0"; exit 0; }
root=$(cd "$(dirname "$0")/../.." && pwd)
check() { sh "$root/tests/check.sh" "$1"; }
check chroots
check builds
EVERYWHERE=ON sh "$root/tests/run.sh" --all
"$root/build/tests/tests/random_calls_test" "[.release]"
"$root/build/tests/tests/accuracy_search_test" "[.release]"
"$root/build/tests/tests/huge_test" "[.release]"
check memory
check platforms
check coverage
sh "$root/tests/accuracy/run.sh"
sh "$root/tests/fuzz/run.sh" 600
check mutations
printf '\nReady for a release.\n'
