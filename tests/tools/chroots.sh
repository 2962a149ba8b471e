#!/bin/sh
# SPDX-License-Identifier: MIT
# Runs the tests in a fresh minimal Debian for each suite. Needs root.
# The systems contain only what debootstrap installs, and the committed state of this repository.
#   sh tests/check.sh chroots [SUITE...]                 sh tests/run.sh in bookworm, trixie and sid
#   sh tests/check.sh chroots [SUITE...] -- COMMAND...   another command: -- sh examples/run.sh
# Works in build/chroots, or in the folder CHROOTS, and keeps the downloaded packages there: 350 MB
# for a suite. The system of a failed command stays there too, unmounted. Takes ten minutes for a
# suite on one core.
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
folder=${CHROOTS:-$root/build/chroots}
mirror=${MIRROR:-http://deb.debian.org/debian}
. "$root/tests/tools/packages.sh"

suites=
while [ $# -gt 0 ]; do
  case $1 in
    --help) sed -n '3,/^[^#]/s/^# //p' "$0"; exit 0 ;;
    --) shift; break ;;
    -* | *[!a-z]*) echo "Unknown option $1; there are -- and --help" >&2; exit 1 ;;
    *) suites="$suites $1"; shift ;;
  esac
done
[ $# -gt 0 ] || set -- sh tests/run.sh
if [ "$(id -u)" -ne 0 ]; then
  echo "Only root may change the root folder. Run: sudo sh tests/check.sh chroots${suites}" >&2
  exit 1
fi
need_packages debootstrap git
mkdir -p "$folder"

# apart COMMAND...: with mounts and processes of its own, which end with it, however it ends.
apart() {
  unshare --mount --pid --fork --kill-child --mount-proc "$@" &
  running=$!
  wait "$running"
}
interrupted() {
  trap - EXIT
  [ -z "${running:-}" ] || kill -KILL "$running" 2>/dev/null || true
  wait
  [ -z "${new:-}" ] || rm -rf "$new"
  exit 1
}
trap interrupted INT TERM HUP

# make_system SUITE: a tar file of a minimal system, made once.
make_system() {
  [ ! -f "$folder/$1.tar" ] || return 0
  rm -rf "$new"
  apart debootstrap --variant=minbase "$1" "$new" "$mirror" >"$folder/$1.log" 2>&1 || return 1
  if have_command apt-config; then # what this machine needs to reach packages
    apt-config dump | grep -E '^Acquire::(https?::Proxy|Check-)' \
      >"$new/etc/apt/apt.conf.d/90host" || true
  fi
  tar -C "$new" -cf "$folder/$1.tar.part" . && mv "$folder/$1.tar.part" "$folder/$1.tar"
}

# inside COMMAND...: in the folder of the repository in the system $new.
inside() {
  # shellcheck disable=SC2016  # for the other shell
  apart sh -c '
    set -e
    new=$1 debs=$2
    shift 2
    mount -t proc proc "$new/proc"
    mount -t sysfs sysfs "$new/sys"
    mount --rbind /dev "$new/dev"
    mount --bind "$debs" "$new/var/cache/apt/archives"
    chroot "$new" env -i HOME=/root LC_ALL=C.UTF-8 \
      PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
      sh -c "cd /root/batchnorm && \"\$@\"" sh "$@"
  ' sh "$new" "$folder/$suite.debs" "$@"
}

versions='
for compiler in g++ clang++; do
  if command -v $compiler >/dev/null; then
    printf "%s %s, " $compiler "$($compiler --version | sed -n "1s/.* \([0-9]*\.[0-9.]*\).*/\1/p")"
  fi
done
for package in cmake libeigen3-dev catch2; do
  dpkg-query -W -f "\${Package} \${Version}, " $package 2>/dev/null || true
done'

# try_suite COMMAND...: in a fresh system of $suite.
try_suite() {
  new=$folder/$suite
  make_system "$suite" || return 1
  rm -rf "$new"
  mkdir -p "$new/root/batchnorm" "$folder/$suite.debs/partial"
  tar -C "$new" -xf "$folder/$suite.tar" || return 1
  cp -L /etc/resolv.conf "$new/etc/resolv.conf"
  git -C "$root" archive HEAD | tar -C "$new/root/batchnorm" -xf -
  status=0
  inside "$@" >"$folder/$suite.log" 2>&1 || status=$?
  found=$(inside sh -c "$versions")
  [ $status -ne 0 ] || rm -rf "$new"
  return $status
}

failed=
printf '%s of %s\n' "$*" "$(git -C "$root" log -1 --format=%h)"
for suite in ${suites:-bookworm trixie sid}; do
  found=
  verdict=passed
  start=$(date +%s)
  if ! try_suite "$@"; then
    verdict=FAILED
    failed="$failed $suite"
    tail -n 40 "$folder/$suite.log" >&2
  fi
  printf '%s: %s%s in %s s, %s\n' "$suite" "$found" "$verdict" "$(($(date +%s) - start))" \
    "$folder/$suite.log"
done
[ -z "$failed" ] || { printf '\nFailed:%s\n' "$failed" >&2; exit 1; }
