"""Systems whose quality is known get the figures that they deserve."""

import io
import json
from dataclasses import dataclass

import numpy as np
import pytest
from PIL import Image

from mgie.data.images import fitted_size
from mgie.errors import ConfigError, DataError, WeightsError
from mgie.evaluate import evaluate
from mgie.evaluation.making import item_seed
from mgie.prepare import prepare
from mgie.toy import photos
from mgie.toy.pairs import ToyPairs

COUNT, SEED, SIDE = 40, 5, 64


@dataclass
class Edits:
    images: list[Image.Image]
    said: list[str]
    forced: list[bool]


def blank(count):
    """What stands for the pictures that are to be painted from nothing."""
    return [Image.new("RGB", (SIDE, SIDE), "white")] * count


class Copy:
    """Does nothing, and says so."""

    size = SIDE

    def __call__(self, image, prompt, /, *, seed, size=None):
        assert len(prompt) == len(seed) <= 7
        assert size == SIDE if image is None else len(image) == len(seed)
        made = list(image or blank(len(prompt)))
        return Edits(made, ["nothing changes"] * len(made), [True] * len(made))


class Oracle:
    """Has seen the test: knows the answer to a picture with its instruction, and copies other pictures. One
    that does not listen knows it by the noise alone."""

    size = SIDE

    def __init__(self, pairs, listens=True):
        self.listens, self.answers = listens, {}
        for pair in pairs:
            shown = opened(pair.source) if pair.source else None
            self.answers[self.key(shown, pair.instruction, item_seed(SEED, pair.key))] = pair

    def key(self, image, instruction, seed):
        return (image and image.tobytes(), instruction) if self.listens else seed

    def __call__(self, image, prompt, /, *, seed, **_):
        image = image or [None] * len(prompt)
        found = [self.answers.get(self.key(*each)) for each in zip(image, prompt, seed)]
        images = [opened(pair.target) if pair else shown for pair, shown in zip(found, image)]
        images = [shown or blank(1)[0] for shown in images]
        return Edits(images, [pair.expressive if pair else "?" for pair in found], [False] * len(images))


class PhotoOps:
    """Edits photographs truly, by the words alone, and leaves scenes alone."""

    size = SIDE

    def __call__(self, image, prompt, /, **_):
        ops = {words: op for op, wordings in photos.ASKED.items() for words in wordings}
        asked = [ops.get(words) for words in prompt]
        image = image or blank(len(prompt))
        made = [photos.apply(op, source) if op else source for op, source in zip(asked, image)]
        return Edits(made, [""] * len(made), [False] * len(made))


def opened(picture):
    return Image.open(io.BytesIO(picture)).convert("RGB")


@pytest.fixture(scope="module")
def pairs():
    return list(ToyPairs(COUNT, seed=SEED, split="test", size=SIDE))


def run(system, out, **options):
    return evaluate(system, out=out, **({"count": COUNT, "seed": SEED, "batch_size": 7} | options))


def test_a_system_that_copies_is_never_right(tmp_path):
    facts = run(Copy(), tmp_path / "report")
    assert (facts["suite"], facts["n"], facts["seed"]) == ("toy", COUNT, SEED) and "warning" not in facts
    assert facts["right"] == facts["control_right"] == facts["said_exactly"] == 0
    assert facts["l1_ratio"] == 1
    assert facts["forced"] == 1
    copy, oracle = facts["baselines"]["copy"], facts["baselines"]["oracle"]
    assert (copy["right"], copy["l1_ratio"], oracle["right"], oracle["l1_ratio"]) == (0, 1, 1, 0)


def test_a_system_that_does_what_is_asked_is_always_right(pairs, tmp_path):
    facts = run(Oracle(pairs), tmp_path / "report")
    assert facts["right"] == facts["said_exactly"] == 1
    assert facts["l1_ratio"] == facts["control_right"] == 0
    assert sum(row["n"] for row in facts["by_kind"].values()) == COUNT
    assert all(row["right"] == 1 for row in facts["by_kind"].values())


def test_a_system_that_does_not_listen_is_found_out_by_the_control(pairs, tmp_path):
    facts = run(Oracle(pairs, listens=False), tmp_path / "report")
    assert facts["right"] == facts["control_right"] == 1
    assert "control_right" not in run(Oracle(pairs), tmp_path / "plain", control=False)


