#!/bin/sh
# SPDX-License-Identifier: MIT
# Prints the errors of batchnorm beside those of PyTorch and oneDNN on the same data; on a fresh
# Debian this one command is all it takes. Builds in build/benchmarks.
#   sh tests/accuracy/run.sh
set -eu
case ${1:-} in
  '') ;;
  --help) sed -n '3,5s/^# //p' "$0"; exit 0 ;;
  *) echo "Unknown option $1; there is --help" >&2; exit 1 ;;
esac
root=$(cd "$(dirname "$0")/../.." && pwd)
build=$root/build/benchmarks
. "$root/tests/tools/packages.sh"

need_packages g++ cmake make pkg-config libeigen3-dev libbenchmark-dev libtorch-dev libdnnl-dev

mkdir -p "$build"
echo "Building in $build" >&2
if ! { cmake -S "$root" -B "$build" -DCMAKE_BUILD_TYPE=Release -DBATCHNORM_TESTS=OFF \
         -DBATCHNORM_EXAMPLES=OFF -DBATCHNORM_BENCHMARKS=ON &&
       cmake --build "$build" -j "${JOBS:-$(nproc 2>/dev/null || echo 2)}" --target accuracy_table
     } >"$build/build.log" 2>&1
then
  cat "$build/build.log" >&2
  echo "Could not build; the log above is $build/build.log" >&2
  exit 1
fi
"$build/tests/accuracy/accuracy_table"
