"""MIGEBench and DreamBench by the one command: made and ready, with and without finders."""

import shutil

import pytest
from benchmark_data import pic
from evaluated import Noisy, Unneeded, content
from finder_data import write_finders
from pictured_data import write_dreambench, write_migebench

from mgie.errors import ConfigError, DataError
from mgie.evaluate import evaluate


class Shown(Noisy):
    """Must be handed the pictures inside the instructions; paints where there is no photo."""

    def __call__(self, image, prompt, /, *, seed, images, **options):
        assert len(images) == len(prompt) and all(len(each) == 1 for each in images)
        assert all(words.count("<image>") == 1 for words in prompt)
        assert all(("<source>" in words) == (image is not None) for words in prompt)
        image = image or [pic(number % 1000, 64, 64) for number in seed]
        return super().__call__(image, prompt, seed=seed, **options)


Shown.__name__ = "Noisy"
WRITE = {"migebench": write_migebench, "dreambench": write_dreambench}


@pytest.fixture(scope="module")
def finders(tmp_path_factory):
    found = write_finders(tmp_path_factory.mktemp("finders"))
    return {"detector": found["grounding-dino"], "segmenter": found["sam"]}


@pytest.fixture
def run(tmp_path, clip_folder, dino_folder):
    """Takes a suite, a system and what is to be otherwise."""

    def measured(suite, system=None, **changes):
        if not (tmp_path / suite).exists():
            WRITE[suite](tmp_path / suite)
        asked = {
            "suite": suite, "data": tmp_path / suite, "out": tmp_path / "report", "unpinned": True,
            "clip": clip_folder, "dino": dino_folder,
        }  # fmt: skip
        return evaluate(system or Shown(), **(asked | changes))

    return measured


@pytest.mark.parametrize("suite", WRITE)
def test_made_and_ready_pictures_score_alike(suite, run, tmp_path):
    facts = run(suite)
    rows = facts["rows"]
    assert set(rows) == ({"outputs", "copy", "oracle"} if suite == "migebench" else {"outputs"})
    for view, found in rows["outputs"].items():
        assert found["n"] == (2 if suite == "migebench" else 3) and found["clip_i"] <= 1
        if suite == "migebench":
            assert rows["oracle"][view]["l1"] == 0 and found["subject_dino"] is None
            assert found["counted"]["subject_dino"] == {"no subject": 2}
    page = (tmp_path / "report" / "report.html").read_text()
    assert page.count("<article") == (4 if suite == "migebench" else 3) and "whose licence says" in page
    shutil.copytree(tmp_path / "report" / "outputs", tmp_path / "ready")
    ready = run(suite, f"pictures:{tmp_path / 'ready'}", out=tmp_path / "again")
    assert ready["rows"] == rows
    next(path for path in (tmp_path / "ready").rglob("*.png")).unlink()
    with pytest.raises(DataError, match=r"lacks 1 of \d outputs"):
        run(suite, f"pictures:{tmp_path / 'ready'}", out=tmp_path / "less")


def test_shards_end_with_the_same_bytes(run, tmp_path):
    run("migebench", batch_size=1)
    for shard in ("2/2", "1/2"):
        run("migebench", batch_size=1, out=tmp_path / "shared", shard=shard)
    assert content(tmp_path / "shared") == content(tmp_path / "report")


def test_a_subject_is_cut_out_where_there_are_finders(run, finders, tmp_path):
    first = run("migebench")
    facts = run("migebench", Unneeded(), **finders)
    found = facts["rows"]["outputs"]["add"]
    assert -1 <= found["subject_dino"] <= 1 and "subject_dino" not in found.get("n_of", {})
    assert {name.split("/")[0] for name in facts["weights"]["subject"]} == {"detector", "segmenter"}
    assert found["l1"] == first["rows"]["outputs"]["add"]["l1"]
    with pytest.raises(ConfigError, match="measures by a segmenter: give --segmenter"):
        run("migebench", Unneeded(), detector=finders["detector"])
    with pytest.raises(ConfigError, match="detector has no place here: dreambench looks for no things"):
        run("dreambench", Unneeded(), detector=finders["detector"], out=tmp_path / "other")


def test_pictures_of_an_instruction_belong_to_the_data(run, tmp_path):
    run("dreambench")
    pic(99, 40, 32).save(tmp_path / "dreambench" / "dataset" / "cup0" / "00.jpg")
    with pytest.raises(ConfigError, match="holds an evaluation with data="):
        run("dreambench")
