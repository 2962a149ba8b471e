#!/bin/sh
# SPDX-License-Identifier: MIT
# Breaks the library in one small way after another, and tells which of these mutants no test notices;
# they are listed in mutations/mutants.txt.
#   sh tests/mutations.sh [jobs=N] [first=N] [last=N]     fails where less than 95 % are killed
#   sh tests/mutations.sh quick=1 ...    tries only the tests that the list names, and the fastest
# Takes some 20 minutes on two idle cores. The programs stay in build/mutations, each with all
# mutants in it: a test that is changed is all that is compiled again.
# CXX names another compiler than clang++, which is the fastest here.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
. "$root/tests/packages.sh"
need_packages "${CXX:-clang}" python3 libeigen3-dev catch2 nlohmann-json3-dev libopenmpi-dev
exec python3 "$root/tests/mutations/run.py" "$@"
