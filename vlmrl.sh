#!/bin/sh
# All the set-up of a checkout, on bare Debian or Ubuntu with git and Python >= 3.11.
set -eu

usage() {
    cat <<'END'
usage: ./vlmrl.sh COMMAND [ARGUMENTS]

  demo [OVERRIDES]   set up, then run the main job: vlmrl run OVERRIDES
  test [PYTEST]      set up, then check style, types and tests
  test-slow [PYTEST] set up, then run the tests marked slow
  doctor             set up, then say what this machine has and lacks
  setup              set up only: create .venv and install vlmrl in it
  ANYTHING ELSE      is passed to the vlmrl command, for example: ./vlmrl.sh data show STORE

VLMRL_PYTHON    the Python to use (3.11 to 3.13); otherwise the first that fits of python3, python3.13 ...
VLMRL_PIP_ARGS  more arguments for pip install, for example an index that has CPU builds of torch
MUJOCO_GL       the OpenGL back end; otherwise the first that draws of egl, osmesa
END
}

say() { printf 'vlmrl: %s\n' "$*" >&2; }
die() { say "$@"; exit 1; }

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd -P)
venv=$here/.venv
user='sims,video'
developer='sims,video,dev'

# Install Debian packages if allowed; $1 says what for, the rest are package names.
system_packages() {
    purpose=$1
    shift
    as_root=
    if [ "$(id -u)" -ne 0 ]; then
        as_root='sudo -n'
        sudo -n true 2>/dev/null || as_root=none
    fi
    if [ "$as_root" = none ] || ! command -v apt-get >/dev/null 2>&1; then
        die "this system lacks $purpose; ask an administrator for: apt-get install --no-install-recommends $*"
    fi
    say "this system lacks $purpose; installing $*"
    apt="$as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq"
    log=$(mktemp)
    if ! { $apt install -y --no-install-recommends "$@" ||
        { $apt update && $apt install -y --no-install-recommends "$@"; }; } >"$log" 2>&1 </dev/null; then
        cat "$log" >&2
        rm -f "$log"
        die "this system lacks $purpose, and this failed: apt-get install --no-install-recommends $*"
    fi
    rm -f "$log"
}

fits() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; }

find_python() {
    for python in ${VLMRL_PYTHON:-python3 python3.13 python3.12 python3.11}; do
        if command -v "$python" >/dev/null 2>&1 && fits "$python"; then
            return 0
        fi
    done
    return 1
}

opengl='libegl1 libegl-mesa0 libgl1 libgl1-mesa-dri'

# Cheap, so that it is known before anything big is downloaded; `vlmrl.gl` draws a picture afterwards.
has_opengl() {
    [ -z "${MUJOCO_GL:-}" ] || return 0
    "$python" - <<'END'
import ctypes, sys
def have(*names):
    for name in names:
        try:
            ctypes.CDLL(name)
        except OSError:
            continue
        return True
    return False
egl = have("libEGL.so.1") and have("libEGL_mesa.so.0", "libEGL_nvidia.so.0") and have("libGL.so.1", "libOpenGL.so.0")
sys.exit(not (egl or have("libOSMesa.so.8", "libOSMesa.so.6")))
END
}

# Everything that the system lacks is named at once. The doctor runs without OpenGL, to say so.
need_system() {
    if ! find_python; then
        [ -z "${VLMRL_PYTHON:-}" ] || die "VLMRL_PYTHON=$VLMRL_PYTHON is not Python 3.11 to 3.13"
        ! found=$(python3 --version 2>/dev/null) ||
            die "Python 3.11 to 3.13 is wanted, python3 is $found; install one and set VLMRL_PYTHON to it"
        # shellcheck disable=SC2086  # package names are words
        system_packages "Python 3.11 to 3.13" python3 python3-venv $opengl
        find_python || die "Python 3.11 to 3.13 is wanted, this system installs $(python3 --version 2>&1)"
    fi
    lacking=
    packages=
    if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
        lacking="the venv module of $python"
        packages=$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
    fi
    if [ "$command" != doctor ] && ! has_opengl; then
        lacking="${lacking:+$lacking and }the OpenGL library (EGL)"
        packages="$packages $opengl"
    fi
    # shellcheck disable=SC2086
    [ -z "$packages" ] || system_packages "$lacking" $packages
}

wanted_stamp() {
    printf '%s\n' "$here" "$("$venv/bin/python" --version)"
    cat "$here/pyproject.toml" "$here/constraints.txt"
}

# $1 is the list of extras. A stamp holds what was installed, so that nothing is done twice.
install() {
    for stamp in "$venv/stamp-$1" "$venv/stamp-$developer"; do
        if [ -f "$stamp" ] && wanted_stamp 2>/dev/null | cmp -s - "$stamp"; then
            return 0
        fi
    done
    need_system
    if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1 || ! fits "$venv/bin/python" ||
        ! head -n 3 "$venv/bin/pip" | grep -qF "$venv/"; then
        say "creating $venv with $("$python" --version)"
        "$python" -m venv --clear "$venv"
    fi
    rm -f "$venv"/stamp-*
    say "installing vlmrl[$1] into $venv; the first time this downloads 0.5 GB or more"
    quiet=-q
    [ ! -t 1 ] || quiet=
    export PIP_DISABLE_PIP_VERSION_CHECK=1
    # shellcheck disable=SC2086  # options are words
    (cd "$here" && "$venv/bin/python" -m pip install $quiet ${VLMRL_PIP_ARGS:-} -c constraints.txt -e ".[$1]") </dev/null
    wanted_stamp >"$venv/stamp-$1"
}

# Two commands started together in one checkout wait for each other here.
set_up() {
    if command -v flock >/dev/null 2>&1; then
        (flock 9; install "$1") 9>"$here/.venv.lock"
    else
        install "$1"
    fi
    PATH=$venv/bin:$PATH
    export PATH VIRTUAL_ENV="$venv" OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-PASSIVE}"
}

choose_opengl() {
    MUJOCO_GL=$(python -m vlmrl.gl) || exit 1
    export MUJOCO_GL
    if [ "$MUJOCO_GL" = osmesa ]; then
        export PYOPENGL_PLATFORM=osmesa
    fi
}

step() {
    say "$*"
    "$@" </dev/null || failed="$failed '$1 ${2:-}'"
}

checks() {
    failed=
    cd "$here"
    step ruff check .
    step ruff format --check .
    step pyright
    step python -m pytest -n auto --dist loadfile "$@"
    [ -z "$failed" ] || die "failed:$failed"
    say "all checks pass"
}

command=${1:-help}
[ $# -eq 0 ] || shift
# One statement a line: `set -e` does not look inside `a && b`.
case $command in
    help | -h | --help)
        usage
        exit
        ;;
    test | test-slow) set_up "$developer" ;;
    *) set_up "$user" ;;
esac
[ "$command" = doctor ] || choose_opengl
case $command in
    setup) say "ready; activate with: . $venv/bin/activate" ;;
    demo) exec vlmrl run "$@" ;;
    test) checks "$@" ;;
    test-slow)
        cd "$here"
        exec python -m pytest -n auto --dist loadfile -m slow "$@" </dev/null
        ;;
    vlmrl) exec vlmrl "$@" ;;
    *) exec vlmrl "$command" "$@" ;;
esac
