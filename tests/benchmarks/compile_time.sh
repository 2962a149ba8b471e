#!/bin/sh
# SPDX-License-Identifier: MIT
# How much processor time files that use the library take to compile, and how large the objects are,
# beside a file that only includes Eigen's Tensor header: medians, as Markdown.
#   sh tests/benchmarks/compile_time.sh [ROUNDS=5 [INCLUDE FOLDER]]
# CXX names another compiler than g++, CXXFLAGS other flags than -O2.
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
case ${1:-} in --help) sed -n '3,6s/^# //p' "$0"; exit 0 ;; esac
rounds=${1:-5}
include=${2:-$root/include}
compiler=${CXX:-g++}
flags=${CXXFLAGS:--O2}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
trap 'exit 1' HUP INT TERM # dash runs no EXIT trap when a signal ends it
eigen=$(pkg-config --cflags-only-I eigen3 2>/dev/null || echo -I/usr/include/eigen3)

cat >"$folder/tensor.cpp" <<'END'
#include <unsupported/Eigen/CXX11/Tensor>
END
cat >"$folder/one.cpp" <<'END'
#include <unsupported/Eigen/CXX11/Tensor>
#include <batchnorm/batchnorm.hpp>
using Images = Eigen::Tensor<float, 4, Eigen::RowMajor>;
Images forward(batchnorm::BatchNorm2d<float>& bn, const Images& x) { return bn.forward(x); }
Images backward(batchnorm::BatchNorm2d<float>& bn, const Images& x, const Images& dy) {
  return bn.backward(x, dy);
}
END
cat >"$folder/many.cpp" <<'END'
#include <unsupported/Eigen/CXX11/Tensor>
#include <batchnorm/batchnorm.hpp>
#define USE(NAME, LAYER, ...)                                                          \
  using NAME = __VA_ARGS__;                                                            \
  NAME forward(LAYER& bn, const NAME& x) { return bn.forward(x); }                     \
  NAME backward(LAYER& bn, const NAME& x, const NAME& dy) { return bn.backward(x, dy); }
USE(Rows, batchnorm::BatchNorm1d<float>, Eigen::Tensor<float, 2, Eigen::RowMajor>)
USE(Sequences, batchnorm::BatchNorm1d<float>, Eigen::Tensor<float, 3, Eigen::RowMajor>)
USE(Images, batchnorm::BatchNorm2d<float>, Eigen::Tensor<float, 4, Eigen::RowMajor>)
USE(Volumes, batchnorm::BatchNorm3d<float>, Eigen::Tensor<float, 5, Eigen::RowMajor>)
USE(Bfloat16Images, batchnorm::BatchNorm2d<Eigen::bfloat16>,
    Eigen::Tensor<Eigen::bfloat16, 4, Eigen::RowMajor>)
USE(Matrix, batchnorm::BatchNorm1d<float>, Eigen::MatrixXf)
END
cp "$folder/one.cpp" "$folder/compiled.cpp"
files="tensor one many compiled"

# milliseconds NAME: of processor time to compile it once, which other programs on the machine change
# less than the time of a clock. The second line of `times` are the user and system time of children.
milliseconds() {
  defined=
  [ "$1" != compiled ] || defined=-DBATCHNORM_COMPILED
  # shellcheck disable=SC2086  # flags, meant to split
  "$compiler" -std=c++17 $flags $defined -I "$include" $eigen -c "$folder/$1.cpp" -o "$folder/$1.o"
  times >"$folder/times"
  sed -n '2s/[ms]/ /gp' "$folder/times" | awk '{ printf "%.0f\n", 1000 * (60 * ($1 + $3) + $2 + $4) }'
}
median() { sort -n "$1" | sed -n "$(((rounds + 1) / 2))p"; }

milliseconds tensor >/dev/null # the headers come from the disk once
for _ in $(seq "$rounds"); do
  for file in $files; do
    time=$(milliseconds "$file")
    echo "$time" >>"$folder/$file.times"
    [ "$file" != tensor ] || tensor=$time
    echo $((time - tensor)) >>"$folder/$file.more" # than the Tensor header in the same round
  done
done

# row NAME WHAT
row() {
  size=$(size "$folder/$1.o" | awk 'NR == 2 { print $1 + $2 }')
  printf '| %s | %s | %s | %s | %s |\n' "$2" "$(median "$folder/$1.times")" \
    "$(median "$folder/$1.more")" "$size" "$(wc -c <"$folder/$1.o")"
}
printf '%s, %s, medians of %s, processor time\n\n' "$("$compiler" --version | sed -n 1p)" "$flags" "$rounds"
printf '| file | ms | ms above the Tensor header | bytes of code and data | bytes of the object file |\n'
printf '| --- | --- | --- | --- | --- |\n'
row tensor "the Tensor header of Eigen alone"
row one "BatchNorm2d<float> forward and backward"
row many "1d, 2d and 3d float, 2d bfloat16 and matrices"
row compiled "BatchNorm2d<float> forward and backward, with batchnorm::compiled"
