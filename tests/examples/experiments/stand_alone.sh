# SPDX-License-Identifier: MIT
# stand_alone.sh EXAMPLES NAME: the example is one file of under 150 lines that includes nothing but
# batchnorm, Eigen and the standard library, and is described by run.sh --list.
set -eu
examples=$1 name=$2
source=$examples/$name.cpp

lines=$(wc -l <"$source")
[ "$lines" -lt 150 ] || { echo "$source has $lines lines, not under 150"; exit 1; }
allowed='<\(batchnorm/\|Eigen/\|unsupported/Eigen/\|[a-z_]*>\)'
if grep '^#include' "$source" | grep -v "^#include $allowed"; then
  echo "$source includes what is neither batchnorm's, Eigen's nor standard"
  exit 1
fi
list=$(sh "$examples/run.sh" --list)
printf '%s\n' "$list" | grep -q "^  $name  *[A-Z]" ||
  { echo "run.sh --list does not describe $name"; exit 1; }
if [ "$name" = from_scratch ]; then # both of its functions, in what it says of itself
  lines=$(awk '/ batch_norm\(.*,$/, /^}/' "$source" | wc -l)
  [ "$lines" -gt 10 ] && [ "$lines" -le 30 ] || { echo "batch_norm has $lines lines"; exit 1; }
fi
