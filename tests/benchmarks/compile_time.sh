#!/bin/sh
# SPDX-License-Identifier: MIT
# How long a file that uses BatchNorm2d<float> forward and backward takes to compile at -O2, beside
# one that only includes Eigen's Tensor header: medians of paired compiles, as Markdown.
#   sh tests/benchmarks/compile_time.sh [PAIRS [INCLUDE FOLDER]]
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
pairs=${1:-7}
include=${2:-$root/include}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
eigen=$(pkg-config --cflags-only-I eigen3 2>/dev/null || echo -I/usr/include/eigen3)

cat >"$folder/tensor.cpp" <<'END'
#include <unsupported/Eigen/CXX11/Tensor>
END
cat >"$folder/batchnorm.cpp" <<'END'
#include <unsupported/Eigen/CXX11/Tensor>
#include <batchnorm/batchnorm.hpp>
using Images = Eigen::Tensor<float, 4, Eigen::RowMajor>;
Images forward(batchnorm::BatchNorm2d<float>& bn, const Images& x) { return bn.forward(x); }
Images backward(batchnorm::BatchNorm2d<float>& bn, const Images& x, const Images& dy) {
  return bn.backward(x, dy);
}
END

# milliseconds NAME: to compile it once.
milliseconds() {
  start=$(date +%s%N)
  # shellcheck disable=SC2086  # flags, meant to split
  ${CXX:-g++} -std=c++17 -O2 -I "$include" $eigen -c "$folder/$1.cpp" -o "$folder/$1.o"
  echo $((($(date +%s%N) - start) / 1000000))
}
median() { sort -n "$1" | sed -n "$(((pairs + 1) / 2))p"; }

milliseconds tensor >/dev/null # the headers come from the disk once
for _ in $(seq "$pairs"); do
  tensor=$(milliseconds tensor)
  batchnorm=$(milliseconds batchnorm)
  echo "$tensor" >>"$folder/tensor"
  echo "$batchnorm" >>"$folder/batchnorm"
  echo $((batchnorm - tensor)) >>"$folder/more"
done

printf '| %s -O2, median of %s pairs | milliseconds |\n| --- | --- |\n' "${CXX:-g++}" "$pairs"
printf '| a file that includes the Tensor header of Eigen | %s |\n' "$(median "$folder/tensor")"
printf '| one that uses BatchNorm2d<float> forward and backward | %s |\n' \
  "$(median "$folder/batchnorm")"
printf '| more (target: at most 1000) | %s |\n' "$(median "$folder/more")"
