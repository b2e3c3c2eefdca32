"""Photos in, an adapter out, that diffusers itself reads; worn alone, side by side, taken off."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from PIL import Image
from safetensors.torch import load_file
from small_pipelines import saved
from subject_data import write_subjects

from mgie.cli import main
from mgie.controllers.region import RegionOptions
from mgie.errors import ConfigError, DataError, WeightsError
from mgie.models.finders import Detection, Finder
from mgie.personalization.start_options import SubjectStart
from mgie.personalize import _run, personalize
from mgie.pipeline import MGIEPipeline
from mgie.types import Region
from mgie.weights.adapter import FACTS, FILE
from mgie.weights.release import write_release

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Already found a `peft_config`"),  # the library's own second adapter
]

CLOSE = 1e-5
"""Of pixels in [0, 1]. Worst measured: 1.2e-7."""
SHORT = (
    "--train.samples=4", "--train.batch_size=2", "--train.precision=fp32", "--data.workers=0",
    "--data.size=16", "--log.every=2", "--save.every=2", "--train.threads=1", "--optim.lr=0.05",
    "--train.lora.rank=4", "--train.lora.alpha=4", "--train.denoiser_checkpointing=none",
    "--sampling.scheduler=DDIMScheduler",
)  # fmt: skip
WORDS = "a photo of a olisa red disk and a olisb blue disk"
THEIRS = {"sd15": StableDiffusionPipeline, "sdxl": StableDiffusionXLPipeline}


@pytest.fixture(scope="module")
def bases(tmp_path_factory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("bases")
    return {kind: saved(kind, place / kind) for kind in THEIRS}


@pytest.fixture(scope="module")
def things(tmp_path_factory) -> Path:
    return write_subjects(tmp_path_factory.mktemp("things"), "ab")


@pytest.fixture(scope="module")
def adapters(bases, things, tmp_path_factory) -> dict[str, Path]:
    """Of each base, two steps long."""
    place = tmp_path_factory.mktemp("adapters")
    for kind, base in bases.items():
        facts = personalize(things, model=base, out=place / kind, keys=SHORT)
        assert (facts["samples"], facts["subjects"], facts["masks"]) == (4, 2, 0)
        assert facts["run_dir"] == str(place / f"{kind}-run")
    return {kind: place / kind for kind in bases}


def painted(pipeline, words: str = WORDS, **how) -> np.ndarray:
    """A new picture of ours."""
    told = {"num_inference_steps": 3, "guidance_scale": 3.0, "seed": 5, "output_type": "np", **how}
    return pipeline(None, words, **told).images[0]


def theirs(kind: str, base: Path, adapters: list[Path]) -> np.ndarray:
    """The same picture of the library's own pipeline."""
    pipeline = THEIRS[kind].from_pretrained(base)
    for number, adapter in enumerate(adapters):
        pipeline.load_lora_weights(adapter, adapter_name=f"a{number}")
    pipeline.set_adapters([f"a{number}" for number in range(len(adapters))])
    pipeline.set_progress_bar_config(disable=True)
    noise = torch.Generator().manual_seed(5)
    how = {"num_inference_steps": 3, "guidance_scale": 3.0, "generator": noise, "output_type": "np"}
    return pipeline(WORDS, height=16, width=16, **how).images[0]


@pytest.mark.parametrize("kind", THEIRS)
def test_diffusers_paints_the_same_with_it(kind, bases, adapters):
    bare = MGIEPipeline.from_pretrained(bases[kind])
    before = painted(bare)
    worn = MGIEPipeline.from_pretrained(bases[kind], subjects=adapters[kind])
    ours = painted(worn)
    assert np.abs(ours - theirs(kind, bases[kind], [adapters[kind]])).max() < CLOSE
    assert np.abs(ours - before).max() > 100 * CLOSE
    worn.unload_subjects()
    assert np.array_equal(painted(worn), before)
    names = {name for name, _ in bare.denoiser.unet.named_parameters()}
    assert {name for name, _ in worn.denoiser.unet.named_parameters()} == names
    assert np.array_equal(painted(bare.load_subjects(adapters[kind], scale=0.0)), before)