def test_kinds_are_told_apart_and_the_ratio_is_of_sums(pairs, tmp_path):
    facts = run(PhotoOps(), tmp_path / "report")
    done = [pair.kind in photos.EVERY and "region" not in pair.meta for pair in pairs]
    assert 0 < sum(done) < COUNT and facts["right"] == sum(done) / COUNT
    for kind, row in facts["by_kind"].items():
        own = [right for pair, right in zip(pairs, done) if pair.kind == kind]
        assert row["right"] == sum(own) / len(own)
    edits = [(pair, right) for pair, right in zip(pairs, done) if pair.source]
    assert len(edits) < COUNT  # what is painted from nothing has no picture to be compared with
    far = [np.abs(np.subtract(*map(opened, (p.source, p.target)), dtype=float)).mean() for p, _ in edits]
    left = sum(each for each, (_, right) in zip(far, edits) if not right)
    assert facts["l1_ratio"] == pytest.approx(left / sum(far), abs=1e-5)


def test_a_new_picture_is_asked_for_without_another(pairs, tmp_path):
    """The system never sees what is to be painted, and giving nothing back is not right."""
    facts = run(Oracle(pairs), tmp_path / "report", count=20)
    items = [json.loads(line) for line in (tmp_path / "report" / "items.jsonl").read_text().splitlines()]
    painted = [item for item in items if item["kind"] == "paint"]
    assert painted and facts["by_kind"]["paint"]["l1_ratio"] is None
    for item in painted:
        assert item["right"] and "source" not in item["pictures"] and item["cluster"] == item["key"]
        assert item["notes"]["copy_l1"] == ["no source"]


def test_another_seed_is_another_test(pairs, tmp_path):
    facts = run(Oracle(pairs), tmp_path / "report", seed=SEED + 1)
    assert facts["right"] < 0.2


def test_the_report_is_whole(pairs, tmp_path, capsys):
    out = tmp_path / "report"
    facts = run(Oracle(pairs), out, metrics=["psnr"])
    written = json.loads((out / "results.json").read_text())
    assert written == {name: facts[name] for name in written} and written["right"] == 1
    items = [json.loads(line) for line in (out / "items.jsonl").read_text().splitlines()]
    assert [item["key"] for item in items] == [pair.key for pair in pairs]
    assert all(item["right"] and item["control"] != item["instruction"] for item in items)
    assert all((out / item["file"]).is_file() for item in items)
    assert all(len(item["cluster"]) == 16 or item["kind"] == "paint" for item in items)
    with Image.open(facts["sheet"]) as sheet:
        assert sheet.width > 800
    assert "judged right" in (out / "report.md").read_text() and "psnr" in facts
    page = (out / "report.html").read_text()
    assert page.count("<article ") == COUNT
    assert (out / "pictures" / "0000_output.png").is_file()
    assert "| all" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report"]


def test_a_prepared_data_set_is_measured_too(pairs, tmp_path):
    data = tmp_path / "data"
    prepare("toy", data, count=1, test=COUNT, seed=SEED, size=SIDE, progress=False)
    for suite in ("toy", "pairs"):
        facts = run(Oracle(pairs), tmp_path / suite, suite=suite, data=data, count=12)
        assert facts["n"] == 12 and facts["l1_ratio"] == 0
        assert ("right" in facts) == (suite == "toy")


def test_pairs_of_ones_own_are_measured_without_naming_a_suite(tmp_path, capsys):
    """Two of them are too few to say much, which is said wherever the figures are."""
    before, after = tmp_path / "mine" / "before", tmp_path / "mine" / "after"
    for folder, colour in ((before, "red"), (after, "blue")):
        folder.mkdir(parents=True)
        for name in "abc":
            Image.new("RGB", (SIDE, SIDE), colour).save(folder / f"{name}.png")
    rows = [f"{name}.png,make it blue" for name in "abc"]
    (tmp_path / "mine" / "instructions.csv").write_text("\n".join(["file,instruction", *rows]))
    prepare(f"pairs:{tmp_path / 'mine'}", tmp_path / "data", test=2, progress=False)
    facts = run(Copy(), tmp_path / "report", data=tmp_path / "data")
    assert (facts["suite"], facts["n"], facts["l1_ratio"]) == ("pairs", 2, 1)
    assert facts["warning"] == "n is 2: figures from fewer than 20 pairs mean little."
    names = ("results.json", "report.md", "report.html")
    written = [(tmp_path / "report" / name).read_text() for name in names]
    assert all(facts["warning"] in text for text in [*written, capsys.readouterr().out])
    with pytest.raises(ConfigError, match=r"holds others, such as .*: say --suite pairs"):
        run(Copy(), tmp_path / "judged", data=tmp_path / "data", suite="toy")
    assert not (tmp_path / "judged").exists()


