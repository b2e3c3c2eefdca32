"""Suites of controls by the one command: ready pictures and an editor's, real finders, kills, shards."""

import json
import os
import random
import shutil
import signal
import time

import pytest
import yaml
from benchmark_data import pic
from evaluated import Noisy, Unneeded, content
from finder_data import write_finders
from PIL import Image
from processes import Started
from subject_data import write_subjects

from mgie.compare import compare_reports
from mgie.errors import ConfigError, DataError, WeightsError
from mgie.evaluate import evaluate
from mgie.evaluation.controlled.suites import CONTROLLED

LEFT, RIGHT = [0.0, 0.25, 0.5, 0.75], [0.5, 0.0, 1.0, 1.0]


@pytest.fixture(scope="module")
def finders(tmp_path_factory):
    """Folders of OWLv2, Grounding DINO and SAM, as transformers writes them."""
    return write_finders(tmp_path_factory.mktemp("finders"))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder for each suite."""
    place = tmp_path_factory.mktemp("data")
    bench = {
        f"a photo {number}": {"a red dog": [LEFT], "a blue the": [RIGHT], "coco_id": str(number)}
        for number in range(5)
    }
    for name in ("coco_mig", "coco_position", "counting"):
        (place / name).mkdir()
    (place / "coco_mig" / "mig_bench_anno.yaml").write_text(yaml.safe_dump(bench))
    regions = [{"phrase": "the dog", "box": LEFT}]
    layouts = [{"prompt": f"dogs {number}", "regions": regions} for number in range(3)]
    (place / "coco_position" / "layouts.json").write_text(json.dumps(layouts))
    counted = [{"prompt": "two dogs", "things": {"dog": 2}}, {"prompt": "a dog", "things": {"dog": 1}}]
    (place / "counting" / "counting.json").write_text(json.dumps(counted))
    write_subjects(place / "subjects", "ab", size=(64, 64))
    lines = (place / "subjects" / "metadata.jsonl").read_text().splitlines()
    lines[0] = json.dumps({"id": {"a": "olisa dog", "b": "olisb dog the"}})
    text = "\n".join(lines).replace("red disk", "dog").replace("blue disk", "dog the")
    (place / "subjects" / "metadata.jsonl").write_text(text)
    prompts = [{"prompt": "{a} and {b}", "subjects": ["a", "b"]}, {"prompt": "{a}", "subjects": ["a"]}]
    (place / "subjects" / "prompts.json").write_text(json.dumps(prompts))
    raw = place / "raw"
    raw.mkdir()
    rows = []
    for number in range(4):
        for role, seed in (("a", number), ("b", number + 10)):
            pic(seed, 40, 32).save(raw / f"{number}{role}.png")
        mask = Image.new("L", (40, 32))
        mask.paste(255, (8, 8, 30, 24))
        mask.save(raw / f"{number}m.png")
        rows.append(
            {
                "source": f"{number}a.png",
                "target": f"{number}b.png",
                "mask": f"{number}m.png",
                "instruction": f"do {number}",
                "split": "test",
            }
        )
    (raw / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    from mgie.prepare import prepare

    prepare(f"pairs:{raw / 'pairs.jsonl'}", place / "regions", progress=False)
    return place


class Painting(Noisy):
    """Paints noise of its own where there is no photo; masks and regions must come, one for each."""

    def __call__(self, image, prompt, /, *, seed, mask=None, regions=None, **options):
        for given in (mask, regions):
            assert given is None or len(given) == len(prompt)
        image = image or [pic(number % 1000, 64, 64) for number in seed]
        return super().__call__(image, prompt, seed=seed, **options)


Painting.__name__ = "Noisy"


@pytest.fixture
def run(finders, data, dino_folder):
    """Takes a suite, where to write, a system and what is to be otherwise."""

    def measured(suite, out, system=None, **changes):
        needs = CONTROLLED[suite].needs
        folders = {"detector": finders["grounding-dino"], "segmenter": finders["sam"], "dino": dino_folder}
        asked = {name: folders[name] for name in needs} | {"suite": suite, "data": data / suite}
        return evaluate(system or Painting(), out=out, **(asked | {"batch_size": 2, "seed": 3} | changes))

    return measured


@pytest.mark.parametrize("suite", CONTROLLED)
def test_a_suite_is_made_measured_and_told(suite, run, tmp_path, capsys):
    facts = run(suite, tmp_path / "report")
    told = facts["rows"]["outputs"]
    assert told["n"] == facts["n"] == {"coco_mig": 5, "coco_position": 3, "regions": 4}.get(suite, 2)
    assert len(told) > 1 and all(value is not None for value in told.values())
    assert set(facts["rows"]) == ({"outputs", "copy", "oracle"} if suite == "regions" else {"outputs"})
    assert facts["suite"] == suite and (tmp_path / "report" / "report.html").is_file()
    assert "| outputs " in capsys.readouterr().out
    # What was made is scored alike as ready pictures.
    (tmp_path / "ready").mkdir()
    for path in (tmp_path / "report" / "outputs").iterdir():
        shutil.copy(path, tmp_path / "ready")
    ready = run(suite, tmp_path / "again", f"pictures:{tmp_path / 'ready'}", batch_size=25, seed=1)
    assert ready["rows"] == facts["rows"] and ready["data_sha256"] == facts["data_sha256"]
    # One that is missing ends it.
    next((tmp_path / "ready").iterdir()).unlink()
    with pytest.raises(DataError, match=r"lacks 1 of \d outputs, such as .*: nothing is scored"):
        run(suite, tmp_path / "less", f"pictures:{tmp_path / 'ready'}", batch_size=25, seed=1)


@pytest.mark.parametrize("suite", ["coco_mig", "regions"])
def test_kills_and_shards_change_no_byte(suite, run, tmp_path):
    """SIGKILL while pictures are made, and while they are scored; the rest by two machines."""
    run(suite, tmp_path / "whole")
    draw = random.Random(7)
    for stage in ("generate", "score", "all"):
        process = Started(
            lambda stage=stage: bool(
                run(suite, tmp_path / "run", Painting(seconds=0.02), stage=stage, shard="1/2") is None
            ),
            tmp_path / "notes",
        )
        time.sleep(draw.uniform(0.05, 0.6))
        os.kill(process.pid, signal.SIGKILL)
        process.code()
    run(suite, tmp_path / "run", shard="2/2")
    run(suite, tmp_path / "run", shard="1/2")
    assert content(tmp_path / "run") == content(tmp_path / "whole")
    run(suite, tmp_path / "run", Unneeded())
    assert content(tmp_path / "run") == content(tmp_path / "whole")


def test_two_systems_are_compared_with_instances_as_weights(run, tmp_path):
    for name in ("one", "two"):
        run("coco_mig", tmp_path / name, Painting(identity=name, seconds=0 if name == "one" else 0.001))
    facts = compare_reports([tmp_path / "one", tmp_path / "two"], tmp_path / "compared")
    metrics = facts["views"][""]["metrics"]
    told = json.loads((tmp_path / "one" / "results.json").read_text())["rows"]["outputs"]
    assert metrics["mean_iou"]["values"]["one"]["value"] == pytest.approx(told["mean_iou"])
    assert metrics["mean_iou"]["better"] == "higher" and metrics["mean_iou"]["differences"][0]["value"] == 0


@pytest.mark.parametrize(
    ("suite", "changes", "error", "says"),
    [
        ("coco_mig", {"segmenter": None}, ConfigError, "measures by a segmenter: give --segmenter DIR"),
        ("coco_mig", {"data": None}, ConfigError, "the suite coco_mig needs its data: give --data DIR"),
        ("coco_mig", {"segmenter": "."}, WeightsError, "is no model folder"),
        ("counting", {"segmenter": "."}, ConfigError, "segmenter has no place here: counting"),
        ("regions", {"detector": "."}, ConfigError, "detector has no place here: regions"),
        ("subjects", {"dino": None}, ConfigError, "subjects measures by DINO: give --dino DIR"),
        ("counting", {"metrics": ["ssim"]}, ConfigError, "metrics has no place here: the suite counting"),
        ("counting", {"unpinned": True}, ConfigError, "unpinned has no place here: the suite counting"),
        ("counting", {"judge": "scripted:x"}, ConfigError, "there is nothing to judge in counting"),
    ],
)
def test_what_is_asked_in_vain_is_told_before_anything_is_made(suite, changes, error, says, run, tmp_path):
    with pytest.raises(error, match=says):
        run(suite, tmp_path / "report", Unneeded(), **changes)
    assert not (tmp_path / "report").exists()


def test_finders_belong_to_suites_that_look_for_things(tmp_path):
    with pytest.raises(ConfigError, match="detector has no place here: toy looks for no things"):
        evaluate(Unneeded(), suite="toy", out=tmp_path / "report", detector=".")


def test_other_finders_measure_the_same_pictures_anew(run, finders, tmp_path):
    first = run("counting", tmp_path / "run")
    again = run("counting", tmp_path / "run", Unneeded(), detector=finders["owlv2"])
    assert again["measured_by"] != first["measured_by"]


def test_pictures_are_made_without_finders(run, tmp_path):
    none = {"detector": None, "segmenter": None}
    assert run("coco_mig", tmp_path / "run", stage="generate", **none)["made"] == 5
    assert run("coco_mig", tmp_path / "run", Unneeded())["n"] == 5
