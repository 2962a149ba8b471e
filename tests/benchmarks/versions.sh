#!/bin/sh
# SPDX-License-Identifier: MIT
# Measures two versions of the library against each other, in pairs, without any peers.
#   sh tests/benchmarks/versions.sh OLD_INCLUDE [NEW_INCLUDE] [options]   NEW_INCLUDE: include/ here
#   --filter TEXT         only cells whose name contains TEXT, as in NHWC or "forward NCHW"
#   --pairs N             measurements of each version and cell, default 41
#   --list                names the cells
#   --flags FLAGS         of the compiler, default "-O3 -march=native"
#   --old-flags FLAGS     of the old version alone
#   --new-flags FLAGS     of the new version alone
# A ratio is the old version's time divided by the new one's: above 1, the new version is faster. CXX
# names another compiler than g++; OLD_CXX and NEW_CXX name it for one version. Both folders may be the
# same, to compare flags or compilers. Builds in build/versions and compiles again what has changed.
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
here=$root/tests/benchmarks
build=$root/build/versions
. "$root/tests/tools/packages.sh"

usage() {
  echo "$1; see --help" >&2
  exit 1
}

old='' new='' filter='' list=''
old_flags="-O3 -march=native" new_flags=$old_flags pairs=41
while [ $# -gt 0 ]; do
  case $1 in
    --help) sed -n '3,13s/^# //p' "$0"; exit 0 ;;
    --list) list=--list ;;
    --filter | --pairs | --flags | --old-flags | --new-flags)
      [ $# -ge 2 ] || usage "$1 expects a value"
      case $1 in
        --filter) filter=$2 ;;
        --pairs) pairs=$2 ;;
        --flags) old_flags=$2 new_flags=$2 ;;
        --old-flags) old_flags=$2 ;;
        --new-flags) new_flags=$2 ;;
      esac
      shift
      ;;
    -*) usage "Unknown option $1" ;;
    *)
      [ -f "$1/batchnorm/batchnorm.hpp" ] || usage "There is no batchnorm/batchnorm.hpp in $1"
      if [ -z "$old" ]; then old=$1; elif [ -z "$new" ]; then new=$1; else usage "Unexpected $1"; fi
      ;;
  esac
  shift
done
[ -n "$old" ] || usage "A folder of headers is expected"
new=${new:-$root/include}
compiler=${CXX:-g++}
old_cxx=${OLD_CXX:-$compiler} new_cxx=${NEW_CXX:-$compiler}

# shellcheck disable=SC2046  # one name or none
need_packages $(package_of "$old_cxx") $(package_of "$new_cxx") pkg-config libeigen3-dev
eigen=$(pkg-config --cflags-only-I eigen3 2>/dev/null || echo -I/usr/include/eigen3)
mkdir -p "$build"

# sum_of PATH...: a checksum of files and of folders of files.
sum_of() { find "$@" -type f -exec cat '{}' + | cksum | tr ' ' -; }

# compile_once NAME SUM COMMAND...: runs the command with "-o FILE" and sets $file. FILE is named by
# NAME, by SUM, which stands for the sources, by the command and by the version of its compiler. If it
# is there already, it is not compiled again.
compile_once() {
  name=$1 sources=$2
  shift 2
  file=$build/$name-$sources-$({ echo "$*"; "$1" --version; } | cksum | tr ' ' -)
  [ -f "$file" ] || { "$@" -o "$file.part" && mv "$file.part" "$file"; }
}

# compile_version NAME INCLUDE COMPILER FLAGS: a shared library that shows make_NAME alone, so that no
# inline function of one version stands in for another's.
compile_version() {
  echo "$1: $2, $3 $4" >&2
  # shellcheck disable=SC2086  # flags, meant to split
  compile_once "$1.so" "$(sum_of "$2" "$here/ours.cpp" "$here/contender.hpp" "$here/cell.hpp")" \
    "$3" -std=c++17 $4 -DBENCH_MAKE="make_$1" -I "$2" $eigen -pthread -shared -fPIC \
    -fvisibility=hidden -fvisibility-inlines-hidden -Wl,-Bsymbolic "$here/ours.cpp"
}

compile_version old "$old" "$old_cxx" "$old_flags"
old_library=$file
compile_version new "$new" "$new_cxx" "$new_flags"
# shellcheck disable=SC2086
compile_once versions "$(sum_of "$here" "$root/tests/support")" \
  "$compiler" -std=c++17 -O2 -march=native -Wall -Wextra -I "$root/tests" -isystem ${eigen#-I} \
  -pthread "$here/versions.cpp" "$here/cell.cpp" "$here/measure.cpp" "$here/memory.cpp" \
  "$old_library" "$file"

if [ -z "$list" ]; then
  version() { "$1" --version | sed -n 1p; }
  printf 'old: %s, %s, %s\nnew: %s, %s, %s\n\n' "$old" "$(version "$old_cxx")" "$old_flags" \
    "$new" "$(version "$new_cxx")" "$new_flags"
fi
exec "$file" --filter "$filter" --pairs "$pairs" $list
