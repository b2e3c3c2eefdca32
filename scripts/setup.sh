# Sourced by quickstart.sh and test.sh: `source scripts/setup.sh EXTRAS`, for example `source scripts/setup.sh toy`.
# What: makes .venv beside the code and installs the project with these extras, at the versions in constraints.txt.
#       Without an NVIDIA driver torch is its CPU build, from PyTorch's index of these where that can be reached;
#       TORCH_BUILD=cpu or TORCH_BUILD=cuda chooses by hand. The build that .venv has stays.
# On:   any machine with Python >= 3.10 and pip's usual access to packages; no compiler, no GPU.
# Time: about three minutes the first time, four with CUDA's torch; nothing when the same was installed before.
# Puts: .venv (about 2 GB; with CUDA's torch about 6); $PATH then finds `mgie` and `python` there.

if ! "${PYTHON:-python3}" -c 'import sys; sys.exit(sys.version_info < (3, 10))'; then
    echo "Python >= 3.10 is needed: set PYTHON to one, for example PYTHON=python3.12." >&2
    return 2
fi

mgie_state() { pwd && cat pyproject.toml constraints.txt; }

mgie_setup() { # EXTRAS; file 9 is a lock, and pip's too: pip may outlive a script that was killed
    local pip=(.venv/bin/python -m pip --disable-pip-version-check) index=https://download.pytorch.org/whl/cpu
    local site='.venv/lib/python3*/site-packages' installed=".venv/installed-$1" torch made build offered package
    if command -v flock > /dev/null && ! flock -n 9; then
        echo "another installation is at work on .venv: waiting for it ..." && flock 9 || return
    fi
    made=$(cat .venv/torch-build 2> /dev/null)
    build=${TORCH_BUILD:-$made}
    case "$build:${made:-$build}" in
    : | cpu:cpu | cuda:cuda) ;;
    *) echo "TORCH_BUILD is $build: expected cpu or cuda${made:+; .venv has $made, remove it to have the other}." >&2 && return 2 ;;
    esac
    if mgie_state | cmp -s - "$installed" && compgen -G "$site/mgie-*.dist-info/INSTALLER" > /dev/null; then
        return 0
    fi

    # A virtual environment gets its pip last, a package its INSTALLER: what has none was interrupted, and is made again.
    [ -x .venv/bin/pip ] || "${PYTHON:-python3}" -m venv .venv || return
    for package in $site/*.dist-info; do [ -e "$package/INSTALLER" ] || rm -rf "$package"; done

    torch=$(grep '^torch==' constraints.txt)
    if [ -z "$build" ]; then
        command -v nvidia-smi > /dev/null || [ -e /proc/driver/nvidia/version ] && build=cuda || build=cpu
    fi
    if [ "$build$(uname)" = cpuLinux ] && ! compgen -G "$site/${torch/==/-}+cpu.dist-info" > /dev/null; then
        offered=$(timeout 20 "${pip[@]}" index versions torch --extra-index-url $index --retries 0 --timeout 5 2> /dev/null)
        if [[ "$offered" == *" ${torch#*==}+cpu"* ]]; then
            echo "installing torch's CPU build into .venv (for CUDA's: remove .venv and set TORCH_BUILD=cuda) ..."
            "${pip[@]}" install -qq --no-deps --extra-index-url $index "$torch+cpu" || return
        else
            echo "there is no CPU build of $torch: $index cannot be reached, or has none for this Python." >&2
            [ -z "${TORCH_BUILD:-}" ] && build=cuda || return 2
        fi
    fi
    [ $build = cpu ] || echo "torch comes as the usual package index has it, on Linux with CUDA (about 6 GB; TORCH_BUILD=cpu: 2) ..."
    echo "installing into .venv (some minutes) ..."
    "${pip[@]}" install -qq -c constraints.txt "$torch" -e ".[$1]" && echo "$build" > .venv/torch-build &&
        mgie_state > "$installed"
}

mkdir -p .venv
mgie_setup "$1" 9>> .venv/lock || return
export PATH="$PWD/.venv/bin:$PATH"
