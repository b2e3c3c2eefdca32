"""`mgie personalize`: photos of one's own things in, an adapter that knows them out.

mgie personalize my_toys --model stable-diffusion-v1-5 --out _ckpt/my_toys
"""

import gc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from llava_patch.folders import check_out
from llava_patch.ranges import in_range
from mgie.build import identity_of_parts
from mgie.build_data import build_subjects
from mgie.config import RunConfig, dump_run, load_run
from mgie.devices import find_device
from mgie.errors import ConfigError, WeightsError
from mgie.lines import say
from mgie.models.adapters import diffusers_tensors
from mgie.models.finders import open_finder
from mgie.personalization.masks import check_mask_finders, make_masks, thing_mask
from mgie.personalization.prior import write_prior
from mgie.personalization.segmix import cut_out
from mgie.personalization.subjects import PRIOR, SUBJECTS, Subject, load_prior, load_subjects
from mgie.ranges import Seed
from mgie.train import train
from mgie.training.world import processes
from mgie.weights import checkpoint
from mgie.weights.adapter import ADAPTER, write_adapter
from mgie.weights.models import read_json
from mgie.weights.release import INDEX, fetch
from mgie.weights.stable_diffusion import XL, is_stable_diffusion

MADE = "prior"
"""Folder of the prior pictures that are painted here, in that of the subjects."""


@in_range
def personalize(
    subjects: str | Path,
    *,
    model: str | Path,
    out: str | Path,
    config: str | None = None,
    masks: str | None = None,
    detector: str | None = None,
    segmenter: str | None = None,
    prior: str | None = None,
    seed: Seed | None = None,
    device: str | None = None,
    keys: Sequence[str] = (),
) -> dict[str, Any]:
    """Learn one's own things, and write an adapter that paints them.

    Its facts: out, subjects, masks (made), prior, and those of the training. Any key of the recipe can be put
    over it, as in --train.samples 2000. The run lies beside the adapter, in OUT-run: the same command goes on
    with it. Raises ConfigError, DataError and WeightsError.

    Args:
        subjects: Folder with photos of each thing, and metadata.jsonl (docs/controls.md).
        model: What is to know them: a folder or hub id of Stable Diffusion or its XL, or a release.
        out: Folder to write, with diffusers' own LoRA file.
        config: Recipe. Default: mudi_sd15, mudi_sdxl or mudi_mgie, as the model asks for.
        masks: What all things are, such as "action figure", for the masks that are missing. Default: each
            one's own phrase without its rare word.
        detector: Local folder of OWLv2 or Grounding DINO, which finds them.
        segmenter: Local folder of SAM, which cuts them out, or of CLIPSeg, which needs no detector.
        prior: How many pictures of such things are painted first, of each, to be learnt beside the photos; or
            a folder that has some (class_metadata.jsonl).
        seed: Of all that is drawn. Default: the recipe's.
        device: Where masks and pictures are made, such as cuda:1. Default: the GPU, where there is one.
    """
    # Everything that can be wrong is wrong now.
    folder, out, place = Path(subjects), Path(out), find_device(device)
    if processes() > 1:
        raise ConfigError(
            "`mgie personalize` is one process: start it without torchrun, or `mgie train` with its recipe."
        )
    check_out(out, kind=ADAPTER)
    things = load_subjects(folder, masks=False)
    base = fetch(model)
    count, prior_folder = _prior(folder, prior)
    if seed is not None:
        keys = (*keys, f"--seed={seed}")
    run = _run(config, base, folder, out, prior_folder, keys)
    assert run.data.subjects
    mixes = run.data.subjects.segmix.prob > 0
    lost = [f"{photo.name} of {each.name!r}" for each in things for photo in each.photos if not photo.mask]
    if mixes and (lost or count):
        of = f"{lost[0]} in {folder / SUBJECTS}" if lost else f"a picture of {things[0].name!r} to be painted"
        check_mask_finders(detector, segmenter, lost=of)
    if prior_folder and not count:
        load_prior(prior_folder, things, masks=mixes)
    if mixes and len(things) < 2:
        build_subjects(run)  # refuses it

    # Make what is missing.
    say(_outlook(things, base, out, lost=len(lost) if mixes else 0, prior=count))
    find = open_finder(detector, segmenter, device=place) if mixes and (lost or count) else None
    made = make_masks(things, find, phrase=masks) if find and lost else []
    if count and prior_folder:
        _paint(base, things, prior_folder, run, count, place, find, masks)
    del find
    _forget()
    build_subjects(run)  # now all of it can be read

    # Learn, and write what was learnt.
    facts = train(run)
    _write(run, folder, out, model)
    return {
        "out": str(out),
        "subjects": len(things),
        "masks": len(made),
        "prior": prior_folder or "",
        **facts,
    }


