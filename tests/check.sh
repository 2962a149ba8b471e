#!/bin/sh
# SPDX-License-Identifier: MIT
# Runs one of the checks that take longer than tests/run.sh or need more than it does.
#   sh tests/check.sh NAME [ARGUMENT...]   runs tests/tools/NAME.sh; sh tests/check.sh NAME --help
#                                          describes its arguments
#   sh tests/check.sh --list               lists the checks
# JOBS=1 uses one processor core.
set -eu
tools=$(cd "$(dirname "$0")" && pwd)/tools

# A check's description is the third line of its script. packages.sh and progress.sh are no checks.
list() {
  for tool in "$tools"/*.sh; do
    name=$(basename "$tool" .sh)
    case $name in packages | progress) continue ;; esac
    printf '  %-10s %s\n' "$name" "$(sed -n '3s/^# //p' "$tool")"
  done
}

case ${1:-} in
  --list) list; exit 0 ;;
  --help | '') sed -n '3,/^[^#]/s/^# //p' "$0"; exit 0 ;;
esac
check=$1
if ! list | grep -q "^  $check "; then
  echo "There is no check '$check'. There are:" >&2
  list >&2
  exit 1
fi
shift
exec sh "$tools/$check.sh" "$@"
