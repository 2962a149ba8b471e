# SPDX-License-Identifier: MIT
# must_end.sh COMMAND...: the command ends within a minute and with an error.
timeout 60 "$@"
case $? in
  0) echo "expected an error, got none"; exit 1 ;;
  124) echo "expected an end, got none in a minute"; exit 1 ;;
  125 | 126 | 127) echo "expected a command that starts, got none"; exit 1 ;;
  *) echo "ended with an error" ;;
esac
