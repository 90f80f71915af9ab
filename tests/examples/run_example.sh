#!/usr/bin/env bash
# Runs an example; it must succeed and print something that matches. Usage: run_example.sh REGEX COMMAND...
set -u
expected=$1
shift
output=$("$@" 2>&1)
status=$?
printf '%s\n' "$output"
[ $status -eq 0 ] || { echo "exit status $status"; exit 1; }
grep -qE -- "$expected" <<<"$output" || { echo "nothing matches: $expected"; exit 1; }
