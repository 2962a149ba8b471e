#!/bin/sh
# SPDX-License-Identifier: MIT
# Measures batchnorm beside its peers; on a fresh Debian this one command is all it takes.
#   sh tests/benchmarks/run.sh                  everything: 10 minutes on 2 quiet cores, 8 GB
#   sh tests/benchmarks/run.sh --quick          few shapes, fewer pairs: 3 minutes
#   sh tests/benchmarks/run.sh --filter TEXT    only cells whose name contains TEXT
#   sh tests/benchmarks/run.sh --portable       batchnorm compiled for any processor, not for this one
#   sh tests/benchmarks/run.sh --o2             batchnorm compiled by plain -O2, beside -O3 -march=native
#                                               and without peers: 3 minutes. It takes the options of
#                                               versions.sh, which it runs
#   sh tests/benchmarks/run.sh --scaling        batchnorm and oneDNN on 1, 2, 4, 8 ... threads: 1 minute
#                                               for 2 threads. It takes --threads LIST and --pairs N
# More options: --threads LIST, --pairs N, --cache MIB, --list. Builds in build/benchmarks and writes
# report.md there. INCLUDE names another folder of headers to measure.
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
build=$root/build/benchmarks
report=$build/report.md
include=${INCLUDE:-$root/include}
. "$root/tests/tools/packages.sh"

everything=yes compile_pairs=7 o2= scaling=
for option; do
  case $option in
    --o2) o2=yes ;;
    --scaling) scaling=yes ;;
    --help) sed -n '3,/^[^#]/s/^# //p' "$0"; exit 0 ;;
    --quick) compile_pairs=3 ;;
    --filter | --list) everything= ;;
  esac
done

if [ "$o2" ]; then # the time by -O2 divided by that by -O3 -march=native: above 1, -O2 is slower
  for option; do
    shift
    [ "$option" = --o2 ] || set -- "$@" "$option"
  done
  exec sh "$root/tests/benchmarks/versions.sh" "$include" "$include" --old-flags "-O2" "$@"
fi

need_packages g++ cmake make pkg-config libeigen3-dev libbenchmark-dev libtorch-dev libdnnl-dev

mkdir -p "$build"
echo "Building in $build" >&2
if ! { cmake -S "$root" -B "$build" -DCMAKE_BUILD_TYPE=Release -DBATCHNORM_TESTS=OFF \
         -DBATCHNORM_EXAMPLES=OFF -DBATCHNORM_BENCHMARKS=ON -DBATCHNORM_INCLUDE="$include" &&
       cmake --build "$build" -j "${JOBS:-$(nproc 2>/dev/null || echo 2)}"; } >"$build/build.log" 2>&1
then
  cat "$build/build.log" >&2
  echo "Could not build; the log above is $build/build.log" >&2
  exit 1
fi

programs=$build/tests/benchmarks
if [ "$scaling" ]; then
  for option; do
    shift
    [ "$option" = --scaling ] || set -- "$@" "$option"
  done
  exec "$programs/scaling" "$@"
fi
rm -f "$report"
"$programs/beside_peers" --report "$report" "$@"
if [ -n "$everything" ]; then
  echo "Calls and compile time" >&2
  {
    printf '\n### Cost of a call, and what it allocates\n\n'
    "$programs/calls" --benchmark_min_time=0.1 2>/dev/null
    printf '\n### Compile time\n\n'
    sh "$root/tests/benchmarks/compile_time.sh" "$compile_pairs" "$include"
  } >>"$report"
fi
[ ! -f "$report" ] || { cat "$report"; printf '\nThe report is %s\n' "$report" >&2; }
