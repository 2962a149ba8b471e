# SPDX-License-Identifier: MIT
# readme.sh ROOT PROGRAMS NAME...: examples/README.md has a row "| [NAME](NAME.cpp) | what it shows |
# `output` |" for each example, whose output is a part of what the program prints, blanks apart.
set -eu
root=$1 programs=$2
shift 2
for name; do
  row=$(grep -F "[$name]($name.cpp)" "$root/examples/README.md") ||
    { echo "examples/README.md has no row for $name"; exit 1; }
  said=$(printf '%s\n' "$row" | sed 's/.*| `\(.*\)` |$/\1/' | tr -s ' ')
  printed=$("$programs/$name" /dev/null)
  printf '%s\n' "$printed" | tr -s ' ' | grep -qF -- "$said" ||
    { echo "examples/README.md says of $name what it does not print: $said"; exit 1; }
done
