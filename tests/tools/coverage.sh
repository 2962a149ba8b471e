#!/bin/sh
# SPDX-License-Identifier: MIT
# Fails if no test executes a line of include/, or if a condition was always true or always false.
# What no test can reach has its reason beside it, after GCOV_EXCL_LINE or GCOV_EXCL_BR_LINE.
#   sh tests/check.sh coverage [lines] [conditions]   both, or one; a quarter of an hour each
#   sh tests/check.sh coverage lines --html           and writes build/coverage/report/index.html
# g++ and gcovr count the lines. clang counts the conditions as they are written in the code. There
# are many more branches: one for each instance of a template and for each call that may throw. Code
# that is compiled only under -fno-exceptions is not counted: it ends by abort and saves no counts.
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
jobs=${JOBS:-$(nproc 2>/dev/null || echo 2)}
. "$root/tests/tools/packages.sh"
packages="cmake make libeigen3-dev catch2 pkg-config nlohmann-json3-dev libopenmpi-dev qemu-user"

# Without what takes minutes at -O0 and reaches nothing that others do not.
slow='^(accuracy|allocations|golden)_test$'
programs="$(cd "$root/tests" && ls ./*_test.cpp opt_in/*_test.cpp |
  sed 's|.*/||; s|\.cpp$||' | grep -vE "$slow") safetensors_test"

# build COMPILER FLAGS: into $folder.
build() {
  mkdir -p "$folder"
  cmake -S "$root" -B "$folder" -DCMAKE_BUILD_TYPE=Debug -DCMAKE_CXX_FLAGS_DEBUG=-O0 \
    -DCMAKE_CXX_COMPILER="$1" -DBATCHNORM_TESTS=ON -DBATCHNORM_EXAMPLES=OFF \
    -DBATCHNORM_MPI=ON -DBATCHNORM_WERROR=ON \
    -DCMAKE_CXX_FLAGS="$2" >"$folder/configure.log" 2>&1 || {
    cat "$folder/configure.log" >&2
    return 1
  }
  # shellcheck disable=SC2086  # a list, meant to split
  cmake --build "$folder" -j "$jobs" --target $programs sync_over_mpi
}

run_tests() {
  for program in $programs; do
    echo "$program"
    "$(find "$folder/tests" -name "$program" -type f)"
  done
  (cd "$folder" && ctest --output-on-failure -R '^mpi\.._ranks$')
  # A processor that has AVX-512 or AVX2 never chooses the kernels for others.
  if [ "$(uname -m)" = x86_64 ]; then
    for cpu in Nehalem IvyBridge Haswell,-fma Haswell; do
      qemu-x86_64 -cpu $cpu "$folder/tests/instantiate_test"
    done
    # qemu itself needs room: with the usual layout of memory it has ended in a segmentation fault.
    (ulimit -s unlimited &&
      qemu-x86_64 -s 64000000 -cpu Nehalem "$folder/tests/large_test" "two values *")
  fi
}

lines() {
  folder=$root/build/coverage
  # shellcheck disable=SC2086  # a list, meant to split
  need_packages g++ gcovr $packages
  [ ! -d "$folder" ] || find "$folder" -name '*.gcda' -delete # counts of runs before
  build g++ "--coverage -fprofile-filter-files=/include/batchnorm/ -fprofile-update=atomic"
  run_tests
  # What earlier builds left of programs that are not run any more would confuse gcovr.
  find "$folder" -name '*.gcno' | while read -r notes; do
    [ -e "${notes%.gcno}.gcda" ] || rm -f "$notes" "${notes%.gcno}.o"
  done
  cd "$folder"
  gcovr --root "$root" --filter "$root/include/" --json coverage.json "$folder"
  if [ "$html" ]; then
    mkdir -p report
    gcovr --root "$root" --add-tracefile coverage.json --html-details report/index.html
  fi
  gcovr --root "$root" --add-tracefile coverage.json --txt --fail-under-line 100
  cd "$root"
}

conditions() {
  folder=$root/build/conditions
  # shellcheck disable=SC2086  # a list, meant to split
  need_packages clang llvm libclang-rt-dev python3 $packages
  rm -rf "$folder/counts"
  build clang++ "-fprofile-instr-generate -fcoverage-mapping -fprofile-update=atomic"
  export LLVM_PROFILE_FILE="$folder/counts/%p-%m.profraw"
  run_tests
  llvm-profdata merge -o "$folder/profile" "$folder"/counts/*.profraw
  # shellcheck disable=SC2046  # programs have no spaces in their names
  python3 "$root/tests/tools/one_way.py" "$folder/profile" $(
    for program in $programs sync_over_mpi; do
      find "$folder/tests" -name "$program" -type f
    done
  )
}

html=
parts=
for word; do
  case $word in
    lines | conditions) parts="$parts $word" ;;
    --html) html=yes ;;
    --help) sed -n '3,/^[^#]/s/^# //p' "$0"; exit 0 ;;
    *) echo "Unknown word $word; there are lines, conditions and --help" >&2; exit 1 ;;
  esac
done
for part in ${parts:-lines conditions}; do
  "$part"
done
