"""Previews of one's own photos while a run trains."""

import pytest
from PIL import Image

from mgie.data.side_by_side import ROWS, sheets
from mgie.errors import ConfigError, DataError
from mgie.prepare import prepare
from mgie.train import train
from mgie.weights import checkpoint


@pytest.fixture
def mine(tmp_path):
    """Two photos of other sizes than the run's, and a list of what is to be done with them."""
    for name, size in (("wide", (48, 24)), ("high", (20, 40))):
        Image.linear_gradient("L").resize(size).convert("RGB").save(tmp_path / f"{name}.png")
    (tmp_path / "mine.csv").write_text(
        "photo,instruction\nwide.png,make it dark\nhigh.png,make it dark\nwide.png,make it bright\n"
    )
    return tmp_path / "mine.csv"


def test_own_photos_are_shown_instead_of_held_out_pairs(tiny_run, tmp_path, mine, monkeypatch):
    """Of a data set that holds no pair out, too; what is learnt is the same."""
    prepare("toy", tmp_path / "data", count=16, test=0, progress=False)
    shown = []
    data = f"--data.path={tmp_path / 'data'}"
    plain = tiny_run(data, "--name=plain", samples=8)
    watched = tiny_run(data, "--name=watched", "--preview.every=4", f"--preview.photos={mine}", samples=8)
    train(plain)

    def once(seen):  # the photos may go once they are read
        (tmp_path / "wide.png").unlink(missing_ok=True)
        shown.append(seen)
        return sheets(seen)

    monkeypatch.setattr("mgie.watch.sheets", once)
    train(watched)
    assert [len(seen) for seen in shown] == [3, 3]
    assert [(each.before.size, each.instruction) for each in shown[0]] == [
        ((240, 120), "make it dark"), ((120, 240), "make it dark"), ((240, 120), "make it bright"),
    ]  # fmt: skip
    assert all(each.after.size == each.before.size for each in shown[1])
    for name in ("0000000004.png", "0000000008.png"):
        with Image.open(watched.folder / "previews" / name) as page:
            assert page.height > 3 * 240
    one, two = (checkpoint.load_tensors(checkpoint.latest(run.folder)) for run in (plain, watched))
    assert one.keys() == two.keys() and all(one[name].equal(two[name]) for name in one)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("photo,instruction\ngone.png,make it dark\n", r"there is no photo .*gone\.png: expected"),
        ("photo,instruction\nhalf.png,make it dark\n", r"half\.png"),
        ("photo,words\nwide.png,make it dark\n", r"line 2 of .*mine\.csv has 'words': expected photo"),
        ("photo,instruction\nwide.png,\n", "line 2 of .* has no instruction: expected"),
        ("photo,instruction\nwide.png,<im_start>\n", "line 2 of .*holds <im_start>, which is no word"),
        ("photo,instruction\n", "lists nothing: expected a row for each edit"),
        (
            "photo,instruction\n" + "wide.png,make it dark\n" * (ROWS + 1),
            f"25 edits: expected at most {ROWS}",
        ),
    ],
)
def test_what_cannot_be_shown_is_refused_before_anything_is_built(tiny_run, mine, monkeypatch, content, told):
    monkeypatch.setattr("mgie.train.build_editor", lambda *_, **__: pytest.fail("too late"))
    mine.write_text(content)
    (mine.parent / "half.png").write_bytes((mine.parent / "wide.png").read_bytes()[:60])
    with pytest.raises((ConfigError, DataError), match=told):
        train(tiny_run("--preview.every=4", f"--preview.photos={mine}"))


def test_photos_that_would_never_be_shown_are_refused(tiny_run, mine):
    with pytest.raises(ConfigError, match=r"preview\.every=0: they would never be shown"):
        train(tiny_run(f"--preview.photos={mine}"))
