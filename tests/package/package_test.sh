#!/usr/bin/env bash
# Installs the build tree, then builds and runs a C program against the result, once through
# find_package(ponder) and once through pkg-config. The tree is moved after the installation: a
# package must not remember where it was made.
# Usage: package_test.sh SOURCE_DIR BUILD_DIR VERSION CC CMAKE LIBDIR
set -euo pipefail
source_dir=$1 build_dir=$2 version=$3 cc=$4 cmake=$5 libdir=$6
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

"$cmake" --install "$build_dir" --prefix "$work/first" >"$work/install.log" ||
  { cat "$work/install.log"; exit 1; }
mv "$work/first" "$work/moved"
for file in include/ponder/ponder.h "$libdir/libponder.so" "$libdir/libponder.so.0"; do
  [ -e "$work/moved/$file" ] || { echo "not installed: $file"; exit 1; }
done
# Headers of the inside must not get out.
if find "$work/moved/include" -mindepth 1 -maxdepth 1 ! -name ponder | grep .; then
  echo "more than include/ponder was installed"; exit 1
fi

expect() { # how program
  local out
  out=$("$2") || { echo "$1: the program failed with status $?"; exit 1; }
  [ "$out" = "$version" ] || { echo "$1: got version '$out', expected '$version'"; exit 1; }
  echo "$1: ok"
}

"$cmake" -S "$source_dir/tests/package/consumer" -B "$work/build" -DCMAKE_C_COMPILER="$cc" \
  -DCMAKE_PREFIX_PATH="$work/moved" >"$work/configure.log" 2>&1 || { cat "$work/configure.log"; exit 1; }
"$cmake" --build "$work/build" >"$work/build.log" 2>&1 || { cat "$work/build.log"; exit 1; }
expect find_package "$work/build/consumer"

export PKG_CONFIG_PATH="$work/moved/$libdir/pkgconfig"
[ "$(pkg-config --modversion ponder)" = "$version" ] || { echo "pkg-config: wrong version"; exit 1; }
read -ra flags <<<"$(pkg-config --cflags --libs ponder)"
"$cc" -o "$work/by-pkg-config" "$source_dir/tests/package/consumer/consumer.c" "${flags[@]}"
export LD_LIBRARY_PATH="$work/moved/$libdir"
expect pkg-config "$work/by-pkg-config"
