# SPDX-License-Identifier: MIT
# block.sh DOCUMENT NUMBER NAME LIBRARY COMPILE...: extracts the document's C++ block of that number,
# counted from 1, compiles it, links it with LIBRARY if that is not empty, runs it, and compares what it
# prints. It works in files NAME.* of the current folder. The rules, for authors of the documents:
# - A block starts with ```cpp and has to compile. Other fences (```sh, ```cmake) are not looked at.
# - What it prints is compared with the first ```text block between it and the next C++ block, if any.
# - A block with `int main` is a program. Any other is a fragment: its lines that start with # go to
#   the top, the rest into main(), where bn, x, y and dy of prelude below are at hand; it may declare
#   its own of these names.
# - A block that holds "C++20" is compiled as that, the others as C++17.
set -eu
document=$1 number=$2 name=$3 library=$4
shift 4

# Lines of the number-th C++ block, or of the text block after it.
extract() {
  awk -v number="$number" -v wanted="$1" '
    /^```/ {
      if (inside) { inside = 0; next }
      inside = 1
      kind = substr($0, 4)
      if (kind == "cpp") { block++; texts = 0 }
      if (kind == "text") texts++
      next
    }
    inside && kind == wanted && block == number && (wanted == "cpp" || texts == 1)
  ' "$document"
}

prelude='
#include <batchnorm/batchnorm.hpp>

#include <cstdio>
#include <iostream>
#include <unsupported/Eigen/CXX11/Tensor>

int main() {
  [[maybe_unused]] batchnorm::BatchNorm2d<float> bn(64);
  [[maybe_unused]] Eigen::Tensor<float, 4, Eigen::RowMajor> x(8, 64, 7, 7), dy(8, 64, 7, 7);
  x.setRandom();
  dy.setRandom();
  [[maybe_unused]] auto y = bn.forward(x);
  {'

extract cpp >"$name.txt"
if grep -q 'int main' "$name.txt"; then
  cp "$name.txt" "$name.cpp"
else
  {
    grep '^#' "$name.txt" || true
    printf '%s\n' "$prelude"
    grep -v '^#' "$name.txt" || true
    printf '  }\n}\n'
  } >"$name.cpp"
fi
standard=c++17
if grep -q 'C++20' "$name.txt"; then standard=c++20; fi

"$@" -std=$standard -pthread "$name.cpp" ${library:+"$library"} -o "$name" || { cat "$name.txt"; exit 1; }
"./$name" >"$name.out"
extract text >"$name.expected"
if [ -s "$name.expected" ]; then
  diff -u "$name.expected" "$name.out"
fi
