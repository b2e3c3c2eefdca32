"""A published protocol scores ready pictures; what it is not sure of stands beside every figure."""

import hashlib
import json
import re
from dataclasses import replace

import pytest
from benchmark_data import write_magicbrush

from mgie.errors import ConfigError, DataError, WeightsError
from mgie.evaluate import evaluate
from mgie.evaluation.published.data import identity, is_published, read_layout
from mgie.evaluation.published.protocol import find_protocol


@pytest.fixture
def magicbrush(tmp_path):
    write_magicbrush(tmp_path, {"3": 3, "7": 1})
    return tmp_path


@pytest.fixture
def scored(magicbrush, clip_folder, dino_folder):
    """Takes what is to be otherwise; gives the facts."""

    def run(**changes):
        asked = {
            "model": f"pictures:{magicbrush / 'gen'}", "suite": "magicbrush", "data": magicbrush / "data",
            "out": magicbrush / "report", "clip": clip_folder, "dino": dino_folder, "unpinned": True,
        }  # fmt: skip
        return evaluate(**(asked | changes))

    return run


def test_a_result_says_what_it_is_a_result_of(scored, magicbrush, capsys):
    facts = scored()
    assert re.fullmatch(r"magicbrush/1#[0-9a-f]{8}", facts["protocol"])
    assert facts["protocol_sha256"].startswith(facts["protocol"][-8:])
    assert facts["unpinned"] == ["the weights of clip", "the weights of dino", "the data"]
    assert set(facts["weights"]) == {"clip", "dino"} and len(facts["items_sha256"]) == 64
    rows = facts["rows"]
    assert {(row, view): found["n"] for row, views in rows.items() for view, found in views.items()} == {
        (row, view): n for row in ("outputs", "copy", "oracle") for view, n in (("single", 4), ("multi", 2))
    }
    assert rows["oracle"]["single"]["l1"] == 0 and rows["oracle"]["single"]["dino"] == pytest.approx(1)
    assert rows["copy"]["multi"]["l1"] > 0 and set(rows["outputs"]["single"]) >= {"l2", "clip_i", "clip_t"}
    written = json.loads((magicbrush / "report" / "results.json").read_text())
    assert written == {name: facts[name] for name in written}
    items = [json.loads(line) for line in (magicbrush / "report" / "items.jsonl").read_text().splitlines()]
    assert len(items) == 3 * (4 + 2)
    for text in ((magicbrush / "report" / "report.md").read_text(), capsys.readouterr().out):
        assert facts["protocol"] in text and "Not known to be as published: the data." in text
        assert re.search(r"\| single +\| +outputs \| +4 \|", text)
        assert re.search(r"\| multi +\| +InstructPix2Pix \| +0.1584 \|", text)
        assert "not measured here (MagicBrush, arXiv 2306.10012); the figures above are not known to" in text
    assert "not measured here" in (magicbrush / "report" / "report.html").read_text()


def test_a_subset_is_scored_alone_and_says_so(scored, magicbrush):
    """As the same items of the whole; other outputs need not be there, other keys are refused."""
    whole = scored()
    (magicbrush / "keys").write_text("7-1\n3-2\n\n")
    (magicbrush / "gen" / "3" / "3_iter_3.png").unlink()
    part = scored(subset=magicbrush / "keys", out=magicbrush / "part")
    sha = hashlib.sha256(b"3-2\n7-1\n").hexdigest()
    assert part["protocol"] == f"{whole['protocol']} subset#{sha[:8]}"
    assert part["subset"] == {"keys": 2, "sha256": sha}
    assert part["unpinned"] == [*whole["unpinned"], "the number of items (3 of 6, by --subset)"]
    assert {view: found["n"] for view, found in part["rows"]["outputs"].items()} == {"single": 2, "multi": 1}
    lines = [(magicbrush / name / "items.jsonl").read_text().splitlines() for name in ("part", "report")]
    told = [{(r["view"], r["key"], r["row"]): r["scores"] for r in map(json.loads, each)} for each in lines]
    assert len(told[0]) == 9 and told[0].items() <= told[1].items()
    assert part["protocol"] in (magicbrush / "part" / "report.md").read_text()
    (magicbrush / "keys").write_text("7-1\n7-2\n")
    with pytest.raises(DataError, match="names 1 items that magicbrush does not have, such as 7-2"):
        scored(subset=magicbrush / "keys", out=magicbrush / "other")


def test_options_as_the_command_line_gives_them_are_no_wish(scored):
    assert scored(metrics=[])["rows"]


def test_the_same_pictures_give_the_same_bytes(scored, magicbrush):
    first = scored(out=magicbrush / "one")
    scored(out=magicbrush / "two")
    both = [(magicbrush / name / "items.jsonl").read_bytes() for name in ("one", "two")]
    assert both[0] == both[1] and first["rows"]


