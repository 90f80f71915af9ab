#!/usr/bin/env bash
# From a fresh clone to a model that thinks: sets the machine up (scripts/setup.sh), builds the
# library and the `ponder` command, and asks the shipped model a Countdown puzzle.
#
#   scripts/quickstart.sh [arguments for `ponder run`]

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
scripts/setup.sh
echo "quickstart: building ponder" >&2
log=build/quickstart.log
mkdir -p build
if ! { cmake --preset release >"$log" 2>&1 && cmake --build --preset release --target ponder_command >>"$log" 2>&1; }; then
  tail -n 40 "$log" >&2
  echo "quickstart: the build failed; the whole log is $log" >&2
  exit 1
fi
ponder=build/release/tools/ponder
[ $# -gt 0 ] || set -- --seed 1 "Use 3, 7 and 21 to make 42."
echo "quickstart: $ponder run" "$@" >&2
exec "$ponder" run "$@"
