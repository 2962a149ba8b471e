# SPDX-License-Identifier: MIT
# quickstart.sh ROOT: the README opens with examples/quickstart.cpp, under 40 lines; compiled by the
# very command that the README gives, it prints what the README shows. CXX, if set, replaces g++.
set -eu
root=$1
readme=$root/README.md
out=$PWD

awk '/^```/ { if (inside) exit; inside = /^```cpp/; next } inside' "$readme" >quickstart.readme
# The repository's file starts with its licence line, which the README leaves out.
grep -v '^// SPDX-License-Identifier' "$root/examples/quickstart.cpp" |
  diff -u quickstart.readme - || { echo "README.md and examples/quickstart.cpp differ"; exit 1; }
lines=$(wc -l <"$root/examples/quickstart.cpp")
[ "$lines" -lt 40 ] || { echo "examples/quickstart.cpp has $lines lines, not under 40"; exit 1; }

command=$(grep -m 1 -o 'g++ .*examples/quickstart\.cpp' "$readme")
(cd "$root" && sh -c "${CXX:-g++}${command#g++} -o '$out/quickstart'")
awk '/^```/ { if (inside) exit; inside = /^```text/; next } inside' "$readme" >quickstart.expected
./quickstart >quickstart.out
diff -u quickstart.expected quickstart.out
