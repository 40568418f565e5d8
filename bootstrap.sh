#!/bin/sh
# Makes the virtual environment that `make up` and `make test` use, and installs tmux and git where they are missing and
# that is allowed. `bootstrap.sh dev` adds what the tests need. Called by the Makefile; VENV and PYTHON may be given.
# What cannot be had ends in one line that says what to install.
set -eu
cd "$(dirname "$0")"
VENV=${VENV:-.venv}
extra=
[ "${1:-}" = dev ] && extra='[dev]'

stop() {
    echo "make: $*" >&2
    exit 2
}

have() { command -v "$1" >/dev/null 2>&1; }

# The first interpreter that is new enough; a shim may be on PATH and yet not run.
find_python() {
    for candidate in ${PYTHON:-} python3.11 python3 python3.12 python3.13 python3.14; do
        if have "$candidate" && "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
            command -v "$candidate"
            return
        fi
    done
}

# Debian keeps ensurepip, without which a virtual environment has no pip, in a package of its own.
can_venv() { "$1" -c 'import venv, ensurepip' >/dev/null 2>&1; }

# Packages that are missing beside the interpreter $1.
missing() {
    wanted=
    have tmux || wanted="$wanted tmux"
    have git || wanted="$wanted git"
    if [ -z "$1" ]; then
        wanted="$wanted python3 python3-venv"
    elif [ ! -x "$VENV/bin/python" ] && ! can_venv "$1"; then
        wanted="$wanted $("$1" -c 'import sys; print("python3.%d-venv" % sys.version_info[1])')"
    fi
    echo "${wanted# }"
}

python=$(find_python)
wanted=$(missing "$python")
if [ -n "$wanted" ]; then
    if have apt-get; then
        if [ "$(id -u)" = 0 ]; then
            root=
        elif have sudo && sudo -n true 2>/dev/null; then
            root='sudo -n'
        else
            stop "$wanted missing: run \`sudo apt-get install $wanted\`, then make again"
        fi
        echo "installing $wanted with apt-get"
        # An apt-get that cannot fetch says so on stderr; lists of a fresh image are empty, hence the update.
        # shellcheck disable=SC2086
        { $root apt-get update -qq && $root env DEBIAN_FRONTEND=noninteractive \
            apt-get install -y -qq --no-install-recommends $wanted; } >/dev/null </dev/null \
            || stop "apt-get could not install $wanted: install them yourself, then make again"
        python=$(find_python)
        wanted=$(missing "$python")
        [ -z "$wanted" ] || stop "$wanted still missing (Python must be 3.11 or newer): install them, then make again"
    else
        stop "$wanted missing (Python must be 3.11 or newer): install them with your package manager, then make again"
    fi
fi

if ! "$VENV/bin/python" -m pip --version >/dev/null 2>&1; then
    echo "making $VENV with $python"
    rm -rf "$VENV"
    "$python" -m venv "$VENV" || stop "$python could not make $VENV: see above"
fi

if [ -t 1 ]; then quiet=; else quiet=-q; fi
echo "installing orgctl${extra:+ with what its tests need}; the largest download is PyTorch"
# The build backend gets an environment of its own: older pips take its pins from the one variable, newer from the other.
PIP_CONSTRAINT=constraints.txt PIP_BUILD_CONSTRAINT=constraints.txt PIP_DISABLE_PIP_VERSION_CHECK=1 \
    "$VENV/bin/python" -m pip install $quiet -c constraints.txt -e ".$extra" </dev/null \
    || stop "pip could not install orgctl into $VENV: see above, then make again"
touch "$VENV/.up"
[ -z "$extra" ] || touch "$VENV/.dev"
