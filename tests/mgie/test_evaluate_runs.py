"""However an evaluation is cut up, killed and damaged, it ends with the same bytes, or says what is wrong."""

import os
import random
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from evaluated import Edits, Noisy, Unneeded, content
from PIL import Image
from processes import Started, together

from mgie.errors import ConfigError, DataError
from mgie.evaluate import evaluate
from mgie.prepare import prepare

COUNT = 11
"""With 3 in a batch: the last chunk is smaller."""


def run(out, system=None, **options):
    return evaluate(system or Noisy(), out=out, **({"count": COUNT, "seed": 5, "batch_size": 3} | options))


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """An evaluation that nothing disturbed."""
    out = tmp_path_factory.mktemp("whole") / "run"
    run(out)
    return out


@pytest.mark.parametrize("count", [2, 3, 7])
def test_any_number_of_shards_ends_with_the_same_bytes(count, whole, tmp_path):
    """In whatever order they come; the last one writes the report. 7 are more than there are chunks."""
    shards = [f"{place}/{count}" for place in range(1, count + 1)]
    random.Random(count).shuffle(shards)
    for shard in shards[:-1]:
        facts = run(tmp_path / "run", shard=shard)
        assert "right" not in facts and facts["shard"] == shard and facts["missing"] > 0
        assert not (tmp_path / "run" / "results.json").exists()
    assert run(tmp_path / "run", shard=shards[-1])["n"] == COUNT
    assert content(tmp_path / "run") == content(whole)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_shards_of_machines_that_share_no_disk_are_put_together_by_copying(whole, tmp_path):
    for place in (1, 2):
        run(tmp_path / f"machine{place}", shard=f"{place}/2")
    for name in ("outputs", "made", "scores"):
        for path in sorted((tmp_path / "machine2" / name).rglob("*.*")):
            target = tmp_path / "machine1" / path.relative_to(tmp_path / "machine2")
            assert not target.exists()
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    run(tmp_path / "machine1", Unneeded(), stage="report")
    assert content(tmp_path / "machine1") == content(whole)


def test_processes_under_torchrun_share_the_work(whole, tmp_path):
    def one() -> int:
        facts = run(tmp_path / "run", Noisy(seconds=0.02 if os.environ["RANK"] == "1" else 0))
        return 0 if os.environ["RANK"] == "1" or facts["n"] == COUNT else 1

    both = together(one, tmp_path / "notes")
    assert [each.code() for each in both] == [0, 0], both[0].said + both[1].said
    assert content(tmp_path / "run") == content(whole)


@pytest.mark.parametrize("seed", range(3))
def test_a_run_that_is_killed_again_and_again_ends_with_the_same_bytes(seed, whole, tmp_path):
    """SIGKILL at random moments, the first ones while pictures are made."""
    draw, kills = random.Random(seed), 0
    for patience in (0.25, 0.5, 0.8, 1.2):
        process = Started(
            lambda: bool(run(tmp_path / "run", Noisy(seconds=0.01)) is None), tmp_path / "notes"
        )
        time.sleep(draw.uniform(0.02, patience))
        os.kill(process.pid, signal.SIGKILL)
        kills += process.code() == -signal.SIGKILL
    assert kills >= 1
    made = len(list((tmp_path / "run" / "outputs").rglob("*.png")))
    again = Noisy()
    run(tmp_path / "run", again)
    assert sum(len(call[0]) for call in again.calls) <= 2 * COUNT - made + 3 * 2  # what was there stays
    assert content(tmp_path / "run") == content(whole)
    assert [path.name for path in tmp_path.iterdir() if not path.name.startswith("notes")] == ["run"]


def test_stages_one_by_one_are_the_whole(whole, tmp_path, capsys):
    out = tmp_path / "run"
    with pytest.raises(DataError, match=r"000000.png is missing: .* run the same command without --stage"):
        run(out, Unneeded(), stage="score")
    capsys.readouterr()
    assert run(out, stage="generate")["made"] == 2 * COUNT
    assert f"mgie: toy in {out}: 0 of 22 pictures are made.\n" in capsys.readouterr().err
    with pytest.raises(
        DataError, match="lacks the numbers of 11 of 11 items, such as 000000: score them first"
    ):
        run(out, Unneeded(), stage="report")
    assert run(out, Unneeded(), stage="score")["scored"] == COUNT
    assert f"mgie: toy in {out}: 0 of 11 items scored.\n" in capsys.readouterr().err
    assert not (out / "results.json").exists()
    assert run(out, Unneeded(), stage="report")["n"] == COUNT
    assert f"mgie: toy in {out}: the report is to be written.\n" in capsys.readouterr().err
    assert content(out) == content(whole)