def _outlook(things: Sequence[Subject], base: Path, out: Path, *, lost: int, prior: int) -> str:
    """What will happen before the training, which speaks for itself."""
    photos = sum(len(each.photos) for each in things)
    told = f"{len(things)} subjects in {photos} photos, learnt over {base}, become {out}"
    told += f"; {lost} masks are to be made" if lost else ""
    return f"{told}; pictures of each are painted first: {prior}." if prior else f"{told}."


def _run(
    config: str | None, base: Path, folder: Path, out: Path, prior: Path | None, keys: Sequence[str]
) -> RunConfig:
    """The recipe, over this base, of these subjects. Raises ConfigError and WeightsError."""
    if not (base / INDEX).is_file():
        raise WeightsError(
            f"{base} has no {INDEX}: expected a folder of Stable Diffusion as diffusers has it, or a release."
        )
    index = read_json(base / INDEX)
    ours = not is_stable_diffusion(base)
    kind = "mudi_mgie" if ours else "mudi_sdxl" if index["_class_name"] == XL else "mudi_sd15"
    own = {"name": f"{out.name}-run", "out": str(out.parent), "model.release": str(base)}
    own["data.path"] = str(folder)
    if ours and isinstance(index.get("size"), int):
        own["data.size"] = str(index["size"])
    if prior is not None:
        own["data.subjects.prior"] = str(prior)
    taken = [f"--{key}" for key in own if key not in ("data.size", "data.subjects.prior")]
    if clash := next((key for key in keys if key.partition("=")[0] in taken), None):
        raise ConfigError(f"`mgie personalize` sets {clash} itself: leave it out.")
    given = [f"--{key}={value}" for key, value in own.items()]
    run = load_run(config or kind, [*given, *keys])
    if run.data.subjects is None:
        raise ConfigError(f"the recipe {config} learns no subjects: it lacks data.subjects.")
    if run.train.groups != ("lora_denoiser",):
        groups = ", ".join(run.train.groups)
        raise ConfigError(f"train.groups is {groups}: expected lora_denoiser alone, which makes an adapter.")
    if prior is not None:  # as many photos in a step as without
        given += [f"--train.batch_size={2 * run.train.batch_size}"]
        given += [f"--train.samples={2 * run.train.samples}"] if run.train.samples else []
        run = load_run(config or kind, [*given, *keys])
    run.validate()
    return run


def _prior(folder: Path, asked: str | None) -> tuple[int, Path | None]:
    """How many prior pictures are to be painted of each subject, and where they are or will be."""
    if asked is None:
        return 0, None
    if not asked.isdecimal():
        return 0, Path(asked)
    if not 1 <= int(asked) <= 10_000:
        raise ConfigError(f"--prior is {asked}: expected 1 to 10000 pictures of each, or a folder.")
    there = (folder / MADE / PRIOR).is_file()  # from an earlier time
    return 0 if there else int(asked), folder / MADE


def _paint(
    base: Path,
    things: Sequence[Subject],
    out: Path,
    run: RunConfig,
    count: int,
    device: torch.device,
    finder: Any,
    phrase: str | None,
) -> None:
    """Paint prior pictures, and find the things in them."""
    from mgie.pipeline import MGIEPipeline

    pipeline = MGIEPipeline.from_pretrained(base, progress=True).to(device)

    def paint(words: str, seed: int) -> Image.Image:
        return pipeline(None, words, seed=seed, size=run.data.size).images[0]

    def find(picture: Image.Image, own: str) -> Image.Image:
        return thing_mask(picture, phrase or own, finder)

    write_prior(out, things, paint, count=count, seed=run.seed, find=find if finder else None)


def _write(run: RunConfig, folder: Path, out: Path, model: str | Path) -> None:
    """The adapter of a run that is complete, with its subjects' cut-outs."""
    found = checkpoint.latest(run.folder)
    if found is None:
        raise WeightsError(f"{run.folder} has no whole checkpoint: remove it, and start again.")
    tensors = diffusers_tensors(checkpoint.load_tensors(found), run.train.lora)
    learnt = {}
    for each in load_subjects(folder, masks=False):
        cut_outs = [_cut(photo, run.data.size) for photo in each.photos if photo.mask is not None]
        learnt[each.name] = (each.phrase, cut_outs)
    write_adapter(
        out, tensors, learnt=learnt, base=str(model), identity=identity_of_parts(run), run_yaml=dump_run(run)
    )


def _cut(photo: Any, side: int) -> Image.Image:
    """A thing by itself, no larger than the pictures that were learnt from."""
    cut = cut_out(photo)
    image = cut.image.copy()
    image.putalpha(cut.mask)
    image.thumbnail((side, side), Image.Resampling.BICUBIC)
    return image


def _forget() -> None:
    """Free the memory of models that are needed no more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
