# SPDX-License-Identifier: MIT
# run_test.sh ROOT: examples/run.sh describes every example, tells that a file is missing before it
# builds anything, and configures one example without the others; tests/tools/progress.sh shows a build's
# and apt-get's progress.
set -eu
root=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM # dash runs no EXIT trap when a signal ends it

fail() { echo "$*" >&2; exit 1; }

# expect WHAT FOUND WANTED
expect() {
  [ "$2" = "$3" ] || fail "$1: expected '$3', got '$2'"
}

sh "$root/examples/run.sh" --list >"$work/list"
examples=$(grep -c '^  [a-z]' "$work/list")
expect "times and needs" "$(grep -c '^ *time: .*[a-z]; needs: Eigen' "$work/list")" "$examples"
grep -A 1 '^  load_pytorch_weights' "$work/list" | grep -q 'nlohmann-json3-dev .*, and a file as ' ||
  fail "--list does not say what load_pytorch_weights needs"

# A copy, so that a build would be seen.
mkdir "$work/copy"
cp -r "$root/examples" "$root/tests" "$work/copy"
for arguments in "" "none.safetensors" "--help"; do
  # shellcheck disable=SC2086  # none or one
  if sh "$work/copy/examples/run.sh" load_pytorch_weights $arguments >"$work/out" 2>&1; then
    fail "load_pytorch_weights $arguments succeeds"
  fi
  grep -q '^Usage: .* load_pytorch_weights FILE' "$work/out" || fail "no usage: $(cat "$work/out")"
  grep -q 'train.py FILE' "$work/out" || fail "nothing writes the file: $(cat "$work/out")"
done
[ ! -e "$work/copy/build" ] || fail "it builds before it says that the file is missing"

cmake -G "Unix Makefiles" -S "$root" -B "$work/build" -DBATCHNORM_EXAMPLES=ON -DBATCHNORM_EXAMPLE=bias \
  -DCMAKE_DISABLE_FIND_PACKAGE_ZLIB=ON -DCMAKE_DISABLE_FIND_PACKAGE_MPI=ON >"$work/configured" 2>&1
! grep 'is left out' "$work/configured" || fail "bias alone configures other examples"
cmake --build "$work/build" --target help >"$work/targets"
grep -q '[ .]bias$' "$work/targets" || fail "bias is no target"
! grep 'from_scratch$' "$work/targets" || fail "from_scratch is a target where bias is asked for"

. "$root/tests/tools/progress.sh"
built() {
  echo "-- Configuring done"
  echo "[ 50%] Building CXX object examples/CMakeFiles/bias.dir/bias.cpp.o"
  echo "bias.cpp:3: error: no such thing" >&2
  echo "[100%] Built target bias"
}
expect "build" "$(with_progress "$work/log" built)" "[ 50%] Building CXX object examples/bias.cpp.o"
expect "log" "$(show_log "$work/log" 2>&1)" "-- Configuring done
bias.cpp:3: error: no such thing"
if with_progress "$work/log" false; then fail "with_progress succeeds where its command fails"; fi
installed() {
  echo "dlstatus:1:0.0000:Retrieving file 1 of 2"
  echo "pmstatus:libzip:33.3333:Unpacking libzip (amd64)"
  echo "pmstatus:libzip:33.9999:Configuring libzip (amd64)"
  echo "Setting up libzip (1:2.3-1) ..."
  echo "pmstatus:dpkg-exec:100.0000:Running dpkg"
}
expect "installation" "$(with_progress "$work/log" installed)" "[  0%] Retrieving file 1 of 2
[ 33%] Unpacking libzip (amd64)
[100%] Running dpkg"
