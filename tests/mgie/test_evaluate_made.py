"""A published protocol makes its own pictures: turn after turn, and along a curve of guidance."""

import json

import pytest
from benchmark_data import pic, write_magicbrush
from evaluated import Noisy, Unneeded, content

from mgie.data.images import decode
from mgie.errors import ConfigError, DataError
from mgie.evaluate import evaluate
from mgie.evaluation.making import item_seed
from mgie.evaluation.published.data import read_layout
from mgie.evaluation.published.protocol import find_protocol


@pytest.fixture
def magicbrush(tmp_path):
    write_magicbrush(tmp_path, {"3": 3, "7": 1, "12": 2, "8": 3})
    return tmp_path


@pytest.fixture
def made(magicbrush, clip_folder, dino_folder):
    """Takes a system and what is to be otherwise; gives the facts."""

    def run(system=None, **changes):
        asked = {
            "suite": "magicbrush", "data": magicbrush / "data", "out": magicbrush / "report", "batch_size": 3,
            "clip": clip_folder, "dino": dino_folder, "unpinned": True, "seed": 4,
        }  # fmt: skip
        return evaluate(system or Noisy(), **(asked | changes))

    return run


def test_each_turn_begins_with_the_last_one_s_output(made, magicbrush):
    system = Noisy()
    facts = made(system, steps=7)
    outputs, data = magicbrush / "report" / "outputs", magicbrush / "data" / "images"
    turns = ("1", "inde_2", "inde_3", "iter_2", "iter_3")
    assert {path.name for path in outputs.glob("3/*")} == {f"3_{turn}.png" for turn in turns}
    given = [picture.tobytes() for call in system.calls for picture in call[0]]
    assert len(given) == 9 + 5 and all(call[3] == {"num_inference_steps": 7} for call in system.calls)

    def times(path):
        return given.count(decode(path.read_bytes(), name=str(path)).tobytes())

    assert times(outputs / "3/3_1.png") == times(outputs / "3/3_iter_2.png") == 1  # edited again
    assert times(outputs / "3/3_iter_3.png") == times(outputs / "3/3_inde_2.png") == 0
    assert times(data / "3/3-output1.png") == 1  # for 3_inde_2
    assert times(data / "3/3-input.png") == 1  # both views share the first turn
    # Noise is a matter of the turn.
    record = json.loads((magicbrush / "report" / "made/3/3_iter_2.png.json").read_text())
    assert record["seed"] == item_seed(4, "3-2") and record["key"] == "3-2"
    assert facts["model"] == "Noisy" and facts["making"]["weights"] == "noisy 1"
    assert facts["making"]["steps"] == 7 and facts["rows"]["outputs"]["multi"]["n"] == 4


def test_what_was_made_scores_as_ready_pictures_do(made, magicbrush, clip_folder, dino_folder):
    first = made()
    ready = evaluate(
        f"pictures:{magicbrush / 'report' / 'outputs'}",
        suite="magicbrush", data=magicbrush / "data", out=magicbrush / "ready", unpinned=True,
        clip=clip_folder, dino=dino_folder,
    )  # fmt: skip
    assert ready["rows"] == first["rows"] and ready["protocol"] == first["protocol"]
    assert ready["not_asked_for"] == 0 and "making" not in ready


@pytest.mark.parametrize("count", [2, 3])
def test_shards_of_sessions_end_with_the_same_bytes(count, made, magicbrush):
    made()
    for place in range(count, 0, -1):
        facts = made(out=magicbrush / "shared", shard=f"{place}/{count}")
    assert facts["rows"] and content(magicbrush / "shared") == content(magicbrush / "report")


def test_a_turn_that_is_lost_is_made_again_with_all_that_follow_unchanged(made, magicbrush):
    made()
    first = content(magicbrush / "report")
    (magicbrush / "report" / "outputs/3/3_1.png").unlink()
    (magicbrush / "report" / "made/3/3_iter_3.png.json").write_text("{")
    again = Noisy()
    made(again)
    assert content(magicbrush / "report") == first and 0 < len(again.calls) < 6
    made(Unneeded())


