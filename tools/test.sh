#!/usr/bin/env bash
# All tests, or those given: `make test`. First those that run side by side, then those that are marked `alone`.
#
# Both parts run whatever becomes of the other; the last lines name all that failed. A few that fail beside others are
# run once more, by themselves, and named if they pass then. Single files, and what is chosen by -m, are run by pytest
# as it does.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

pytest=(.venv/bin/pytest)
[[ -t 1 ]] && pytest+=(--color=yes) # its output goes through tee

for argument in "$@"; do
    [[ $argument == *.py* || $argument == -m* ]] && exec "${pytest[@]}" "$@"
done

nothing_to_run=5 # pytest's exit code for it
outputs=$(mktemp -d)
trap 'rm -rf "$outputs"' EXIT
trap 'exit 130' INT
failed=()
ran=0
died=0
few=3 # more isn't a neighbour's fault

# part NAME ARGUMENT... : run pytest, keep what it prints.
part() {
    local name=$1 status=0
    shift
    printf '==> tests %s\n' "$name"
    "${pytest[@]}" -o cache_dir="$outputs/cache" "$@" 2>&1 | tee -i "$outputs/$name" || status=$?
    # A worker that dies takes tests with it, whether or not one of them is blamed.
    if grep -q '\[gw[0-9]*\] node down' "$outputs/$name"; then
        status=1
        died=1
    fi
    ((status == nothing_to_run)) && return
    ran=1
    ((status == 0)) || failed+=("$name")
    # Interrupted, or broken: no test is to blame, and none can make up for it.
    ((status == 0)) || grep -qE '[0-9]+ (failed|error).* in [0-9.]+s' "$outputs/$name" || died=1
}

# A worker takes whole files, in the order in which tests/support/side_by_side.py puts them. It isn't replaced when it
# dies: its file would be run again, and again.
part 'side by side' -n auto --dist loadfile --no-loadscope-reorder --max-worker-restart=0 -m 'not alone' "$@"
# Few that wait for most of their time, so that three files of them leave half of two cores idle.
part 'away from them' -n 3 --dist loadfile --max-worker-restart=0 -m alone "$@"

if ((!ran)); then
    printf '==> no test is selected by: %s\n' "$*" >&2
    exit "$nothing_to_run"
fi
((${#failed[@]})) || exit 0

# What has failed, a line each; of what can't be imported the file.
again="$outputs/cache/v/cache/lastfailed"
known=$(grep -cs '": true' "$again" || true)
if ((!died)) && ((0 < known && known <= few)) && ! grep '": true' "$again" | grep -qv '::'; then
    beside=("${failed[@]}")
    failed=()
    part 'by themselves' --last-failed "$@"
    if ((!${#failed[@]})) && grep -q "$known passed" "$outputs/by themselves"; then
        printf '\n==> failed beside others, passed by themselves\n'
        for name in "${beside[@]}"; do grep -E '^(FAILED|ERROR) ' "$outputs/$name"; done
        exit 0
    fi
    failed=("${beside[@]}")
fi
printf '\n==> failed\n'
for name in "${failed[@]}"; do
    # From the summary to the end: a line for each test, and how many there were.
    sed -n '/short test summary info/,$p' "$outputs/$name" | grep . || tail -n 20 "$outputs/$name"
done
exit 1
