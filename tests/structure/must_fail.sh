# SPDX-License-Identifier: MIT
# must_fail.sh says|shows WORDS COMPILE...: the compilation fails. Under "says", its first error holds
# the words; under "shows", some line of its output does. The library has at most one message.
kind=$1 words=$2
shift 2
if output=$(LC_ALL=C "$@" 2>&1); then
  echo "It compiled; expected an error that $kind: $words"
  exit 1
fi
errors=$(printf '%s\n' "$output" | grep 'error: ')
looked_at=$output
if [ "$kind" = says ]; then looked_at=$(printf '%s\n' "$errors" | head -n 1); fi
case $looked_at in
  *"$words"*) ;;
  *)
    printf '%s\nExpected an error that %s: %s\n' "$output" "$kind" "$words"
    exit 1
    ;;
esac
if [ "$(printf '%s\n' "$errors" | grep -c 'batchnorm: ')" -gt 1 ]; then
  printf '%s\nExpected one message of the library, got several.\n' "$output"
  exit 1
fi
