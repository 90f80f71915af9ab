#!/usr/bin/env bash
# Runs an example; it must succeed and print something that matches. Usage: run_example.sh REGEX COMMAND...
set -u
expected=$1
shift
# Without the colours, which may stand between any two pieces of a text.
output=$("$@" 2>&1 | sed "s/\x1b\[[0-9;]*m//g"; exit "${PIPESTATUS[0]}")
status=$?
printf '%s\n' "$output"
[ $status -eq 0 ] || { echo "exit status $status"; exit 1; }
grep -qE -- "$expected" <<<"$output" || { echo "nothing matches: $expected"; exit 1; }
