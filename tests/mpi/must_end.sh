# SPDX-License-Identifier: MIT
# must_end.sh COMMAND... HOW: one_rank_dies, run by COMMAND... HOW, ends within a minute and with the
# error of the rank that dies, not with an error of mpirun, as of a program that does not start.
timeout 60 "$@"
status=$?
for how; do :; done # the last argument
case $how-$status in
  killed-137 | exits-3 | throws-1) echo "ended with an error" ;;
  *-0) echo "expected an error, got none"; exit 1 ;;
  *-124) echo "expected an end, got none in a minute"; exit 1 ;;
  *) echo "expected the error of a rank that dies, got exit code $status"; exit 1 ;;
esac
