#!/usr/bin/env bash
# Writes requirements/*.txt from the pyproject files: `make requirements`; `make requirements upgrade=1` for new pins.
#
# The files are the lock: pins that still fit are kept, each carries the hashes of all its archives, and no index is
# named, so that they install the same from any mirror. dev.txt is resolved first and lends its pins to the others.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

uv=${UV:?the path of uv; make requirements gives it}
upgrade=${1:-}

members=()
for project in libs/*/pyproject.toml services/*/pyproject.toml; do
    members+=(--no-emit-package "greenroom-$(basename "$(dirname "$project")")")
done

# compile NAME PYTHON WHAT... : resolve WHAT for PYTHON and later into requirements/NAME.txt
compile() {
    local name=$1 python=$2
    shift 2
    local target=requirements/$name.txt
    if [[ $name != dev && $name != build ]]; then
        cp requirements/dev.txt "$target"
    elif [[ $upgrade == upgrade ]]; then
        rm -f "$target"
    fi
    printf '==> %s\n' "$target"
    "$uv" pip compile --quiet --universal --python-version "$python" --generate-hashes --no-header \
        --no-emit-index-url --no-emit-find-links "${members[@]}" --output-file "$target" "$@"
    {
        echo '# Made by "make requirements" from the pyproject files; not to be edited.'
        sed '/^# The following packages were excluded/,$d' "$target" | sed -e :a -e '/^\n*$/{$d;N;ba' -e '}'
    } >"$target.new"
    mv "$target.new" "$target"
}

mkdir -p requirements
compile build 3.11 --group pyproject.toml:build # 3.11: the Python that fetches uv may be older than ours
compile dev 3.12 pyproject.toml --group pyproject.toml:dev
for service in api recorder scheduler; do
    compile "$service" 3.12 "services/$service/pyproject.toml"
done
# Its image takes every transport; the built-in front desk's offline speech is for demonstrations.
compile runner 3.12 services/runner/pyproject.toml --extra webrtc --extra livekit
