"""What is measured in a report: at the target's own size, on its own pixels, against its own caption."""

import json
from dataclasses import dataclass, field

import pytest
from benchmark_data import pic
from PIL import Image

from mgie.evaluate import evaluate
from mgie.evaluation.measures import sets
from mgie.evaluation.measures.eyes import Eyes
from mgie.evaluation.measures.features import Clip
from mgie.evaluation.measures.sets import set_distance, set_feature
from mgie.prepare import prepare


@dataclass
class Edits:
    images: list[Image.Image]
    said: list[str] = field(init=False)
    forced: list[bool] = field(init=False)

    def __post_init__(self):
        self.said, self.forced = [""] * len(self.images), [False] * len(self.images)


@dataclass
class Answering:
    """Gives one picture after the other, whatever it is shown."""

    pictures: list[Image.Image]
    size: int = 32
    shown: list[Image.Image] = field(default_factory=list)

    def __call__(self, image, prompt, /, **_):
        self.shown += image
        return Edits([self.pictures.pop(0) for _ in prompt])


@pytest.fixture
def prepared(tmp_path):
    """Takes (source, target, meta) of each pair; gives the data set."""

    def make(*pairs):
        rows = []
        for number, (source, target, meta) in enumerate(pairs):
            names = {"source": f"{number}-before.png", "target": f"{number}-after.png"}
            source.save(tmp_path / names["source"])
            target.save(tmp_path / names["target"])
            rows.append(names | {"instruction": "make it new", "split": "test", "key": str(number)} | meta)
        (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        prepare(f"pairs:{tmp_path / 'pairs.jsonl'}", tmp_path / "data", progress=False)
        return tmp_path / "data"

    return make


def test_an_output_is_measured_at_its_target_s_size(prepared, tmp_path):
    """Values of torchmetrics on [0, 1]; a system that works at 32 pixels changes none of them."""
    target = pic(7, 96, 80)
    data = prepared((target, target, {}))
    facts = evaluate(
        Answering([pic(8, 48, 48)]), data=data, out=tmp_path / "report", metrics=["l1", "l2", "psnr", "ssim"]
    )
    assert facts["l1"] == pytest.approx(0.2553983, abs=1e-6)
    assert facts["l2"] == pytest.approx(0.1006418, abs=1e-6)
    assert facts["psnr"] == pytest.approx(9.972215, abs=1e-5)
    assert facts["ssim"] == pytest.approx(0.2098654, abs=1e-6)
    assert facts["copy_l1"] == 0


def test_a_picture_that_is_as_its_target_does_not_spoil_the_mean(prepared, tmp_path):
    target = Image.new("RGB", (16, 16), "black")
    data = prepared(*[(target, target, {})] * 2)
    grey = Image.new("RGB", (16, 16), (51, 51, 51))
    facts = evaluate(Answering([target, grey], 16), data=data, out=tmp_path / "report", metrics=["psnr"])
    assert facts["psnr"] == pytest.approx((100 + 13.9794) / 2, abs=1e-4)
    assert facts["counted"] == {"psnr": {"infinite": 1}}
    items = [json.loads(line) for line in (tmp_path / "report" / "items.jsonl").read_text().splitlines()]
    assert [item["scores"]["psnr"] for item in items] == [100, pytest.approx(13.9794, abs=1e-4)]


def test_clip_t_reads_captions_only_and_what_has_none_is_counted(
    prepared, tmp_path, clip_folder, dino_folder
):
    """An expressive instruction is no caption. Texts that are too long are cut, and counted too."""
    picture = pic(7, 40, 30)
    told = [{"local_description": "a red d"}, {"output": "a bad d " * 9}, {"expressive": "a red d"}]
    data = prepared(*[(picture, picture, meta) for meta in told])
    models = {"clip": clip_folder, "dino": dino_folder}
    facts = evaluate(Answering([picture] * 3), data=data, out=tmp_path / "report", **models)
    items = [json.loads(line) for line in (tmp_path / "report" / "items.jsonl").read_text().splitlines()]
    scores = [item["scores"].get("clip_t") for item in items]
    assert scores[2] is None and facts["clip_t"] == pytest.approx((scores[0] + scores[1]) / 2)
    assert facts["n_of"] == {"clip_t": 2}
    assert facts["counted"]["clip_t"] == {"cut": 1, "no caption": 1}
    assert (facts["clip_i"], facts["dino"]) == pytest.approx((1, 1))
    assert set(facts["weights"]) == {"clip", "dino"}


def test_doing_nothing_and_the_answer_stand_in_every_report(prepared, tmp_path):
    before, after = pic(7, 60, 40), pic(8, 60, 40)
    data = prepared((before, after, {}))
    facts = evaluate(Answering([pic(9, 30, 20)]), data=data, out=tmp_path / "report", metrics=["psnr"])
    copy, oracle = facts["baselines"]["copy"], facts["baselines"]["oracle"]
    assert copy["l1"] == facts["copy_l1"] > 0 and copy["psnr"] < 20
    assert (oracle["l1"], oracle["psnr"]) == (0, 100)
    table = (tmp_path / "report" / "report.md").read_text()
    assert "| copy" in table and "| oracle" in table


def test_all_outputs_together_lie_so_far_from_all_targets(prepared, tmp_path, clip_folder, monkeypatch):
    """A number of the report and of doing nothing, of no item and no kind."""
    monkeypatch.setattr(sets, "SIDE", 224)
    pairs = [(pic(place, 40, 30), pic(10 + place, 40, 30), {}) for place in range(3)]
    asked = {"data": prepared(*pairs), "metrics": ["cmmd"], "clip": clip_folder, "out": tmp_path / "report"}
    made = [pic(20 + place, 40, 30) for place in range(3)]
    system = Answering(list(made))
    system.identity = "these three"  # type: ignore[attr-defined]
    evaluate(system, **asked | {"stage": "generate", "clip": None})
    facts = evaluate(system, **asked)
    eyes = Eyes(clip=Clip(clip_folder))
    before, after, out = (
        [set_feature(each, eyes) for each in several] for several in (*list(zip(*pairs))[:2], made)
    )
    assert facts["cmmd"] == set_distance(out, after) > 0
    assert facts["baselines"]["copy"]["cmmd"] == set_distance(before, after) != facts["cmmd"]
    assert facts["baselines"]["oracle"]["cmmd"] == 0
    assert all("cmmd" not in each for each in facts["by_kind"].values())
    words = (tmp_path / "report" / "report.md").read_text()
    assert "CMMD" in words and f"{facts['cmmd']:.3f}" in words
    items = [json.loads(line) for line in (tmp_path / "report" / "items.jsonl").read_text().splitlines()]
    assert all("cmmd" not in item["scores"] for item in items)
