"""Ten attacks on runs that share out everything; two hundred where there is time (`make test-slow`)."""

import random

import pytest


@pytest.fixture(scope="module")
def shares(root):
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(root / "benchmarks")
        from attacks import shares

        yield shares


@pytest.mark.parametrize("count", [10, pytest.param(200, marks=pytest.mark.slow)])
def test_the_end_is_the_same_to_the_bit(shares, tmp_path, monkeypatch, count):
    from attacks import laboratory

    monkeypatch.setattr(laboratory, "LIMIT", 90.0)

    class Here:
        folder = tmp_path

    bad = []
    for number, each in enumerate(shares.tries(Here(), count)):
        folder = tmp_path / f"{number}" / "here"
        folder.mkdir(parents=True)
        found = each.attack(folder, random.Random(f"shares 0 {number}"))
        if found.result != "done":
            bad.append(f"{number} {each.what}: {found.result}: {found.detail}")
    assert not bad, "\n".join(bad)
