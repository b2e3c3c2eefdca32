"""What `mgie edit` is asked for, held to its rules before a weight is read."""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from mgie.controllers.layout_options import LayoutOptions
from mgie.data.images import decode
from mgie.data.photo_files import FORMATS, LONGEST, open_photo, photo_size
from mgie.data.regions import read_regions
from mgie.data.validation import check_instruction
from mgie.errors import ConfigError, DataError, WeightsError
from mgie.jobs import Job, find_photos, plan, read_list
from mgie.layouts import check_inside, check_layout, check_regions
from mgie.masks import Mask, Phrase, fitted_mask
from mgie.models.finders import open_finder
from mgie.types import Region

RELEASES = ("model_index.json", "mllm.pt", "model.pth")
"""What a folder with an editor's weights has one of: ours and diffusers', MGIE's, MIGE's."""
SIDE = 512
"""Of a new picture, before its release is known: for what is said of boxes in pixels."""

Failed = dict[str, str]
"""A photo and the reason why there is no edit of it."""


def jobs_of(
    photos: Sequence[str | Path],
    words: list[str],
    seeds: list[int],
    out: Path,
    listed: str | Path | None,
    *,
    chain: bool,
    new: bool,
    masked: bool,
    lossless: bool,
    inside: int | None,
    is_folder: bool,
) -> list[Job]:
    """What is to be edited into what. Raises ConfigError and DataError."""
    if not seeds:
        raise ConfigError("seed is an empty list: expected at least one.")
    if listed is not None:
        if photos or words != [""] or len(seeds) > 1 or chain or new:
            raise ConfigError(
                "--list names photos and instructions itself: leave out those, --also, --chain, --new, and "
                "all seeds but one."
            )
        return read_list(Path(listed), out, seed=seeds[0], lossless=lossless)
    if chain and len(words) == 1:
        raise ConfigError("--chain is for several instructions, and there is one: add some with --also.")
    for each in words:
        _check_words(each, pictures=inside)
    found, several = find_photos(photos)
    _check_new(found, new=new, masked=masked)
    return plan(found, words, seeds, out, folder=several, is_folder=is_folder, chain=chain, lossless=lossless)


def sound(jobs: Sequence[Job], work: Callable[[Job], Any], failed: list[Failed], *, alone: bool) -> list[Job]:
    """The jobs that `work` went well for; the others are noted, unless they are about the one photo that was
    given (`alone`), or none is left. Raises their DataError then."""
    sound, first = [], None
    for job in jobs:
        try:
            work(job)
            sound.append(job)
        except DataError as error:
            if alone:
                raise
            first = first or error
            failed.append({"photo": str(job.photo), "reason": " ".join(str(error).split())})
    if first is not None and not sound:
        raise first
    return sound


def finding(
    masks: dict[Path | None, Any], allowed: Mask | Phrase | None, detector: str | None, segmenter: str | None,
    *, device: Any,
) -> Callable[[Job], None]:  # fmt: skip
    """What finds the mask of a job's photo. Raises DataError."""
    if not isinstance(allowed, Phrase):
        return lambda job: masks.update({job.photo: allowed})
    find, words = open_finder(detector, segmenter, device=device), allowed.words

    def found(job: Job) -> None:
        if job.photo is not None and job.photo not in masks:
            masks[job.photo] = find(open_picture(job.photo), words, name=str(job.photo))

    return found


def _check_words(instruction: str, *, pictures: int | None) -> None:
    """Refuse an instruction that is none, or that holds another number of pictures. Raises DataError."""
    if Path(instruction).suffix.lower() in FORMATS and Path(instruction).is_file():
        raise DataError(
            f"the last word is a photo, {instruction}: the instruction belongs behind the photos."
        )
    check_instruction(instruction, pictures=pictures)


def _check_new(photos: list[Path], *, new: bool, masked: bool) -> None:
    """Refuse a new picture with a photo or its mask, and an edit without."""
    if not photos and not new:
        raise DataError(
            'no photo was given: expected PHOTO... "instruction", or --new for a new picture of the words.'
        )
    if new and (photos or masked):
        there = f"the photo {photos[0]}" if photos else "a mask"
        raise ConfigError(f"--new paints a new picture, and there is {there}: leave one of them out.")


def placed_of(
    regions: str | Path | None, layout: LayoutOptions | None, *, prompt: str, side: int | None
) -> tuple[Region, ...] | None:
    """The regions of a file, of several entries those of `prompt`; for a new picture of this side they can be
    looked at now. Raises DataError."""
    check_layout(regions is not None, layout)
    placed = None if regions is None else read_regions(regions, prompt=prompt)
    if placed is not None and side is not None:
        check_regions(placed, (side, side))
    return placed


def open_picture(picture: Path) -> Image.Image:
    """A picture that goes with an instruction. Raises DataError."""
    if not picture.is_file():
        raise DataError(f"there is no photo {picture}: expected the path of a JPEG, PNG or WebP file.")
    return decode(picture.read_bytes(), name=str(picture))


def check_job(
    job: Job, *, mask: Mask | Phrase | None, regions: Sequence[Region], exact: bool, whole: bool
) -> None:
    """Refuse a photo that cannot be read (`whole`: to its last pixel), a file that cannot hold what it
    becomes, and a mask or regions that do not fit it."""
    if job.photo is None:
        return
    size = open_photo(job.photo).picture.size if whole else photo_size(job.photo)
    for target in job.targets:
        kind = FORMATS[target.suffix.lower()]
        if max(size) > LONGEST.get(kind, max(size)):
            raise ConfigError(
                f"out is {target}, but {kind} holds at most {LONGEST[kind]} pixels a side and the photo has "
                f"{size[0]} x {size[1]}: choose a name that ends in .png."
            )
    check_regions(regions, size)
    if mask is not None and not isinstance(mask, (str, Phrase)):
        check_inside(regions, fitted_mask(mask, size, name=str(job.photo)))
    if exact and FORMATS[job.targets[0].suffix.lower()] == "JPEG":
        raise ConfigError(
            f"out is {job.targets[0]}, but a JPEG changes every pixel a little, which preserve=exact "
            "forbids: choose a name that ends in .png, or --preserve soft."
        )


def check_writable(folders: set[Path]) -> None:
    """Find out before the model is loaded, not after minutes of work. Raises OSError."""
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            tempfile.TemporaryFile(dir=folder).close()
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(folder)) from error  # not the temporary name


def release_of(model: str | Path) -> str:
    """A release folder, or the name of one on a hub. Raises WeightsError for a folder that is none."""
    folder = Path(model)
    if folder.is_dir() and not any((folder / index).is_file() for index in RELEASES):
        raise WeightsError(
            f"{folder} is no release: it has no model_index.json (nor MGIE's mllm.pt or MIGE's model.pth); "
            f"`mgie extract RUN_DIR --out FOLDER` makes one from a training run."
        )
    if not folder.exists() and (
        folder.is_absolute() or str(model).startswith((".", "_")) or str(model).count("/") != 1
    ):
        raise WeightsError(
            f"there is no release folder {model}: expected one that `mgie extract` wrote, or a hub id."
        )
    return str(model)
