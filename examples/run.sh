#!/bin/sh
# SPDX-License-Identifier: MIT
# Runs the examples; on a fresh Debian this one command is all it takes.
#   sh examples/run.sh [options]         trains on Fashion-MNIST; --help shows its options
#   sh examples/run.sh NAME [options]    runs one example
#   sh examples/run.sh --list            names all examples, what each needs and how long it takes
# An example is a file NAME.cpp here or a folder NAME with main.cpp and CMakeLists.txt. The comment
# lines at its head describe it: the first line says what it does. "// Debian packages: ..." names
# what it needs besides Eigen. "// Time: ..." says how long it runs, if that is a second or more.
# "// File: ..." is the command that writes the file which the example needs as its argument.
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

# head_line SOURCE KEY: the text of the comment line "// KEY: text" of an example, or nothing.
head_line() { sed -n "1,/^#include/s|^// $2: ||p" "$1"; }

list() {
  for source in "$here"/*.cpp "$here"/*/main.cpp; do
    [ -f "$source" ] || continue
    name=${source#"$here/"}
    name=${name%.cpp}
    about=$(sed -n '/^\/\/ SPDX/d; s|^// ||p' "$source" | head -n 1)
    time=$(head_line "$source" Time)
    packages=$(head_line "$source" "Debian packages")
    file=$(head_line "$source" File)
    printf '  %-20s %s\n' "${name%/main}" "$about"
    printf '  %-20s   time: %s; needs: Eigen%s%s\n' "" "${time:-less than a second}" \
      "${packages:+ $packages}" "${file:+, and a file as argument}"
  done
  echo "Times are on two cores, without installing packages and compiling."
}

# file_missing ARGUMENT...: none of the arguments is a file.
file_missing() {
  for argument; do
    [ ! -f "$argument" ] || return 1
  done
}

case ${1-no argument} in
  --list) list; exit 0 ;;
  -* | 'no argument') name=fashion_mnist ;;
  *) name=$1; shift ;;
esac
source=$(source_of "$name")
if [ -z "$source" ]; then
  echo "There is no example '$name'. There are:" >&2
  list >&2
  exit 1
fi

file=$(head_line "$source" File)
if [ -n "$file" ] && file_missing "$@"; then
  [ $# -eq 0 ] || echo "None of these arguments is a file: $*" >&2
  echo "Usage: sh examples/run.sh $name FILE [--data FOLDER]" >&2
  echo "This command writes FILE: $file" >&2
  exit 1
fi

packages=$(head_line "$source" "Debian packages")
case " $*" in # who brings data needs no package of them
  *' --data'*) packages=$(echo "$packages" | sed 's/dataset-[^ ]*//g') ;;
esac
. "$root/tests/tools/packages.sh"
# shellcheck disable=SC2086  # a list, meant to split
need_packages g++ cmake make libeigen3-dev $packages

# Configures this example alone, so that it needs no other example's packages.
build_example() {
  cmake -S "$root" -B "$build" -DCMAKE_BUILD_TYPE=Release -DBATCHNORM_TESTS=OFF \
    -DBATCHNORM_EXAMPLES=ON -DBATCHNORM_EXAMPLE="$name" -DBATCHNORM_NATIVE=ON &&
    cmake --build "$build" --target "$name" -j "${JOBS:-$(nproc 2>/dev/null || echo 2)}"
}

mkdir -p "$build"
log=$build/$name.log
[ -x "$build/bin/$name" ] || echo "Building $name"
if ! with_progress "$log" build_example; then
  show_log "$log"
  echo "Could not build $name; the log is $log" >&2
  exit 1
fi
exec "$build/bin/$name" "$@"
