#!/bin/sh
# SPDX-License-Identifier: MIT
# same_output.sh PROGRAM PROGRAM: both must print the same.
set -eu
first=$("$1")
second=$("$2")
echo "$first"
if [ "$first" != "$second" ]; then
  printf 'but the other program prints\n%s\n' "$second"
  exit 1
fi
