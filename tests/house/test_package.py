"""What is handed on: a wheel that holds all that the packages need, and runs where the project is not."""

import re
import subprocess
import sys
import venv
import zipfile

import pytest

from mgie.doctor import OPTIONAL

ROOM = 20_000_000
"""Bytes that a wheel may have; the small base of the recipe `tiny` takes most of them."""


@pytest.mark.slow
def test_a_wheel_runs_by_itself(root, tmp_path):
    pip = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    source = tmp_path / "source"  # setuptools builds inside of what it is given
    names = ("llava_patch", "mgie", "pyproject.toml", "setup.py", "README.md", "LICENSE")
    source.mkdir()
    subprocess.run(["cp", "-r", *(root / name for name in names), source], check=True)
    subprocess.run([*pip, "-w", tmp_path, source], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.stat().st_size < ROOM
    with zipfile.ZipFile(wheel) as held:
        inside = set(held.namelist())
    needed = {
        path.relative_to(root).as_posix()
        for folder in ("llava_patch", "mgie")
        for path in (root / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert not needed - inside and any(name.endswith("licenses/LICENSE") for name in inside)
    # A fresh environment that has what this one has, but for the project itself.
    fresh, empty = tmp_path / "fresh", tmp_path / "empty"
    venv.create(fresh)
    (site,) = fresh.glob("lib/python3*/site-packages")
    (site / "others.pth").write_text("\n".join(path for path in sys.path if path.endswith("-packages")))
    install = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        fresh / "bin" / "python",
        "install",
        "-q",
        "--no-deps",
    ]
    subprocess.run([*install, "--no-index", wheel], check=True)
    empty.mkdir()
    home = {"HOME": str(tmp_path), "PATH": f"{fresh / 'bin'}:/usr/bin:/bin", "HF_HUB_OFFLINE": "1"}

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(words, cwd=empty, env=home, capture_output=True, text=True)

    where = run("python", "-c", "import mgie, llava_patch; print(mgie.__file__, llava_patch.__file__)")
    assert all(path.startswith(str(site)) for path in where.stdout.split()), where
    for words in (["--version"], ["doctor"], ["train", "--config", "tiny", "--dry_run"], ["edit", "--help"]):
        done = run("mgie", *words)
        assert done.returncode == 0 and done.stdout, done.stderr
    done = run("mgie", "models")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1) and "no folder _ckpt" in done.stderr
    assert not any(empty.iterdir()), "nothing is written where nothing was asked for"


def test_what_is_told_of_the_project_is_true(root):
    yaml = pytest.importorskip("yaml")
    cited = yaml.safe_load((root / "CITATION.cff").read_text())
    assert cited["license"] in (root / "pyproject.toml").read_text()
    for file in (root / ".github").rglob("*.yml"):
        assert yaml.safe_load(file.read_text()), file
    # The image takes extras and files that there are.
    lines = (root / "Dockerfile").read_text().splitlines()
    extras = next(line for line in lines if line.startswith("ARG EXTRAS=")).partition("=")[2].split(",")
    project = (root / "pyproject.toml").read_text()
    assert all(f"\n{extra} = [" in project for extra in extras)
    for line in lines:
        if line.startswith("COPY "):
            assert all((root / name).exists() for name in line.split()[1:-1]), line


def test_the_doctor_knows_packages_by_the_names_they_are_installed_by(root):
    project = (root / "pyproject.toml").read_text()
    named = {name for name in OPTIONAL if f'"{name}>=' in project}
    assert set(OPTIONAL) - named == {"flash-attn"}  # the one that nobody's extra brings


def test_every_extra_is_told_and_of_use(root):
    """In the README's table, in its order; each is what the program, a script or a workflow asks for."""
    project = (root / "pyproject.toml").read_text().split("optional-dependencies]")[1].split("\n[")[0]
    extras = re.findall(r"^(\w+) = \[", project, flags=re.MULTILINE)
    told = re.findall(r"^\| `(\w+)` \| .+ \|$", (root / "README.md").read_text(), flags=re.MULTILINE)
    assert extras == told
    files = [*(root / "mgie").rglob("*.py"), *(root / "scripts").glob("*.sh"), root / "Dockerfile"]
    files += (root / ".github" / "workflows").glob("*.yml")
    text = "\n".join(path.read_text() for path in files)
    ways = r"mgie\[{0}\]|setup\.sh \S*\b{0}\b|\"{0}\"|EXTRAS=\S*\b{0}\b"
    assert not [extra for extra in extras if not re.search(ways.format(extra), text)]
