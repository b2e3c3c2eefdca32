"""What is handed on: a wheel that holds all that the packages need, and runs where the project is not."""

import os
import subprocess
import sys
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
        held.extractall(tmp_path / "site")
    needed = {
        path.relative_to(root).as_posix()
        for folder in ("llava_patch", "mgie")
        for path in (root / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert not needed - inside and any(name.endswith("licenses/LICENSE") for name in inside)
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "site")}
    for words in (["--version"], ["train", "--config", "tiny", "--dry_run"], ["doctor"]):
        command = [sys.executable, "-m", "mgie", *words]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    where = [sys.executable, "-c", "import mgie; print(mgie.__file__)"]
    done = subprocess.run(where, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(str(tmp_path / "site"))


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
