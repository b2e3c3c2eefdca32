"""Every recipe in the package is a whole run that would start."""

import pytest

from mgie.config import RECIPES, dump_run, load_run

NAMES = sorted(path.stem for path in RECIPES.glob("*.yaml"))


@pytest.mark.parametrize("name", NAMES)
def test_it_loads_and_validates(name):
    run = load_run(name)
    run.validate()
    assert run.name == name


@pytest.mark.parametrize("name", NAMES)
def test_it_reads_back_what_it_writes(name, tmp_path):
    run = load_run(name)
    (tmp_path / "again.yaml").write_text(dump_run(run))
    assert load_run(str(tmp_path / "again.yaml")) == run


@pytest.mark.parametrize("name", NAMES)
def test_it_begins_with_its_command(name):
    head = []
    for line in (RECIPES / f"{name}.yaml").read_text().splitlines():
        if not line.startswith("#"):
            break
        head.append(line)
    assert any(f"mgie train --config {name}" in line for line in head), "the command, how long, on what"


def test_there_are_recipes():
    assert "tiny" in NAMES
