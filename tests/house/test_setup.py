"""What scripts/setup.sh would install: its Python, pip and driver only write down what they are asked."""

import fcntl
import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOOLS = ("bash", "cat", "cmp", "cp", "flock", "grep", "mkdir", "rm", "timeout", "touch", "uname")
PINS = (ROOT / "constraints.txt").read_text().splitlines()
TORCH = next(line for line in PINS if line.startswith("torch=="))
INDEX = "https://download.pytorch.org/whl/cpu"

PYTHON = """#!/usr/bin/env bash
case "$1 $2" in
"-c "*) exit 0 ;;
"-m venv") mkdir -p "$3/bin" && cp "$0" "$3/bin/python" && cp "$0" "$3/bin/pip" && exit ;;
esac
echo "${*:4}" >> asked
case "$*" in
*" index versions "*) echo "Available versions: 3.0, $OFFERED, 1.0" && exit ;;
*--no-deps*) package=${*: -1} ;;
*) package=mgie==0.1.0 ;;
esac
made=.venv/lib/python3.1/site-packages/${package/==/-}.dist-info
mkdir -p "$made" && touch "$made/INSTALLER"
exit "${FAILS:-0}"
"""
"""A Python, a pip, and the Python of the virtual environment that it makes; $OFFERED is what an index has."""

pytestmark = [
    pytest.mark.skipif(os.uname().sysname != "Linux", reason="elsewhere there is one torch, and no flock"),
    pytest.mark.skipif(Path("/proc/driver/nvidia/version").exists(), reason="this machine has a driver"),
]


