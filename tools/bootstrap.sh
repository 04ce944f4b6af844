#!/usr/bin/env bash
# Makes .venv/ from requirements/dev.txt, with the members of the workspace editable in it. The Makefile runs it when
# something it depends on has changed. Nothing outside the checkout is written, uv's own cache aside.
#
#   tools/bootstrap.sh       make or refresh .venv
#   tools/bootstrap.sh uv    only print the path of a usable uv, fetched into .uv/ when there is none on PATH
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# Settings of the caller's shell that would change what is installed, or where.
unset VIRTUAL_ENV CONDA_PREFIX PYTHONHOME PYTHONPATH PYTHONDONTWRITEBYTECODE PIP_TARGET PIP_PREFIX PIP_USER

oldest_uv=0.9.0   # the first that the workspace's build backend, uv_build>=0.9, is tested with
oldest_python=311 # for fetching uv only; the services run on the Python of .python-version

say() { printf '==> %s\n' "$*" >&2; }
die() {
    printf 'greenroom: %s\n' "$*" >&2
    exit 1
}

# uv_works PATH: it runs (a pyenv shim may not) and is not older than what we need.
uv_works() {
    local version
    version=$("$1" --version 2>/dev/null) || return 1
    version=${version#uv }
    version=${version%% *}
    [[ $(printf '%s\n' "$oldest_uv" "$version" | sort -V | head -n 1) == "$oldest_uv" ]]
}

# The first Python on PATH that runs and is new enough to fetch uv with.
find_python() {
    local name path
    for name in python3 python3.12 python3.13 python3.14 python3.11 python; do
        while read -r path; do
            if "$path" -c "import sys; sys.exit(sys.version_info[0] * 100 + sys.version_info[1] < $oldest_python)" \
                >/dev/null 2>&1; then
                printf '%s\n' "$path"
                return
            fi
        done < <(type -ap "$name")
    done
    return 1
}

# fetch_uv: install the pinned uv into .uv/ with nothing but Python and pip.
fetch_uv() {
    local python pip
    python=$(find_python) || die "neither uv nor Python 3.11 or newer is on PATH: install one, then run make again"
    say "fetching uv into .uv/ with $python"
    rm -rf .uv
    # Debian's Python comes without ensurepip, but perhaps with pip: then that pip fills the venv.
    if "$python" -m venv .uv >/dev/null 2>&1; then
        pip=(.uv/bin/python -m pip install)
    elif rm -rf .uv && "$python" -m pip --version >/dev/null 2>&1; then
        pip=("$python" -m pip install --target .uv)
    else
        rm -rf .uv
        die "$python has neither ensurepip nor pip: install python3-venv (Debian, Ubuntu) or uv, then run make again"
    fi
    "${pip[@]}" --quiet --disable-pip-version-check --root-user-action=ignore --no-warn-script-location \
        --require-hashes --only-binary :all: -r requirements/build.txt >&2 ||
        die "uv could not be fetched from the package index (see above)"
    uv_works .uv/bin/uv || die ".uv/bin/uv does not run on this machine"
}

# Whoever has told only pip about a mirror or its certificate means uv too: uv doesn't read pip's settings.
borrow_pip_settings() {
    local python=.uv/bin/python settings index cert
    [[ -x $python ]] || python=$(find_python) || return 0
    settings=$("$python" -m pip config list 2>/dev/null) || return 0
    index=${PIP_INDEX_URL:-$(pip_setting index-url <<<"$settings")}
    cert=${PIP_CERT:-$(pip_setting cert <<<"$settings")}
    if [[ -n $index && -z ${UV_DEFAULT_INDEX:-}${UV_INDEX_URL:-}${UV_CONFIG_FILE:-} ]]; then
        export UV_DEFAULT_INDEX=$index
    fi
    if [[ -f $cert && -z ${SSL_CERT_FILE:-} ]]; then
        export SSL_CERT_FILE=$cert
    fi
}

# pip_setting NAME < `pip config list`: what holds for `pip install` by its files.
pip_setting() { sed -n "s/^\(global\|install\)\.$1='\(.*\)'\$/\2/p" | tail -n 1; }

find_uv() {
    local path
    path=$(type -P uv) || path=
    if [[ -n $path ]] && uv_works "$path"; then
        uv=$path
        return
    fi
    uv_works .uv/bin/uv || fetch_uv
    uv=$PWD/.uv/bin/uv
    borrow_pip_settings
}

python_fits() { .venv/bin/python -c 'import sys; sys.exit(sys.version_info < (3, 12))' 2>/dev/null; }

# The Python of .python-version: one that uv finds, one that only pyenv knows, or one that uv may fetch. When there is
# none of them, the newest that the services support.
make_venv() {
    local wanted candidate
    wanted=$(<.python-version)
    say "making .venv with Python $wanted"
    for candidate in "$wanted" "${PYENV_ROOT:-$HOME/.pyenv}/versions/$wanted"*/bin/python"$wanted"; do
        new_venv "$candidate" --no-python-downloads 2>/dev/null && return
    done
    new_venv "$wanted" && return
    say "no Python $wanted here: taking the newest there is"
    new_venv '>=3.12' --no-python-downloads ||
        die "Python 3.12 or newer is needed: install it, or let uv fetch it (unset UV_PYTHON_DOWNLOADS)"
}

new_venv() { "$uv" venv --quiet --clear --prompt greenroom --python "$1" "${@:2}" .venv; }

find_uv
if [[ ${1:-} == uv ]]; then
    printf '%s\n' "$uv"
    exit
fi

python_fits || make_venv
rm -f .venv/.ready

say "installing $(grep -c '==' requirements/dev.txt) pinned packages into .venv"
sync=("$uv" pip sync --python .venv/bin/python --require-hashes --build-constraints requirements/build.txt
    --compile-bytecode requirements/dev.txt)
if [[ -t 2 ]]; then
    "${sync[@]}" # shows its progress itself
else
    "${sync[@]}" 2>&1 | { grep -v '^ [-+~] ' >&2 || true; }
fi

members=()
for project in libs/*/ services/*/; do
    members+=(--editable "./${project%/}")
done
"$uv" pip install --quiet --python .venv/bin/python --no-deps --build-constraints requirements/build.txt "${members[@]}"
.venv/bin/python -m compileall -q -j 0 libs services || true # a syntax error shows itself where the module is used
touch .venv/.ready
say "ready"