def test_data_that_were_changed_are_noticed(made, magicbrush):
    made()
    pic(99, 40, 30).save(magicbrush / "data" / "images/7/7-input.png")
    with pytest.raises(DataError, match=r"has 7/7_1\.png made from another picture than 7-1 has now"):
        made(Unneeded())
    sessions = json.loads((magicbrush / "data" / "edit_sessions.json").read_text())
    sessions["7"][0]["instruction"] = "do something else"
    (magicbrush / "data" / "edit_sessions.json").write_text(json.dumps(sessions))
    with pytest.raises(ConfigError, match=r"holds an evaluation with data="):
        made(Unneeded())


def test_only_pictures_are_made_without_any_model_of_features(made, magicbrush):
    facts = made(stage="generate", clip=None, dino=None)
    assert facts["made"] == 14 and not (magicbrush / "report" / "scores").exists()
    assert made(Unneeded())["rows"]


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"count": 5}, "count has no place here: the protocol magicbrush measures all its items"),
        ({"metrics": ["ssim"]}, "metrics has no place here"),
        ({"clip": None}, "give --clip"),
        ({"suite": "ip2p", "image_guidance": 1.5}, "the views of ip2p are made with one each"),
    ],
)
def test_options_that_no_protocol_heeds_are_refused(wrong, says, made, magicbrush):
    with pytest.raises(ConfigError, match=says):
        made(Unneeded(), **wrong)
    assert not (magicbrush / "report").exists()


def write_ip2p(folder, prompts=60):
    listed = [[f"{number:03d}", [str(number)]] for number in range(prompts)]
    (folder / "seeds.json").write_text(json.dumps(listed))
    for name, (seed,) in listed[57:]:
        (folder / name).mkdir()
        prompt = {"edit": f"edit {name}", "input": "a red d", "output": "a bad d"}
        (folder / name / "prompt.json").write_text(json.dumps(prompt))
        pic(int(seed), 40, 30).save(folder / name / f"{seed}_0.jpg")
    return folder


def test_the_curve_has_one_guidance_by_the_picture_for_each_view(tmp_path, clip_folder, made):
    (tmp_path / "ip2p").mkdir()
    system, data = Noisy(social=False), write_ip2p(tmp_path / "ip2p")
    facts = made(system, suite="ip2p", data=data, out=tmp_path / "curve", clip=clip_folder, dino=None)
    scales = [call[3]["image_guidance_scale"] for call in system.calls]
    assert scales == [1.0, 1.2, 1.4, 1.6, 1.8, 2.0, 2.2]
    assert list(facts["rows"]["outputs"]) == [f"s{scale}" for scale in scales]
    assert len({tuple(call[2]) for call in system.calls}) == 1  # one noise along the curve
    assert len({path.read_bytes() for path in (tmp_path / "curve/outputs").rglob("057*.png")}) == 7


@pytest.mark.parametrize("name", ["..", "../../up", "/root", "a\\b", "a/../../b", ""])
@pytest.mark.parametrize("part", ["session", "input", "output"])
def test_no_name_in_a_benchmark_leads_out_of_its_folder(name, part, made, magicbrush):
    names = {"session": "3", "input": "a.png", "output": "b.png"} | {part: name}
    turn = {"input": names["input"], "output": names["output"], "instruction": ""}
    (magicbrush / "data" / "edit_sessions.json").write_text(json.dumps({names["session"]: [turn]}))
    with pytest.raises(DataError, match="names no file"):
        made(Unneeded())
    assert not (magicbrush / "report").exists()


def test_seeds_of_instruct_pix2pix_lead_nowhere_else(tmp_path):
    data = write_ip2p(tmp_path)
    listed = json.loads((data / "seeds.json").read_text())
    listed = [[name, [f"../{seed}" for seed in seeds]] for name, seeds in listed]
    (data / "seeds.json").write_text(json.dumps(listed))
    with pytest.raises(DataError, match="expected names of folders beside it"):
        read_layout(find_protocol("ip2p"), data, unpinned=True)
