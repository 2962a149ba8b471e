#!/bin/sh
# SPDX-License-Identifier: MIT
# Compiles the library in twelve builds, without a warning, and runs quick tests in each.
# The builds differ in compiler, standard, optimization (-O0 to -O3), -ffast-math, -fno-exceptions,
# -fno-rtti and processor. Any two values of different options meet in at least one build. Takes
# half an hour on one core.
#   sh tests/check.sh builds [COMPILER...]     g++ clang++ clang++-19, or those named
# Works in build/builds; what is missing is installed first.
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
jobs=${JOBS:-$(nproc 2>/dev/null || echo 2)}
. "$root/tests/tools/packages.sh"

# Number of the compiler, standard, optimization, processor, and three options or - for without.
cells='
1 17 -O0 x86-64    -           -               -
2 20 -O0 x86-64-v3 -ffast-math -               -
3 23 -O0 native    -           -fno-exceptions -fno-rtti
1 20 -O1 native    -           -               -
2 23 -O1 x86-64    -ffast-math -               -
3 17 -O1 x86-64-v3 -           -fno-exceptions -fno-rtti
1 23 -O2 x86-64-v3 -ffast-math -               -
2 17 -O2 native    -ffast-math -               -fno-rtti
3 20 -O2 x86-64    -           -fno-exceptions -
1 17 -O3 x86-64    -ffast-math -fno-exceptions -fno-rtti
2 20 -O3 x86-64-v3 -           -fno-exceptions -fno-rtti
3 23 -O3 native    -ffast-math -               -
'

# Fails where two values never meet.
check_pairs() {
  echo "$cells" | awk 'NF {
    for (i = 1; i <= NF; ++i) {
      value[i, $i]
      for (j = 1; j <= NF; ++j) met[i, $i, j, $j]
    }
  }
  END {
    for (a in value) for (b in value) {
      split(a, x, SUBSEP)
      split(b, y, SUBSEP)
      if (x[1] != y[1] && !((x[1], x[2], y[1], y[2]) in met)) {
        print x[2], "and", y[2], "never meet"
        status = 1
      }
    }
    exit status
  }'
}

# The compiler of a number, counted around where fewer are named.
compiler_of() {
  shift $((($1 - 1) % ($# - 1) + 1))
  echo "$1"
}

# version_of COMPILER: as in 12.2.0.
version_of() { "$1" --version | sed -n '1s/.* \([0-9]*\.[0-9.]*\).*/\1/p'; }

# try_cell COMPILER STANDARD FLAG...: each header alone, and quick tests. Without exceptions there is
# nothing to expect of errors but that they reach the handler.
try_cell() {
  compiler=$1 standard=$2
  shift 2
  case " $* " in
    *" -fno-exceptions "*) programs="hand_computed_test no_exceptions fixed_size" ;;
    *) programs="hand_computed_test extremes_test extremes_eval_test non_finite_test fixed_size" ;;
  esac
  rm -f "$build/CMakeCache.txt" # of other compilers, perhaps
  cmake -S "$root" -B "$build" -DCMAKE_CXX_COMPILER="$compiler" -DCMAKE_BUILD_TYPE=None \
    -DCMAKE_CXX_STANDARD="$standard" -DCMAKE_CXX_EXTENSIONS=OFF -DCMAKE_CXX_FLAGS="$*" \
    -DBATCHNORM_TESTS=ON -DBATCHNORM_ALL_TESTS=OFF -DBATCHNORM_EXAMPLES=OFF -DBATCHNORM_WERROR=ON ||
    return 1
  # shellcheck disable=SC2086  # a list, meant to split
  cmake --build "$build" -j "$jobs" --target $programs || return 1
  (cd "$build" && ctest --output-on-failure -j "$jobs" \
    -R "^(header_alone\.|($(echo "$programs" | tr ' ' '|')))")
}

case ${1:-} in
  --help) sed -n '3,/^[^#]/s/^# //p' "$0"; exit 0 ;;
  -*) echo "Unknown option $1; there is --help" >&2; exit 1 ;;
  '') set -- g++ clang++ clang++-19 ;;
esac
check_pairs
need_packages cmake make libeigen3-dev catch2
for compiler; do
  # shellcheck disable=SC2046  # one name or none
  need_packages $(package_of "$compiler")
done

mkdir -p "$root/build/builds"
failed=
number=0
while read -r which standard optimization processor math exceptions rtti; do
  [ -n "$which" ] || continue
  number=$((number + 1))
  build=$root/build/builds/$number
  compiler=$(compiler_of "$which" "$@")
  flags=
  for flag in $optimization -march=$processor $math $exceptions $rtti; do
    [ "$flag" = - ] || flags="$flags $flag"
  done
  cell="$compiler $(version_of "$compiler") -std=c++$standard$flags"
  start=$(date +%s)
  # shellcheck disable=SC2086  # a list, meant to split
  if try_cell "$compiler" "$standard" $flags >"$build.log" 2>&1 </dev/null; then
    verdict="passed, $(sed -n 's/.*tests passed.* out of \([0-9]*\)/\1/p' "$build.log") tests"
  else
    verdict="FAILED, see $build.log"
    failed="$failed
  $cell: $build.log"
  fi
  printf '%s: %s, %s s\n' "$cell" "$verdict" "$(($(date +%s) - start))"
done <<EOF
$cells
EOF
[ -z "$failed" ] || { printf '\nFailed:%s\n' "$failed" >&2; exit 1; }
printf '\nAll %s builds passed.\n' "$number"
