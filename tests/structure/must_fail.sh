# SPDX-License-Identifier: MIT
# must_fail.sh WORDS COMPILE...: the compilation fails, and its output holds the words.
words=$1
shift
if output=$("$@" 2>&1); then
  echo "It compiled; expected an error that says: $words"
  exit 1
fi
case $output in *"$words"*) exit 0 ;; esac
echo "It failed without saying: $words"
echo "$output"
exit 1
