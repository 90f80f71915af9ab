#!/usr/bin/env bash
# Builds ponder and passes its tests. Run scripts/setup.sh first.
#
#   scripts/test.sh                      the release preset: everything
#   scripts/test.sh release asan tsan    several presets, one after the other
#
# With release goes cuda-sm90 where there is a CUDA toolkit (nvcc): the library with CUDA is built and
# checked, and has to run on the processor what the other one does. No GPU is needed for it.
#
# The sanitizer presets leave out what only repeats (the command line, packaging, structure), so
# that they end in reasonable time; `ctest --preset asan` after a full build runs all of it.
# The last line is the sum over all presets: "N passed, N failed".

set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

presets=("$@")
[ ${#presets[@]} -gt 0 ] || presets=(release)
# Debian's package is in the path, NVIDIA's is here.
PATH=$PATH:/usr/local/cuda/bin
lines=()
if [[ " ${presets[*]} " == *" release "* && " ${presets[*]} " != *" cuda-sm90 "* ]]; then
  if command -v nvcc >/dev/null; then
    presets+=(cuda-sm90)
  else
    lines+=("cuda-sm90: not built, for there is no CUDA toolkit (nvcc) on this machine")
  fi
fi
if command -v ccache >/dev/null; then
  export CMAKE_C_COMPILER_LAUNCHER=ccache CMAKE_CXX_COMPILER_LAUNCHER=ccache
  export CMAKE_CUDA_COMPILER_LAUNCHER=ccache
  # What another clone or another preset compiled alike is found again.
  export CCACHE_BASEDIR=$PWD CCACHE_NOHASHDIR=1
fi
jobs=${PONDER_JOBS:-$(nproc)}
passed=0 failed=0 skipped=0

for preset in "${presets[@]}"; do
  settings=()
  case $preset in
    asan) settings=(-DPONDER_BUILD_TOOLS=OFF
      "-DPONDER_TEST_FOLDERS=lib/base;lib/engine;lib/format;lib/kv;lib/sample;lib/text;capi;fuzz") ;;
    tsan) settings=(-DPONDER_BUILD_TOOLS=OFF "-DPONDER_TEST_FOLDERS=lib/base;lib/engine;lib/format;capi") ;;
    cuda-sm90) settings=(-DPONDER_BUILD_TOOLS=OFF "-DPONDER_TEST_FOLDERS=backends/cuda/native;capi;structure") ;;
    release | debug) ;;
    *) echo "test.sh: unknown preset '$preset': release, debug, asan, tsan or cuda-sm90" >&2; exit 2 ;;
  esac
  printf '\n==== %s: configure and build\n' "$preset"
  report=build/$preset/junit.xml
  if ! { cmake --preset "$preset" "${settings[@]}" && cmake --build --preset "$preset" -j "$jobs"; }; then
    lines+=("$preset: the build failed")
    failed=$((failed + 1))
    continue
  fi
  printf '\n==== %s: tests\n' "$preset"
  rm -f "$report"
  ctest --preset "$preset" -j "$jobs" --output-junit junit.xml
  status=$?
  # <testsuite name=".." tests="9" failures="1" disabled="0" skipped="2" ...>
  count() { sed -n "s/^[[:space:]]*$1=\"\([0-9]*\)\".*/\1/p" "$report" 2>/dev/null | head -n1; }
  tests=$(count tests) failures=$(count failures) skips=$(count skipped) disabled=$(count disabled)
  if [ -z "$tests" ] || { [ "$status" != 0 ] && [ "${failures:-0}" = 0 ]; }; then
    lines+=("$preset: ctest itself failed with status $status")
    failed=$((failed + 1))
    continue
  fi
  skips=$((skips + disabled))
  lines+=("$preset: $((tests - failures - skips)) passed, $failures failed, $skips skipped")
  passed=$((passed + tests - failures - skips)) failed=$((failed + failures)) skipped=$((skipped + skips))
done

printf '\n'
printf '%s\n' "${lines[@]}"
[ "$skipped" = 0 ] || echo "($skipped skipped: their data or hardware is not on this machine)"
echo "$passed passed, $failed failed"
[ "$failed" = 0 ] && [ "$passed" -gt 0 ]
