#!/bin/sh
# SPDX-License-Identifier: MIT
# Feeds the readers, options and calls inputs that libFuzzer makes up. On a fresh Debian this one
# command is enough: it installs what is missing first.
#   sh tests/fuzz/run.sh [SECONDS=60] [TARGET...]   runs each target for so long; by default all
#   sh tests/fuzz/run.sh add TARGET FILE...         adds files to the inputs that are kept
#   sh tests/fuzz/run.sh keep [TARGET...]           chooses again which of the inputs that earlier
#                                                   runs found are kept
#   sh tests/fuzz/run.sh unpack [TARGET...]         only unpacks the kept inputs
# corpus/TARGET.tar contains the kept inputs of a target; they are unpacked into build/fuzz/given.
# Each run starts from them and from what earlier runs found, in build/fuzz/corpus. Builds in
# build/fuzz. CXX names a clang other than clang++, FUZZ_FLAGS an optimization other than -O1: -O0
# compiles in a third of the time and runs slower. JOBS=1 uses one processor core.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
build=$root/build/fuzz
failures=$build/failures
given=$build/given
# Bytes of an input, MB in all and MB at once: what is refused must not take memory first.
limits="-max_len=1024 -rss_limit_mb=1024 -malloc_limit_mb=32 -timeout=20"
most_kept=16
export ASAN_OPTIONS=quarantine_size_mb=32:allow_addr2line=1
. "$root/tests/tools/packages.sh"

# unpack TARGET: its kept inputs, into a folder of $given that contains nothing else.
unpack() {
  rm -rf "${given:?}/$1"
  mkdir -p "$given/$1"
  [ ! -f "$here/corpus/$1.tar" ] || tar -C "$given/$1" -xf "$here/corpus/$1.tar"
}

# pack TARGET: the same inputs give the same bytes, whoever packs them and whenever.
pack() {
  (cd "$given/$1" && tar --format=ustar --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner \
    --mode=u=rw,go=r -cf "$here/corpus/$1.tar" -- *)
  echo "$1: $(find "$given/$1" -type f | wc -l) inputs, $(cat "$given/$1/"* | wc -c) bytes"
}

dictionary_of() { [ ! -f "$here/$1.dict" ] || echo "-dict=$here/$1.dict"; }

# one TARGET SECONDS: a line of what it did; where it fails, too what and how to see it again.
one() {
  log=$build/$1.log
  failed=
  # shellcheck disable=SC2046,SC2086  # options are meant to split
  "$build/tests/fuzz/fuzz_$1" $limits $(dictionary_of "$1") -max_total_time="$2" \
    -print_final_stats=1 -artifact_prefix="$failures/$1-" \
    "$build/corpus/$1" "$given/$1" >"$log" 2>&1 || failed=yes
  runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
  took=$(sed -n 's/^Done [0-9]* runs in \([0-9]*\) .*/, \1 s/p' "$log")
  covered=$(sed -n 's/.* cov: \([0-9]*\) .*/\1/p' "$log" | tail -n 1)
  places=$(sed -n 's/.*Loaded [0-9]* modules *(\([0-9]*\) inline.*/\1/p' "$log")
  inputs=$(sed -n 's/.* corp: \([0-9]*\)\/.*/\1/p' "$log" | tail -n 1)
  echo "$1: ${runs:-no} runs$took, covered ${covered:-0} of ${places:-0} places, ${inputs:-0} inputs"
  [ -n "$failed" ] || return 0
  input=$(sed -n 's/.*Test unit written to //p' "$log" | tail -n 1)
  grep -E '^(Expected|Does not hold|.*runtime error:|.*ERROR: )|terminate called|what\(\)' "$log" |
    sed "s/^/  $1: /"
  echo "  $1 FAILED on ${input:-no input: see $log}"
  echo "  again: $build/tests/fuzz/fuzz_$1 ${input:-$given/$1/*}"
  return 1
}