class Clone:
    """A copy of the files that set-up reads, with the tools it may use and no others."""

    def __init__(self, folder: Path):
        self.root, self.tools = folder / "a clone", folder / "tools"
        self.tools.mkdir()
        (self.root / "scripts").mkdir(parents=True)
        for name in ("scripts/setup.sh", "constraints.txt", "pyproject.toml"):
            shutil.copy(ROOT / name, self.root / name)
        for name in TOOLS:
            (self.tools / name).symlink_to(str(shutil.which(name)))
        self.tool("python3", PYTHON)

    def tool(self, name: str, text: str) -> None:
        (self.tools / name).unlink(missing_ok=True)  # not to write into what it points to
        (self.tools / name).write_text(text)
        (self.tools / name).chmod(0o755)

    def start(
        self, extras: str, before: str = "set -euo pipefail", **variables: str
    ) -> subprocess.Popen[str]:
        command = f"{before}; source scripts/setup.sh {extras}; command -v python"
        variables = {"PATH": str(self.tools), "OFFERED": f"{TORCH[7:]}+cpu"} | variables
        return subprocess.Popen(
            [str(self.tools / "bash"), "-c", command], cwd=self.root, env=variables, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def run(self, extras: str = "toy", **variables: str) -> tuple[int, str, str, list[str]]:
        """Exit code, both outputs, and what pip was asked, without the words that are always there."""
        (self.root / "asked").unlink(missing_ok=True)
        process = self.start(extras, **variables)
        said, complaint = process.communicate(timeout=60)
        asked = self.root / "asked"
        return process.returncode, said, complaint, asked.read_text().splitlines() if asked.exists() else []


@pytest.fixture
def clone(tmp_path):
    return Clone(tmp_path)


LOOK = f"index versions torch --extra-index-url {INDEX} --retries 0 --timeout 5"
CPU = f"install -qq --no-deps --extra-index-url {INDEX} {TORCH}+cpu"
REST = f"install -qq -c constraints.txt {TORCH} -e .[toy]"


def test_without_a_driver_torch_is_the_cpu_build(clone):
    status, said, complaint, asked = clone.run()
    assert (status, complaint, asked) == (0, "", [LOOK, CPU, REST])
    assert "torch's CPU build" in said and "for CUDA's: remove .venv and set TORCH_BUILD=cuda" in said
    assert said.splitlines()[-1] == f"{clone.root}/.venv/bin/python"


@pytest.mark.parametrize("hangs", [False, True])
def test_where_the_cpu_builds_cannot_be_had_it_is_said_and_the_usual_one_is_taken(clone, hangs):
    if hangs:
        clone.tool("timeout", '#!/usr/bin/env bash\n[ "$1" -le 20 ] && exit 124')
    status, said, complaint, asked = clone.run(OFFERED=TORCH[7:])
    assert (status, asked) == (0, [REST] if hangs else [LOOK, REST])
    assert complaint.count("\n") == 1 and f"no CPU build of {TORCH}: {INDEX} cannot be reached" in complaint
    assert "with CUDA" in said and "TORCH_BUILD=cpu" in said


def test_with_a_driver_torch_is_the_usual_one(clone):
    clone.tool("nvidia-smi", "")
    status, said, complaint, asked = clone.run()
    assert (status, complaint, asked) == (0, "", [REST])
    assert "with CUDA" in said and "TORCH_BUILD=cpu" in said


def test_a_build_can_be_chosen_and_stays(clone):
    clone.tool("nvidia-smi", "")
    assert clone.run(TORCH_BUILD="cpu")[3] == [LOOK, CPU, REST]
    assert clone.run(TORCH_BUILD="cpu")[::3] == (0, [])
    assert clone.run()[::3] == (0, [])
    assert clone.run("dev")[::3] == (0, [REST.replace("toy", "dev")])
    status, _, complaint, asked = clone.run(TORCH_BUILD="cuda")
    assert (status, asked) == (2, []) and "TORCH_BUILD is cuda" in complaint and ".venv has cpu" in complaint


def test_a_choice_that_cannot_be_had_is_an_error(clone):
    for build, says in (("cpu", "cannot be reached"), ("rocm", "TORCH_BUILD is rocm: expected cpu or cuda")):
        status, _, complaint, asked = clone.run(TORCH_BUILD=build, OFFERED="")
        assert status == 2 and says in complaint and complaint.count("\n") == 1 and REST not in asked


def test_what_is_there_is_not_installed_again_unless_something_changed(clone):
    clone.tool("nvidia-smi", "")
    assert clone.run()[3] == [REST]
    assert clone.run()[3] == []
    (clone.root / "constraints.txt").write_text(f"{TORCH}\n")
    assert clone.run()[3] == [REST]
    clone.root = clone.root.rename(clone.root.with_name("moved"))
    assert clone.run()[3] == [REST]


def test_what_was_interrupted_is_installed_again(clone):
    """pip gives a package its INSTALLER last. Other extras may tear the project itself."""
    clone.tool("nvidia-smi", "")
    assert clone.run()[3] == [REST]
    packages = clone.root / ".venv/lib/python3.1/site-packages"
    torn, whole = packages / "a-1.dist-info", packages / "b-1.dist-info"
    for package in (torn, whole):
        package.mkdir()
    (whole / "INSTALLER").touch()
    assert clone.run()[3] == [] and torn.exists()  # not one of what `toy` was made of
    assert clone.run("dev")[0] == 0 and whole.exists() and not torn.exists()
    (whole.with_name("mgie-0.1.0.dist-info") / "INSTALLER").unlink()
    assert clone.run()[3] == [REST]


@pytest.mark.parametrize("before", ["set -euo pipefail", "set +e"])
def test_a_failed_installation_is_no_installation(clone, before):
    clone.tool("nvidia-smi", "")
    for _ in range(2):
        status, said, _, asked = clone.run(before=before, FAILS="1")
        assert asked == [REST] and status and ".venv/bin/python" not in said


def test_two_installations_wait_for_each_other(clone):
    (clone.root / ".venv").mkdir()
    with (clone.root / ".venv" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        second = clone.start("toy")
        assert second.stdout and "waiting for it" in second.stdout.readline()
        assert second.poll() is None and not (clone.root / "asked").exists()
    assert second.communicate(timeout=60)[1] == "" and second.returncode == 0


def test_nothing_needs_torchvision():
    """The one on a usual index is made for CUDA's torch: beside another, transformers cannot be imported."""
    for name in ("constraints.txt", "pyproject.toml", "scripts/setup.sh"):
        assert "torchvision" not in (ROOT / name).read_text()
