#!/bin/sh
# SPDX-License-Identifier: MIT
# Runs tests on other processors, on Windows, and with other standard libraries and compiler modes.
# qemu emulates the processors, and wine replaces Windows. Each platform runs the hand-computed,
# golden, extremes, non_finite, accuracy, arguments and state tests; Windows the safetensors tests too.
#   sh tests/check.sh platforms [PLATFORM...]   all, or those named; prints a table at the end
#   sh tests/check.sh platforms --list          lists the platforms
# Takes some 40 minutes on two cores. Works in build/platforms. Installs what is missing first.
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
jobs=${JOBS:-$(nproc 2>/dev/null || echo 2)}
. "$root/tests/tools/packages.sh"

# name | packages | compiler | flags | what runs a program, if not the machine | tests besides
# clang with Eigen's packets stands for MSVC 2022, which keeps a product and a sum two operations.
platforms='
aarch64       | g++-aarch64-linux-gnu qemu-user | aarch64-linux-gnu-g++ | -O2 -static | qemu-aarch64 |
aarch64-clang | clang g++-aarch64-linux-gnu qemu-user | clang++ | -O2 -static --target=aarch64-linux-gnu | qemu-aarch64 |
s390x         | g++-s390x-linux-gnu qemu-user | s390x-linux-gnu-g++ | -O2 -static | qemu-s390x |
i686-sse2     | g++-i686-linux-gnu | i686-linux-gnu-g++ | -O2 -static -msse2 -mfpmath=sse | | large
i686-x87      | g++-i686-linux-gnu | i686-linux-gnu-g++ | -O2 -static -mno-sse | |
windows       | g++-mingw-w64-x86-64-posix wine wine64 | x86_64-w64-mingw32-g++-posix | -O2 -static | wine | safetensors/round_trip safetensors/refused safetensors/file_system safetensors/hostile safetensors/tensors safetensors/layers
libc++        | clang libc++-dev libc++abi-dev | clang++ | -O2 -stdlib=libc++ | |
packets       | g++ | g++ | -O2 -DBATCHNORM_USE_PACKETS -Wno-ignored-attributes | | opt_in/fused opt_in/in_place opt_in/wrappers
packets-avx2  | clang libclang-rt-dev | clang++ | -O2 -DBATCHNORM_USE_PACKETS -mavx2 -mfma -mf16c -ffp-contract=off -fsanitize=address | |
packets-none  | g++ | g++ | -O2 -DBATCHNORM_USE_PACKETS -DEIGEN_DONT_VECTORIZE | |
msvc-mode     | clang | clang++ | -O0 -DBATCHNORM_USE_PACKETS -fms-extensions -fms-compatibility -fms-compatibility-version=19.30 -fgnuc-version=4.2.1 -fdelayed-template-parsing -Wno-#warnings | | opt_in/fused
avx           | g++ | g++ | -O2 -mavx | |
avx512        | g++ | g++ | -O2 -march=skylake-avx512 -Wno-maybe-uninitialized | |
c++20         | g++ | g++ | -O2 -std=c++20 | |
c++23-clang   | clang | clang++ | -O2 -std=c++2b | |
'
tests='hand_computed golden extremes extremes_eval non_finite accuracy arguments opt_in/state'

list() { echo "$platforms" | awk -F'|' 'NF > 1 { gsub(/ /, "", $1); print $1 }'; }
# field NAME N: of the platform's row.
field() {
  echo "$platforms" | awk -F'|' -v name="$1" -v n="$2" '
    { gsub(/ /, "", $1) }
    $1 == name { gsub(/^ +| +$/, "", $n); print $n }'
}

# One test of one platform, called by xargs: compiles and runs it. Writes a line to its result file.
if [ "${1:-}" = --one ]; then
  name=$2 test=$3
  here=$root/build/platforms/$name
  program=$here/$(basename "$test").exe
  result=$here/$(basename "$test").result
  # shellcheck disable=SC2046  # flags, meant to split
  if ! $(field "$name" 3) -std=c++17 $(field "$name" 4) -Wall -Wextra -Wpedantic -Wconversion -Wshadow \
      -Werror -DGOLDEN_FOLDER="\"$root/tests/golden\"" -I "$root/include" -I "$root/tests" \
      -isystem "$root/build/platforms/headers" "$root/tests/${test}_test.cpp" "$here/main.o" -pthread \
      -o "$program" >"$here/$(basename "$test").log" 2>&1; then
    echo "does not compile" >"$result"
  elif WINEDEBUG=-all timeout 1800 $(field "$name" 5) "$program" >>"$here/$(basename "$test").log" 2>&1; then
    echo ok >"$result"
  else
    echo fails >"$result"
  fi
  echo "$name $test: $(cat "$result")"
  exit 0
fi

case ${1:-} in
  --list) list; exit 0 ;;
  --help) sed -n '3,/^[^#]/s/^# //p' "$0"; exit 0 ;;
esac
[ $# -gt 0 ] || set -- $(list)
for name; do
  [ -n "$(field "$name" 3)" ] || { echo "Unknown platform $name; see --list" >&2; exit 1; }
done

need_packages libeigen3-dev catch2 nlohmann-json3-dev
headers=$root/build/platforms/headers # without those of this machine's C library beside them
mkdir -p "$headers"
for folder in eigen3/Eigen eigen3/unsupported catch2 nlohmann; do
  ln -sfn "/usr/include/$folder" "$headers/$(basename "$folder")"
done
work=''
for name; do
  here=$root/build/platforms/$name
  rm -rf "$here"
  # shellcheck disable=SC2046
  need_packages $(field "$name" 2)
  case $name in
    avx512) grep -q avx512bw /proc/cpuinfo || { echo "avx512: not run, this processor lacks it"; continue; } ;;
  esac
  mkdir -p "$here"
  # shellcheck disable=SC2046
  $(field "$name" 3) -std=c++17 $(field "$name" 4) -O1 -w -I "$root/tests" -isystem "$headers" \
    -c "$root/tests/support/catch_main.cpp" -o "$here/main.o"
  for test in $tests $(field "$name" 6); do work="$work $name $test"; done
done
[ -n "$work" ] || exit 0
# shellcheck disable=SC2086
echo $work | xargs -n 2 -P "$jobs" sh "$0" --one

printf '\n| platform |'
printf ' %s |' $tests
printf ' others |\n'
failed=0
for name; do
  here=$root/build/platforms/$name
  [ -d "$here" ] || continue
  printf '| %s |' "$name"
  for test in $tests $(field "$name" 6); do
    result=$(cat "$here/$(basename "$test").result")
    [ "$result" = ok ] || failed=1
    printf ' %s |' "$result"
  done
  printf '\n'
done
exit "$failed"