@pytest.mark.parametrize(
    ("wrong", "error", "says"),
    [
        ({"model": "_ckpt/none"}, WeightsError, "there is no release folder _ckpt/none"),
        ({"stage": "generate"}, ConfigError, "stage has no place here"),
        ({"suite": "toy", "data": None, "unpinned": False}, ConfigError, "ready ones: give a release"),
        ({"data": None}, ConfigError, "give --data DIR"),
        ({"metrics": ["ssim"]}, ConfigError, "metrics has no place here"),
        ({"steps": 20}, ConfigError, "steps has no place here"),
        ({"count": 5}, ConfigError, "count has no place here"),
        ({"dtype": "bfloat16"}, ConfigError, "dtype has no place here"),
        ({"unpinned": False}, DataError, "2 sessions, 4 turns and the published data of magicbrush 535"),
        ({"dino": None}, ConfigError, "give --dino"),
        ({"clip": "nowhere"}, WeightsError, "nowhere is no model folder"),
        ({"model": "pictures:nowhere"}, DataError, "lacks 6 of 6 outputs"),
        ({"subset": "nowhere.txt"}, DataError, "nowhere.txt cannot be read"),
        ({"suite": "toy", "data": None, "subset": "x"}, ConfigError, "subset is for published benchmarks"),
        ({"suite": "magicbrash"}, ConfigError, "did you mean .*magicbrush"),
    ],
)
def test_a_wrong_request_is_a_sentence_and_leaves_nothing(wrong, error, says, scored, magicbrush):
    with pytest.raises(error, match=says):
        scored(**wrong)
    assert not (magicbrush / "report").exists()


def test_a_caption_that_clip_cannot_read_whole_is_an_error(scored, magicbrush):
    """As in the published script, which stops there."""
    captions = json.loads((magicbrush / "data" / "local_descriptions.json").read_text())
    captions["3"]["3-output2.png"] = "bad " * 40
    (magicbrush / "data" / "local_descriptions.json").write_text(json.dumps(captions))
    with pytest.raises(DataError, match=r"has .* tokens and CLIP reads 12"):
        scored()
    assert not (magicbrush / "report").exists()


def test_what_nobody_pinned_is_pinned_by_who_has_it(scored, magicbrush, clip_folder, dino_folder, tmp_path):
    """The file says which weights; another file's figures are another protocol's, and others are refused."""
    pins = tmp_path / "pins.yaml"
    told = evaluate(pin="magicbrush", clip=clip_folder, dino=dino_folder, out=pins)
    assert re.fullmatch(r"magicbrush@pinned/1#[0-9a-f]{8}", told["protocol"])
    facts = scored(suite=str(pins))
    assert facts["suite"] == "magicbrush" and facts["protocol"] == told["protocol"]
    assert facts["unpinned"] == ["the data"]
    assert facts["rows"] == scored(out=magicbrush / "plain")["rows"]
    text = pins.read_text()
    sha = facts["weights"]["clip"]["model.safetensors"]
    pins.write_text(text.replace(sha, sha[::-1]))
    other = scored(suite=str(pins), out=magicbrush / "other")
    assert other["unpinned"] == ["the weights of clip", "the data"] and other["protocol"] != told["protocol"]
    with pytest.raises(DataError, match=r"differ in protocol .magicbrush@pinned/1#"):
        evaluate(reports=[str(magicbrush / "report"), str(magicbrush / "other")], out=magicbrush / "both")


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"dino": None}, "measures with dino: give --dino"),
        ({"pin": "magic"}, "no protocol 'magic'.*did you mean .*magicbrush"),
        ({"out": "pins.txt"}, "pins.txt does not end in .yaml: pins go to a new file"),
        ({"out": "there.yaml"}, "there.yaml is there already"),
        ({"count": 3}, "count has no place beside pin: nothing is measured yet"),
        ({"model": "m"}, "model has no place beside pin"),
    ],
)
def test_what_cannot_be_pinned_is_told(asked, says, clip_folder, dino_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.yaml").touch()
    given = {"pin": "magicbrush", "clip": clip_folder, "dino": dino_folder, "out": "pins.yaml"}
    with pytest.raises(ConfigError, match=says):
        evaluate(**given | asked)
    assert [path.name for path in tmp_path.iterdir()] == ["there.yaml"]


def test_only_data_as_published_are_pinned(magicbrush, clip_folder, dino_folder):
    with pytest.raises(DataError, match="holds 2 sessions, 4 turns and the published data"):
        evaluate(
            pin="magicbrush", clip=clip_folder, dino=dino_folder, data=magicbrush / "data",
            out=magicbrush / "pins.yaml",
        )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "cannot be read as pins .*expected a file that `mgie evaluate --pin` wrote"),
        ("extends: magicbrush\nweights: {clip: {repo: a}}", "cannot be read as pins"),
        ("extends: magicbrush\nweights: {}\nmetrics: {}", "has 'metrics': expected a file"),
        ("extends: magicbrush\nweights: {lpips: {repo: a, sha256: {b: c}}}", "pins lpips, and magicbrush"),
        ("extends: gedit\nweights: {}", "no protocol 'gedit'"),
        ("{", "cannot be read as pins"),
    ],
)
def test_pins_that_are_none_are_told(text, says, scored, magicbrush):
    (magicbrush / "pins.yaml").write_text(text)
    with pytest.raises(ConfigError, match=says):
        scored(suite=str(magicbrush / "pins.yaml"))
    assert not (magicbrush / "report").exists()


def test_other_items_than_the_pinned_ones_are_refused(magicbrush):
    protocol = replace(find_protocol("magicbrush"), counts={})
    known = replace(protocol, items_sha256=identity(read_layout(protocol, magicbrush / "data")))
    assert is_published(known, read_layout(known, magicbrush / "data"))
    other = replace(protocol, items_sha256="0" * 64)
    with pytest.raises(DataError, match=r"holds other items than magicbrush/1#.* pins"):
        read_layout(other, magicbrush / "data")
    assert not is_published(other, read_layout(other, magicbrush / "data", unpinned=True))
