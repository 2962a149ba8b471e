# SPDX-License-Identifier: MIT
# Sourced, not run: `. "$root/tests/tools/packages.sh"`, then `need_packages g++ cmake`.
# Makes sure that the named Debian packages, or the same parts from elsewhere, are there, and
# installs those that are not. With everything present it changes nothing and needs no root.
# shellcheck disable=SC2154  # root is the sourcing script's
. "$root/tests/tools/progress.sh"

have_command() { command -v "$1" >/dev/null 2>&1; }

# have_header NAME...: one of the headers stands in a usual place, or where CMake is told to look.
have_header() {
  have_prefixes="$(echo "${CMAKE_PREFIX_PATH:-}" | tr ':;' '  ') /usr /usr/local /opt/homebrew /opt/local"
  for have_prefix in $have_prefixes; do
    for have_name; do
      [ -e "$have_prefix/include/$have_name" ] && return 0
    done
  done
  return 1
}

# have_package NAME: installed by dpkg, or found by what it would bring.
have_package() {
  case $1 in
    g++* | cmake | make | git | pkg-config) have_command "$1" && return ;;
    clang | clang-[0-9]*) have_command "clang++${1#clang}" && return ;;
    libclang-rt-dev) # the sanitizers' and libFuzzer's libraries
      ls "$(clang++ -print-resource-dir 2>/dev/null)"/lib/*/libclang_rt.fuzzer* >/dev/null 2>&1 && return ;;
    libeigen3-dev) have_header eigen3/Eigen/Core Eigen/Core && return ;;
    catch2) have_header catch2/catch_all.hpp catch2/catch.hpp && return ;;
    zlib1g-dev) have_header zlib.h && return ;;
    libopenmpi-dev) have_command mpicxx && have_command mpirun && return ;;
    libcxxopts-dev) have_header cxxopts.hpp && return ;;
    nlohmann-json3-dev) have_header nlohmann/json.hpp && return ;;
    libbenchmark-dev) have_header benchmark/benchmark.h && return ;;
    libdnnl-dev) have_header oneapi/dnnl/dnnl.hpp && return ;;
    libtorch-dev) have_header ATen/ATen.h && return ;;
    dataset-*) [ -d "/usr/share/datasets/${1#dataset-}" ] && return ;;
  esac
  dpkg -s "$1" 2>/dev/null | grep -q '^Status: install ok installed'
}

# package_of COMPILER: the package of g++, clang++, g++-12 or clang++-19, which flags may follow. Prints
# nothing for any other compiler: that has to be installed already.
package_of() { echo "${1%% *}" | sed -n '/^g++/p; s/^clang++/clang/p'; }

missing_packages() {
  for missing_name; do
    have_package "$missing_name" || printf '%s ' "$missing_name"
  done
}

# as_root COMMAND...: directly where we are root, else through sudo.
as_root() {
  if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo "$@"; fi
}

apt_update() { as_root apt-get -qq -o APT::Status-Fd=1 update; }

apt_install() {
  as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends \
    -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 -o APT::Status-Fd=1 install "$@" </dev/null
}

# Lists may be absent (a minimal system) or out of date (a package moved on): update for either.
apt_update_and_install() {
  apt-cache show "$@" >/dev/null 2>&1 || apt_update
  apt_install "$@" || { apt_update && apt_install "$@"; }
}

# need_packages NAME...: exits 1, saying what to do, when it cannot make them present.
need_packages() {
  need_list=$(missing_packages "$@")
  [ -n "$need_list" ] || return 0

  if ! have_command apt-get; then
    echo "Missing here, by their Debian names: $need_list" >&2
    echo "There is no apt-get on this machine: please install them by its own means and try again." >&2
    exit 1
  fi
  if [ "$(id -u)" -ne 0 ] && ! have_command sudo; then
    echo "Missing here: $need_list" >&2
    echo "Neither root nor sudo is at hand. As root, please run:" >&2
    echo "  apt-get update && apt-get install --no-install-recommends $need_list" >&2
    exit 1
  fi

  echo "Installing $need_list"
  mkdir -p "$root/build"
  need_log=$root/build/packages.log
  # shellcheck disable=SC2086  # the list is meant to split
  with_progress "$need_log" apt_update_and_install $need_list || {
    show_log "$need_log"
    echo "Could not install: $(missing_packages "$@")" >&2
    exit 1
  }
}
