#!/bin/sh
# SPDX-License-Identifier: MIT
# Changes the library in one small way after another, and lists the changes that no test notices.
# mutations/mutants.txt lists these changes, the mutants.
#   sh tests/check.sh mutations [first=N] [last=N]     fails if less than 95 % are killed
#   sh tests/check.sh mutations quick=1 ...    runs only the named and the fastest tests
# Takes some 20 minutes on two idle cores. The programs stay in build/mutations. Each contains all
# mutants, so that only changed tests are compiled again. CXX names another compiler than clang++,
# which compiles these tests fastest.
set -eu
case ${1:-} in
  --help) sed -n '3,/^[^#]/s/^# //p' "$0"; exit 0 ;;
esac
root=$(cd "$(dirname "$0")/../.." && pwd)
. "$root/tests/tools/packages.sh"
# shellcheck disable=SC2046  # one name or none
need_packages $(package_of "${CXX:-clang++}") python3 libeigen3-dev catch2 nlohmann-json3-dev libopenmpi-dev
exec python3 "$root/tests/tools/mutations/run.py" "$@"