def test_a_run_that_is_complete_is_left_as_it_is(whole, capsys):
    before = {path: path.stat().st_mtime_ns for path in (whole / "outputs").rglob("*.png")}
    first = content(whole)
    run(whole, Unneeded())
    told = "22 of 22 pictures are made, 11 of 11 items scored, the report is written again."
    assert f"mgie: toy in {whole}: {told}\n" in capsys.readouterr().err
    assert content(whole) == first
    assert before == {path: path.stat().st_mtime_ns for path in (whole / "outputs").rglob("*.png")}


def damaged(path: Path, how: str) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes({"flipped": bytes(data), "cut": bytes(data[: len(data) // 2]), "empty": b""}[how])


@pytest.mark.parametrize("how", ["flipped", "cut", "empty"])
@pytest.mark.parametrize(
    "name",
    [
        "outputs/own/000004.png",
        "made/own/000004.png.json",
        "scores/000004.json",
        "results.json",
        "items.jsonl",
    ],
)
def test_what_is_damaged_is_found_and_made_again(name, how, whole, capsys):
    first = content(whole)
    original = (whole / name).read_bytes()
    damaged(whole / name, how)
    run(whole)
    assert content(whole) == first
    if name.startswith("outputs"):
        assert (whole / name).read_bytes() == original
        assert "own/000004.png was damaged, and is made again" in capsys.readouterr().err
        damaged(whole / name, how)
        with pytest.raises(DataError, match=r"000004\.png is (damaged|missing)"):
            run(whole, Unneeded(), stage="score")
        with pytest.raises(DataError, match="lacks the numbers of 1 of 11"):
            run(whole, Unneeded(), stage="report")
        run(whole)


def test_a_damaged_plan_is_told(tmp_path):
    run(tmp_path / "run", count=2, control=False)
    damaged(tmp_path / "run" / "plan.json", "flipped")
    with pytest.raises(DataError, match=r"plan\.json is damaged"):
        run(tmp_path / "run", count=2, control=False)


@pytest.mark.parametrize(
    ("other", "says"),
    [
        ({"seed": 6}, "seed=5, now seed=6"),
        ({"count": 9}, "count=11, now count=9"),
        ({"batch_size": 4}, "batch_size=3, now batch_size=4"),
        ({"control": False}, "control=True, now control=False"),
        ({"steps": 7}, "steps=none, now steps=7"),
        ({"image_guidance": 1.5}, "image_guidance=none, now image_guidance=1.5"),
        ({"size": 48}, "size=64, now size=48"),
        ({"dtype": "bfloat16"}, "dtype=float32, now dtype=bfloat16"),
        ({"model": Noisy(identity="noisy 2")}, "weights=noisy 1, now weights=noisy 2"),
    ],
)
def test_another_evaluation_does_not_go_on_with_a_folder(other, says, whole):
    model = other.pop("model", Unneeded())
    first = content(whole)
    with pytest.raises(
        ConfigError, match=f"holds an evaluation with {says}.*: choose another --out, or remove"
    ):
        run(whole, model, **other)
    assert content(whole) == first


def test_other_data_of_the_same_size_do_not_go_on_with_a_folder(tmp_path):
    for seed in (1, 2):
        prepare("toy", tmp_path / f"data{seed}", count=1, test=4, seed=seed, size=64, progress=False)
    run(tmp_path / "run", data=tmp_path / "data1", suite="pairs")
    with pytest.raises(ConfigError, match=r"data=[0-9a-f]{12}\.\.\., now data="):
        run(tmp_path / "run", data=tmp_path / "data2", suite="pairs")


def test_a_system_that_tells_no_identity_is_never_known_again(tmp_path):
    nameless = Noisy(identity="")
    assert run(tmp_path / "run", nameless, count=3)["making"]["weights"] is None
    with pytest.raises(ConfigError, match=r"now weights=unknown \(Noisy has no `identity`"):
        run(tmp_path / "run", nameless, count=3)


@pytest.mark.parametrize(
    ("picture", "says"),
    [
        (np.full((8, 8, 3), np.nan), "gave a picture of the type ndarray: expected Pillow's"),
        (Image.fromarray(np.full((8, 8), np.nan, np.float32)), "000000.png has floating-point pixels"),
    ],
)
def test_what_is_no_picture_of_8_bits_is_told(picture, says, tmp_path):
    class Broken(Noisy):
        def __call__(self, *asked, **options):
            edits = super().__call__(*asked, **options)
            return Edits([picture] * len(edits.images), edits.said, edits.forced)

    with pytest.raises(DataError, match=says):
        run(tmp_path / "run", Broken(), count=3)
    assert not list((tmp_path / "run").rglob("*.png"))


def test_further_metrics_are_scored_of_the_pictures_that_are_there(whole):
    assert "ssim" in run(whole, Unneeded(), metrics=["ssim"])
    assert "ssim" not in run(whole, Unneeded())


def test_noise_is_a_matter_of_seed_and_key(tmp_path):
    few, many = Noisy(social=False), Noisy(social=False)
    run(tmp_path / "few", few, count=4, control=False)
    run(tmp_path / "many", many, count=9, control=False, batch_size=5)
    one, other = ([seed for call in system.calls for seed in call[2]] for system in (few, many))
    assert set(one) < set(other) and len(set(other)) == 9
    for place in range(4):
        name = f"outputs/own/{place:06d}.png"
        assert (tmp_path / "few" / name).read_bytes() == (tmp_path / "many" / name).read_bytes()


def test_a_second_command_on_one_folder_is_refused_while_the_first_works(tmp_path):
    process = Started(lambda: bool(run(tmp_path / "run", Noisy(seconds=0.5)) is None), tmp_path / "notes")
    while not (tmp_path / "run" / "plan.json").exists():
        time.sleep(0.02)
    with pytest.raises(ConfigError, match=f"is in use by process {process.pid}"):
        run(tmp_path / "run")
    os.kill(process.pid, signal.SIGKILL)
    process.code()


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "results.json").write_text("{}")
    with pytest.raises(ConfigError, match="was not written here"):
        run(tmp_path / "run")
    assert (tmp_path / "run" / "results.json").read_text() == "{}"


def test_notes_of_the_user_s_own_in_a_folder_stay(whole):
    (whole / "notes.txt").write_text("mine")
    run(whole, Unneeded())
    assert (whole / "notes.txt").read_text() == "mine"
    (whole / "notes.txt").unlink()


@pytest.mark.parametrize("shard", ["0/2", "3/2", "1", "a/b", "1/0", "-1/2"])
def test_a_shard_that_is_none_is_refused(shard, tmp_path):
    with pytest.raises(ConfigError, match="expected such as 2/3"):
        run(tmp_path / "run", shard=shard)
    assert not list(tmp_path.iterdir())


def test_a_release_is_measured_alike_by_one_process_and_by_two(pipe, tmp_path):
    """The editor itself: float32, in batches of the same pictures whoever makes them. Killed in between."""
    pipe.save_pretrained(tmp_path / "release")
    asked = {"count": 5, "batch_size": 2, "seed": 3, "steps": 1, "device": "cpu"}
    first = evaluate(tmp_path / "release", out=tmp_path / "one", **asked)
    evaluate(tmp_path / "release", out=tmp_path / "two", shard="2/2", **asked)
    process = Started(
        lambda: bool(evaluate(tmp_path / "release", out=tmp_path / "two", shard="1/2", **asked) is None),
        tmp_path / "notes",
    )
    while not (tmp_path / "two/outputs/own/000000.png").exists():
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.code()
    evaluate(tmp_path / "release", out=tmp_path / "two", shard="1/2", **asked)
    one, two = content(tmp_path / "one"), content(tmp_path / "two")
    assert one == two and first["making"]["steps"] == 1

    # An editor in memory is known by its weights and settings.
    again = evaluate(pipe, out=tmp_path / "pipeline", **asked)
    assert again["l1"] == pytest.approx(first["l1"], rel=1e-4)  # other memory, another order of sums
    assert again["making"]["weights"] == pipe.identity
    pipe.register_to_config(max_new_tokens=7)
    with pytest.raises(ConfigError, match="holds an evaluation with weights="):
        evaluate(pipe, out=tmp_path / "pipeline", **asked)