def test_two_of_them_side_by_side(bases, adapters, tmp_path):
    other = write_subjects(tmp_path / "other", "cd")
    personalize(other, model=bases["sd15"], out=tmp_path / "second", keys=SHORT)
    both = [adapters["sd15"], tmp_path / "second"]
    pipeline = MGIEPipeline.from_pretrained(bases["sd15"], subjects=both)
    assert np.abs(painted(pipeline) - theirs("sd15", bases["sd15"], both)).max() < CLOSE
    assert [each.phrase for adapter in pipeline.adapters for each in adapter.learnt][2:] == [
        "olisc green disk", "olisd orange disk",
    ]  # fmt: skip
    with pytest.raises(ConfigError, match="both call a subject 'olisa red disk'"):
        pipeline.load_subjects(adapters["sd15"])
    with pytest.raises(ConfigError, match="the editor wears"):
        pipeline.save_pretrained(tmp_path / "release")


def test_a_run_that_was_stopped_goes_on_to_the_same_adapter(bases, things, tmp_path):
    how = {"model": bases["sd15"], "keys": [*SHORT, "--optim.schedule=constant"]}
    personalize(things, out=tmp_path / "whole", **how)
    cut = [*how["keys"], "--train.samples=2"]
    personalize(things, out=tmp_path / "cut", model=bases["sd15"], keys=cut)
    facts = personalize(things, out=tmp_path / "cut", **how)
    assert facts["steps"] == 2
    whole, cut = (load_file(tmp_path / name / FILE) for name in ("whole", "cut"))
    assert whole.keys() == cut.keys() and all(torch.equal(whole[name], cut[name]) for name in whole)
    assert all(name.startswith("unet.") for name in whole)
    Image.new("RGB", (96, 72), "red").save(things / "a0.png")
    with pytest.raises(ConfigError, match="learnt from other data"):
        personalize(things, out=tmp_path / "cut", **how)
    write_subjects(things, "ab")


def test_dco_begins_at_log_2_and_leaves_the_base_alone(bases, things, tmp_path):
    keys = [*SHORT, "--train.samples=2", "--train.loss.objective=dco", "--train.loss.mask_floor=0.3"]
    facts = personalize(things, model=bases["sd15"], out=tmp_path / "dco", keys=keys)
    assert facts["loss_edit"] == pytest.approx(math.log(2), rel=1e-6)
    assert not any(tensor.isnan().any() for tensor in load_file(tmp_path / "dco" / FILE).values())
    for key, told in (
        ("--train.groups=[denoiser]", "expected lora_denoiser alone"),
        (f"--data.subjects.prior={things}", "set train.loss.dco_with_prior"),
        ("--train.strategy=zero2", "objective=dco with lora_denoiser and zero2"),
    ):
        with pytest.raises(ConfigError, match=told):
            personalize(things, model=bases["sd15"], out=tmp_path / "no", keys=[*keys, key])


@pytest.fixture
def red_and_blue(monkeypatch) -> list[str]:
    """A finder of what is one colour, in the place of OWLv2 and SAM; what it was asked for."""
    asked: list[str] = []

    def detect(_: Image.Image, phrase: str) -> list[Detection]:
        asked.append(phrase)
        return [Detection(box=(0.0, 0.0, 1.0, 1.0), score=0.9)] if "nothing" not in phrase else []

    def segment(image: Image.Image, _: object) -> Image.Image:
        values = np.asarray(image).astype(int)
        plain = (values.max(-1) == 255) & (values.min(-1) == 0) & (np.sort(values, -1)[..., 1] == 0)
        return Image.fromarray((plain if plain.any() else np.ones_like(plain)).astype(np.uint8) * 255)

    found = Finder(detect=detect, segment=segment)
    monkeypatch.setattr("mgie.personalize.open_finder", lambda *_, **__: found)
    monkeypatch.setattr("mgie.personalize.check_mask_finders", lambda *_, **__: None)
    return asked


