#!/bin/sh
# SPDX-License-Identifier: MIT
# What takes too long for every day, before a release: about three hours on two cores, as root.
#   sh tests/release.sh
# The core in fresh systems of three kinds and in many builds; all tests, those of opt-in headers with
# clang and the sanitizers as well; a million random calls; the search for the worst accuracy, and its
# table beside PyTorch and oneDNN; mutants of the library.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
sh "$root/tests/chroots.sh"
sh "$root/tests/builds.sh"
EVERYWHERE=ON sh "$root/tests/run.sh" --all
"$root/build/tests/tests/random_calls_test" "[.release]"
"$root/build/tests/tests/accuracy_test" "[.release]"
sh "$root/tests/accuracy/run.sh"
sh "$root/tests/mutations.sh"
printf '\nReady for a release.\n'
