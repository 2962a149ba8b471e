#!/bin/sh
# SPDX-License-Identifier: MIT
# Runs the examples; on a fresh Debian this one command is all it takes.
#   sh examples/run.sh [options]         trains on Fashion-MNIST; --help shows its options
#   sh examples/run.sh NAME [options]    runs one example
#   sh examples/run.sh --list            names them all
# An example is a file NAME.cpp here or a folder NAME with main.cpp and CMakeLists.txt. Its first
# comment line describes it; a line "// Debian packages: ..." names what it needs besides Eigen.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=$(dirname "$here")
build=$root/build/examples

# source_of NAME: the file that starts example NAME, or nothing.
source_of() {
  for source in "$here/$1.cpp" "$here/$1/main.cpp"; do
    if [ -f "$source" ]; then echo "$source"; fi
  done
}

list() {
  for source in "$here"/*.cpp "$here"/*/main.cpp; do
    [ -f "$source" ] || continue
    name=${source#"$here/"}
    name=${name%.cpp}
    about=$(sed -n '/^\/\/ SPDX/d; s|^// ||p' "$source" | head -n 1)
    printf '  %-20s %s\n' "${name%/main}" "$about"
  done
}

case ${1:-} in
  --list) list; exit 0 ;;
  -* | '') name=fashion_mnist ;;
  *) name=$1; shift ;;
esac
source=$(source_of "$name")
if [ -z "$source" ]; then
  echo "There is no example '$name'. There are:" >&2
  list >&2
  exit 1
fi

packages=$(sed -n 's|^// Debian packages: ||p' "$source")
case " $*" in # who brings data needs no package of them
  *' --data'*) packages=$(echo "$packages" | sed 's/dataset-[^ ]*//g') ;;
esac
. "$root/tests/tools/packages.sh"
# shellcheck disable=SC2086  # a list, meant to split
need_packages g++ cmake make libeigen3-dev $packages

mkdir -p "$build"
log=$build/$name.log
[ -x "$build/bin/$name" ] || echo "Building $name"
if ! { cmake -S "$root" -B "$build" -DCMAKE_BUILD_TYPE=Release -DBATCHNORM_TESTS=OFF \
         -DBATCHNORM_EXAMPLES=ON -DBATCHNORM_NATIVE=ON &&
       cmake --build "$build" --target "$name" -j "$(nproc 2>/dev/null || echo 2)"; } >"$log" 2>&1
then
  cat "$log" >&2
  echo "Could not build $name; the log above is $log" >&2
  exit 1
fi
exec "$build/bin/$name" "$@"