def test_masks_and_prior_pictures_are_made_where_they_are_missing(bases, tmp_path, red_and_blue, capsys):
    folder = write_subjects(tmp_path / "things", "ab")
    drawn = np.asarray(Image.open(folder / "mask_a0.png"))
    for name in ("mask_a0.png", "mask_b1.png"):
        (folder / name).unlink()
    lines = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
    for line in lines[1:]:
        del line["mask_path"]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    how = {"model": bases["sd15"], "out": tmp_path / "out", "detector": "d", "segmenter": "s", "prior": "1"}
    facts = personalize(folder, **how, keys=[*SHORT, "--data.subjects.segmix.prob=1"])
    assert (facts["masks"], facts["samples"]) == (2, 4)
    told = capsys.readouterr().err
    assert f"mgie: 2 subjects in 4 photos, learnt over {bases['sd15']}, become {tmp_path / 'out'}" in told
    assert "; 2 masks are to be made; pictures of each are painted first: 1.\n" in told
    made = np.asarray(Image.open(folder / "mask_a0.png"))
    assert ((made > 127) == (drawn > 127)).mean() > 0.99
    assert red_and_blue[:2] == ["red disk", "blue disk"]
    lines = (folder / "prior" / "class_metadata.jsonl").read_text().splitlines()
    told = [json.loads(line) for line in lines]
    assert told[0] == {"id": {"a": "red disk", "b": "blue disk"}}
    texts = [line["text"] for line in told[1:]]
    assert texts == ["A photo of a red disk", "A photo of a blue disk"]
    before = (folder / "prior" / "0_0000.png").stat().st_mtime_ns
    personalize(folder, **how, keys=[*SHORT, "--data.subjects.segmix.prob=1"])  # done already
    assert (folder / "prior" / "0_0000.png").stat().st_mtime_ns == before
    told = capsys.readouterr().err
    assert f"become {tmp_path / 'out'}.\n" in told and "complete: all 4" in told
    (folder / "mask_a0.png").unlink()
    with pytest.raises(DataError, match=r"'nothing': .*draw .*mask_a0\.png"):
        personalize(folder, **how, masks="nothing", keys=SHORT)


def test_beside_a_prior_there_are_as_many_photos_as_without(bases, things, tmp_path):
    runs = [_run(None, bases["sdxl"], things, tmp_path / "out", prior, []) for prior in (None, things)]
    assert [(run.train.samples, run.train.batch_size) for run in runs] == [(4020, 2), (8040, 4)]
    assert runs[1].data.subjects is not None and runs[1].data.subjects.prior == str(things)


def test_what_is_wrong_is_said_before_anything_is_loaded(bases, things, tmp_path, capsys):
    def refused(*words: str) -> str:
        assert main(["personalize", *map(str, words)]) == 2
        return capsys.readouterr().err

    told = ("--model", bases["sd15"], "--out", tmp_path / "out")
    folder = write_subjects(tmp_path / "lost", "ab")
    (folder / "mask_b0.png").unlink()
    assert "b0.png of 'b' in" in refused(folder, *told) and not (tmp_path / "out-run").exists()
    said = refused(folder, *told, "--detector", things)
    assert "a box is no mask: give --segmenter" in said
    (folder / "metadata.jsonl").write_text('{"id": {"a": "x y"}}\n{"id": "a", "file_name": "a0.png"\n')
    assert "line 2 of" in refused(folder, *told)
    one = write_subjects(tmp_path / "one", "a")
    assert "Seg-Mix with one subject" in refused(one, *told)
    assert "did you mean train.samples" in refused(one, *told, "--train.sample", "3")
    assert "has no model_index.json" in refused(things, "--model", things, "--out", tmp_path / "out")
    assert "expected 1 to 10000 pictures" in refused(things, *told, "--prior", "0")
    assert "class_metadata.jsonl cannot be read" in refused(things, *told, "--prior", tmp_path)
    assert "has no held-out pairs" in refused(things, *told, "--preview.every", "4")
    assert "expected lora_denoiser" in refused(things, *told, "--train.groups", "[denoiser]")
    assert "sets --model.release itself" in refused(things, *told, "--model.release", "x")


def test_an_adapter_of_another_model_is_told(bases, adapters, tmp_path):
    with pytest.raises(WeightsError, match="is for another model"):
        MGIEPipeline.from_pretrained(bases["sd15"], subjects=adapters["sdxl"])
    with pytest.raises(WeightsError, match="there is no adapter"):
        MGIEPipeline.from_pretrained(bases["sd15"], subjects=tmp_path / "nowhere")
    assert json.loads((adapters["sd15"] / FACTS).read_text())["base"] == str(bases["sd15"])