# keep TARGET: chooses few inputs that together reach most of what is reached, and names them by
# their content. Of the inputs that runs found, it keeps the longest, which reach most; those that
# were added by name all stay.
keep() {
  smaller=$build/smaller/$1
  rm -rf "$smaller"
  mkdir -p "$smaller"
  # shellcheck disable=SC2086
  "$build/tests/fuzz/fuzz_$1" $limits -merge=1 -set_cover_merge=1 -use_counters=0 "$smaller" \
    "$given/$1" "$build/corpus/$1" >"$build/$1.log" 2>&1
  rm -f "$given/$1/found_"*
  added=$(find "$given/$1" -type f)
  # shellcheck disable=SC2012  # names are hashes
  for name in $(ls -S "$smaller" | head -n "$most_kept"); do
    known=
    for file in $added; do cmp -s "$smaller/$name" "$file" && known=yes; done
    [ -n "$known" ] || cp "$smaller/$name" "$given/$1/found_$(echo "$name" | cut -c 1-8)"
  done
  pack "$1"
}

all=$(cd "$here" && echo *.cpp | sed 's/\.cpp//g')
check_target() {
  [ ! -f "$here/$1.cpp" ] || return 0
  echo "Unknown target $1; there are $all" >&2
  exit 1
}

seconds=60
case ${1:-} in
  --help) sed -n '3,/^[^#]/s/^# //p' "$0"; exit 0 ;;
  one) one "$2" "$3"; exit ;;
  add)
    target=${2:-} && check_target "$target"
    shift 2
    unpack "$target" && cp -- "$@" "$given/$target" && pack "$target"
    exit
    ;;
  keep | unpack) seconds=$1; shift ;;
  [0-9]*) seconds=$1; shift ;;
esac
# shellcheck disable=SC2086  # a list, meant to split
[ $# -gt 0 ] || set -- $all
for target; do check_target "$target"; done
for target; do unpack "$target"; done
[ "$seconds" != unpack ] || { echo "Unpacked into $given" >&2; exit 0; }

case ${CXX:-} in *clang*) cxx=$CXX ;; *) cxx=clang++ ;; esac # libFuzzer is a part of clang
jobs=${JOBS:-$(nproc 2>/dev/null || echo 2)}
need_packages clang libclang-rt-dev cmake make libeigen3-dev nlohmann-json3-dev zlib1g-dev \
  libcxxopts-dev
mkdir -p "$build" "$failures"
echo "Building in $build" >&2
# shellcheck disable=SC2046  # names of targets, meant to split
if ! { cmake -S "$root" -B "$build" -DCMAKE_CXX_COMPILER="$cxx" -DCMAKE_BUILD_TYPE=None \
         -DBATCHNORM_TESTS=OFF -DBATCHNORM_EXAMPLES=OFF -DBATCHNORM_FUZZ=ON \
         -DBATCHNORM_WERROR=ON -DBATCHNORM_FUZZ_FLAGS="${FUZZ_FLAGS:--O1}" &&
       cmake --build "$build" -j "$jobs" --target $(printf 'fuzz_%s ' "$@"); } >"$build/build.log" 2>&1
then
  cat "$build/build.log" >&2
  exit 1
fi

# Targets write and read many small files: in memory, where there is a place for it.
TMPDIR=$(mktemp -d -p "$([ -w /dev/shm ] && echo /dev/shm || echo "${TMPDIR:-/tmp}")" fuzz.XXXXXX)
export TMPDIR
trap 'rm -rf "$TMPDIR"' EXIT
trap 'exit 1' HUP INT TERM # dash runs no EXIT trap when a signal ends it
for target; do mkdir -p "$build/corpus/$target"; done
if [ "$seconds" = keep ]; then
  for target; do keep "$target"; done
else
  # One more at a time than there are cores: five targets take two minutes on two of them.
  printf '%s\n' "$@" | xargs -P "${JOBS:-$((jobs + 1))}" -I '{}' sh "$0" one '{}' "$seconds"
fi
