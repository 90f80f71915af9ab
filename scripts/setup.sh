#!/usr/bin/env bash
# Sets up a machine to build ponder: installs the Debian packages that are missing (with apt, as
# root or through sudo), then builds Abseil and oneDNN once into ~/.cache/ponder (scripts/deps.sh).
# Safe to run again: what is there is left alone.
#
#   scripts/setup.sh [--sanitizers] [--packages-only] [--no-packages]
#
#   --sanitizers     also what the asan and tsan presets and the full checks need
#   --packages-only  Debian packages, no builds
#   --no-packages    builds only; for machines without apt

set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

packages=(
  build-essential       # gcc, g++, libc headers
  cmake                 # 3.25 or newer
  ninja-build
  pkg-config            # the installed library is found through it, and a test does so
  python3               # structure checks
  ca-certificates       # https to the upstream archives
  xz-utils              # unpacks source archives
  nlohmann-json3-dev    # JSON (headers only)
  libcli11-dev          # the command line of tools/ (headers only)
  libedit-dev           # line editing of `ponder chat`
  libgtest-dev          # tests
  libbenchmark-dev      # bench/
  abigail-tools         # tests/abi compares the library against its recorded ABI
)

sanitizers=0 install=1 build=1
for option in "$@"; do
  case $option in
    --sanitizers) sanitizers=1 ;;
    --packages-only) build=0 ;;
    --no-packages) install=0 ;;
    *) sed -n '2,10s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2; exit 2 ;;
  esac
done
[ $sanitizers = 0 ] || packages+=(ccache)  # what clones and presets compile alike is kept

say() { printf '%s\n' "setup: $*" >&2; }

if [ $install = 1 ]; then
  if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
    say "this is not a Debian-like system; install the counterparts of: ${packages[*]}"
    say "then run scripts/setup.sh --no-packages"
    exit 1
  fi
  missing=()
  for package in "${packages[@]}"; do
    status=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
    [ "$status" = installed ] || missing+=("$package")
  done
  if [ ${#missing[@]} -gt 0 ]; then
    say "installing ${missing[*]}"
    as_root=()
    if [ "$(id -u)" != 0 ]; then
      command -v sudo >/dev/null || {
        say "not root and no sudo; as root run: apt-get install ${missing[*]}"
        exit 1
      }
      as_root=(sudo)
    fi
    "${as_root[@]}" apt-get update -q
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
      apt-get install -q -y --no-install-recommends "${missing[@]}"
  else
    say "all ${#packages[@]} packages are installed"
  fi
fi

if [ $build = 1 ]; then
  "$here/deps.sh" build
  if [ $sanitizers = 1 ]; then
    "$here/deps.sh" build abseil --variant address
    "$here/deps.sh" build abseil --variant thread
  fi
fi
say "done"