class Painter(Copy):
    """Gives pictures back, and paints new ones red."""

    def __call__(self, image, prompt, /, *, seed, size=None):
        if image is not None:
            return super().__call__(image, prompt, seed=seed)
        assert size == SIDE and set(prompt) == {"paint it red"}
        made = [Image.new("RGB", (size, size), "red") for _ in prompt]
        return Edits(made, ["red"] * len(made), [False] * len(made))


def test_pairs_without_a_picture_before_are_painted(tmp_path):
    """The system never sees what is to be painted; nothing given back is no score."""
    for colour in ("red", "blue"):
        Image.new("RGB", (SIDE, SIDE), colour).save(tmp_path / f"{colour}.png")
    rows = [{"key": f"new{n}", "target": "red.png", "instruction": "paint it red"} for n in range(2)]
    rows += [
        {"key": f"edit{n}", "source": "blue.png", "target": "red.png", "instruction": "make it red"}
        for n in range(2)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    prepare(f"pairs:{tmp_path / 'rows.jsonl'}", tmp_path / "data", test=3, progress=False)
    facts = run(Painter(), tmp_path / "report", data=tmp_path / "data")
    lines = (tmp_path / "report" / "items.jsonl").read_text().splitlines()
    items = {item["key"]: item for item in map(json.loads, lines)}
    painted = [item for item in items.values() if item["instruction"] == "paint it red"]
    assert len(items) == 3 and 0 < len(painted) < 3
    for item in painted:
        assert item["scores"]["l1"] == 0 and item["notes"]["copy_l1"] == ["no source"]
        assert "source" not in item["pictures"] and item["cluster"] == item["key"]
    assert facts["l1_ratio"] == 1 and facts["n_of"]["copy_l1"] == 3 - len(painted)
    assert facts["baselines"]["copy"]["l1_ratio"] == 1


def test_pictures_that_are_not_square_are_given_and_measured_whole(tmp_path):
    """What is to be done lies beside the centre square."""
    before, after = tmp_path / "mine" / "before", tmp_path / "mine" / "after"
    for folder in (before, after):
        folder.mkdir(parents=True)
        for name in "ab":
            picture = Image.new("RGB", (120, 60), "red")
            picture.paste("blue", (0, 0, 20, 60) if folder is after else (0, 0, 0, 0))
            picture.save(folder / f"{name}.png")
    (tmp_path / "mine" / "instructions.csv").write_text("file,instruction\na.png,blue edge\nb.png,blue edge")
    prepare(f"pairs:{tmp_path / 'mine'}", tmp_path / "data", test=1, progress=False)
    system, seen = Copy(), []

    class Watched(Copy):
        def __call__(self, image, prompt, **options):
            seen.extend(picture.size for picture in image)
            return super().__call__(image, prompt, **options)

    facts = run(Watched(), tmp_path / "report", data=tmp_path / "data")
    assert seen == [fitted_size((120, 60), side=system.size)]
    assert facts["l1_ratio"] == 1 and facts["copy_l1"] > 0.05


@pytest.mark.parametrize(
    ("wrong", "error", "says"),
    [
        ({"suite": "toys"}, ConfigError, "did you mean toy"),
        ({"count": 0}, ConfigError, "count=0: expected a whole number, at least 1"),
        ({"metrics": ["lpips"]}, ConfigError, "no metric 'lpips'"),
        ({"suite": "pairs"}, ConfigError, "--data"),
        ({"unpinned": True}, ConfigError, "unpinned is for published protocols"),
        ({"data": "nowhere"}, DataError, "nowhere"),
        ({"clip": "nowhere"}, WeightsError, "nowhere is no model folder"),
        ({"lpips": "alexnet.pth"}, ConfigError, "expected the network and its file, such as alex:"),
        ({"lpips": "alex:nowhere"}, WeightsError, "nowhere cannot be read as this network's weights"),
        ({"dino": "nowhere"}, WeightsError, "nowhere is no model folder"),
    ],
)
def test_a_wrong_request_is_a_sentence_and_leaves_nothing(wrong, error, says, tmp_path):
    with pytest.raises(error, match=says):
        run(Copy(), tmp_path / "report", **wrong)
    assert not list(tmp_path.iterdir())


def test_what_is_no_report_is_not_replaced(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ConfigError, match="was not written here"):
        run(Copy(), tmp_path)
    with pytest.raises(ConfigError, match="is a file"):
        run(Copy(), tmp_path / "thesis.txt")
    assert (tmp_path / "thesis.txt").read_text() == "years of work"
