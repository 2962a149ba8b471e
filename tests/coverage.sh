#!/bin/sh
# SPDX-License-Identifier: MIT
# Which lines and branches of include/ the tests execute, by header. Fails where a line is executed by
# none of them, and lists it; a line that none can reach has its reason beside it, after GCOV_EXCL_LINE.
#   sh tests/coverage.sh            builds in build/coverage, half an hour on two cores
#   sh tests/coverage.sh --html     and writes build/coverage/report/index.html, line by line
# Not counted is what is compiled under -fno-exceptions alone: it ends by abort, which saves no counts.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
folder=$root/build/coverage
jobs=$(nproc 2>/dev/null || echo 2)
. "$root/tests/packages.sh"
html=${1:-}
case $html in
  '' | --html) ;;
  *) sed -n '3,7s/^# //p' "$0"; exit 1 ;;
esac
need_packages g++ cmake make libeigen3-dev catch2 pkg-config gcovr nlohmann-json3-dev libopenmpi-dev \
  qemu-user

mkdir -p "$folder"
find "$folder" -name '*.gcda' -delete # counts of runs before
cmake -S "$root" -B "$folder" -DCMAKE_BUILD_TYPE=Debug -DCMAKE_CXX_FLAGS_DEBUG=-O0 \
  -DCMAKE_CXX_COMPILER=g++ -DBATCHNORM_EXAMPLES=OFF -DBATCHNORM_MPI=ON -DCMAKE_CXX_FLAGS="--coverage \
  -fprofile-filter-files=/include/batchnorm/ -fprofile-update=atomic" >"$folder/configure.log" 2>&1 || {
  cat "$folder/configure.log" >&2
  exit 1
}

# Without what takes minutes at -O0 and reaches no line that others do not.
slow='^(accuracy|allocations|golden|laws)_test$'
programs="$(cd "$root/tests" && ls ./*_test.cpp opt_in/*_test.cpp |
  sed 's|.*/||; s|\.cpp$||' | grep -vE "$slow") safetensors_test"
# shellcheck disable=SC2086  # a list, meant to split
cmake --build "$folder" -j "$jobs" --target $programs sync_over_mpi
for program in $programs; do
  case $program in
    threads_test) set -- "a *" "channels *" "layers *" "copies *" ;; # not all sizes and types
    *) set -- "*" ;;
  esac
  echo "$program"
  for cases; do
    "$(find "$folder/tests" -name "$program" -type f)" "$cases"
  done
done
(cd "$folder" && ctest --output-on-failure -R '^mpi\.._ranks$')
# A processor that has AVX2 never chooses the kernels for others.
if [ "$(uname -m)" = x86_64 ]; then
  qemu-x86_64 -cpu Nehalem "$folder/tests/instantiate_test"
  # qemu itself needs room: with the usual layout of memory it has ended in a segmentation fault.
  (ulimit -s unlimited && qemu-x86_64 -s 64000000 -cpu Nehalem "$folder/tests/large_test" "two values *")
fi

cd "$folder"
gcovr -j "$jobs" --root "$root" --filter "$root/include/" --exclude-throw-branches \
  --exclude-unreachable-branches --json coverage.json "$folder"
if [ "$html" ]; then
  mkdir -p report
  gcovr --root "$root" --add-tracefile coverage.json --html-details report/index.html
fi
gcovr --root "$root" --add-tracefile coverage.json --branches --txt
gcovr --root "$root" --add-tracefile coverage.json --txt --fail-under-line 100
