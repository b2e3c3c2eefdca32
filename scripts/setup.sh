# Sourced by quickstart.sh and test.sh: `source scripts/setup.sh EXTRAS`, for example `source scripts/setup.sh toy`.
# What: makes .venv beside the code and installs the project with these extras, at the versions in constraints.txt.
# On:   any machine with Python >= 3.10 and pip's usual access to packages; no compiler, no GPU.
# Time: one to three minutes the first time; nothing when the same was installed before.
# Puts: .venv (about 2 GB); $PATH then finds `mgie` and `python` there.

if ! "${PYTHON:-python3}" -c 'import sys; sys.exit(sys.version_info < (3, 10))'; then
    echo "Python >= 3.10 is needed: set PYTHON to one, for example PYTHON=python3.12." >&2
    exit 2
fi

# A virtual environment gets its pip last: with pip it is complete.
[ -x .venv/bin/pip ] || "${PYTHON:-python3}" -m venv .venv

installed=".venv/installed-$1"
if ! cat pyproject.toml constraints.txt | cmp -s - "$installed"; then
    echo "installing into .venv (one to three minutes) ..."
    .venv/bin/pip install -qq --disable-pip-version-check -c constraints.txt torch==2.13.0 -e ".[$1]"
    cat pyproject.toml constraints.txt > "$installed"
fi
export PATH="$PWD/.venv/bin:$PATH"