def test_a_start_shows_in_the_noise(bases, adapters):
    pipeline = MGIEPipeline.from_pretrained(bases["sd15"], subjects=adapters["sd15"])
    pipeline.set_progress_bar_config(disable=True)
    plain = painted(pipeline)
    assert np.array_equal(painted(pipeline, start=SubjectStart(gamma=0.0)), plain)
    shifted = painted(pipeline, start=SubjectStart(gamma=1.0))
    assert np.abs(shifted - plain).max() > 1e-3
    assert np.array_equal(painted(pipeline, start=SubjectStart(gamma=1.0)), shifted)
    boxes = [(0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 1.0)]
    placed = painted(pipeline, start=SubjectStart(gamma=1.0, boxes=boxes))
    assert not np.array_equal(placed, shifted)
    together = pipeline(None, [WORDS, WORDS], seed=[4, 5], num_inference_steps=3, guidance_scale=3.0,
                        output_type="np", start=SubjectStart(gamma=1.0)).images  # fmt: skip
    assert np.abs(together[1] - shifted).max() < 1e-5  # a picture does not depend on its neighbours
    regions = [Region(phrase="a red disk", box=(0.0, 0.0, 0.5, 1.0))]
    assert painted(pipeline, start=SubjectStart(gamma=1.0), regions=regions).shape == (16, 16, 3)
    with pytest.raises(DataError, match="names 1 of the subjects"):
        painted(pipeline, "a photo of a olisa red disk", start=SubjectStart())
    with pytest.raises(DataError, match="1 boxes to start from"):
        painted(pipeline, start=SubjectStart(boxes=boxes[:1]))
    with pytest.raises(ConfigError, match="expected x0 < x1"):
        painted(pipeline, start=SubjectStart(boxes=[boxes[0], (0.5, 0.0, 0.5, 1.0)]))
    pipeline.unload_subjects()
    with pytest.raises(ConfigError, match="there are none: give --subjects"):
        painted(pipeline, start=SubjectStart())


def test_the_command_paints_with_two_adapters(bases, adapters, tmp_path, capsys):
    other = write_subjects(tmp_path / "other", "cd")
    personalize(other, model=bases["sd15"], out=tmp_path / "second", keys=SHORT)
    words = ["edit", WORDS, "--new", "--model", bases["sd15"], "--out", tmp_path / "new.png", "--steps", "2",
             "--subjects", adapters["sd15"]]  # fmt: skip
    second = ["--subjects", tmp_path / "second", "--start.gamma", "0.5"]
    pictures = []
    for more in ([], second):
        assert main([*map(str, [*words, *more])]) == 0, capsys.readouterr().err
        pictures.append(Image.open(tmp_path / "new.png").copy())
    assert pictures[0].size == (16, 16) and pictures[0] != pictures[1]
    capsys.readouterr()
    assert main([*map(str, [*words[:-2], "--start.gamma", "0.5"])]) == 2
    assert "give --subjects" in capsys.readouterr().err
    assert main([*map(str, [*words[:-1], tmp_path / "nowhere"])]) == 2
    assert "there is no adapter" in capsys.readouterr().err


def test_an_editor_s_own_unet_learns_and_edits(release, things, tmp_path):
    """Over a release of ours, whose UNet sees the picture before the edit, and whose language model reads."""
    base = write_release(release, tmp_path / "release")
    keys = [*SHORT[:4], *SHORT[5:], "--data.max_length=128", "--sampling.steps=2"]
    personalize(things, model=base, out=tmp_path / "out", keys=keys)
    pipeline = MGIEPipeline.from_pretrained(base)
    pipeline.set_progress_bar_config(disable=True)
    photo = Image.effect_noise((64, 48), 90).convert("RGB")
    mask = Image.new("L", photo.size)
    mask.paste(255, (16, 12, 48, 36))
    how = {"seed": 1, "num_inference_steps": 2}
    before = pipeline(photo, WORDS, **how).images[0]
    pipeline.load_subjects(tmp_path / "out")
    start, region = SubjectStart(gamma=0.5), RegionOptions(feather=0.0)
    edited = pipeline(photo, WORDS, **how, mask=mask, start=start, region=region)
    assert edited.outside_change == [0.0] and edited.images[0] != photo
    assert pipeline(photo, WORDS, **how).images[0] != before
    pipeline.unload_subjects()
    assert pipeline(photo, WORDS, **how).images[0] == before
