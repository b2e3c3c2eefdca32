"""`mgie edit`: photos in, edited photos out, each whole or not at all; or a new picture.

mgie edit photo.jpg "make it black and white" --model _ckpt/tiny --out out.png
"""

import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm import tqdm

from llava_patch.ranges import in_range
from mgie.controllers.layout_options import LayoutOptions
from mgie.controllers.region import Preserve, RegionOptions
from mgie.data.images import decode
from mgie.data.regions import read_regions
from mgie.data.validation import check_instruction
from mgie.devices import Dtype, find_device, find_dtype
from mgie.errors import ConfigError, DataError, WeightsError
from mgie.layouts import check_blocks, check_inside, check_layout, check_regions
from mgie.masks import Mask, Phrase, check_finding, check_where, fitted_mask, read_mask
from mgie.models.finders import open_finder
from mgie.personalization.start_options import SubjectStart
from mgie.ranges import Scale, Seed, Side, Steps
from mgie.types import Region

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
"""What `out` may end in, and the format that Pillow writes for it."""
LONGEST = {"JPEG": 65500, "WEBP": 16383}
"""Pixels along a side that a format can hold. (libjpeg's and libwebp's own bounds)"""
SIDE = 512
"""Of a new picture, before its release is known: for what is said of boxes in pixels."""


@in_range
def edit(
    photos: Sequence[str | Path],
    instruction: str,
    *,
    model: str | Path,
    out: str | Path,
    images: Sequence[str | Path] | None = None,
    mask: str | None = None,
    detector: str | None = None,
    segmenter: str | None = None,
    preserve: Preserve = "exact",
    region: RegionOptions | None = None,
    regions: str | Path | None = None,
    layout: LayoutOptions | None = None,
    controller: str | Path | None = None,
    subjects: Sequence[str | Path] | None = None,
    start: SubjectStart | None = None,
    new: bool = False,
    steps: Steps | None = None,
    guidance: Scale | None = None,
    image_guidance: Scale | None = None,
    seed: Seed = 0,
    size: Side | None = None,
    device: str | None = None,
    dtype: Dtype = "float32",
    verify: bool = True,
) -> dict[str, Any]:
    """Edit photos by one instruction and write the results, or paint a new picture; the facts: model, seed,
    seconds, a row per picture.

    Args:
        photos: Pictures to edit: JPEG, PNG or WebP files of any size.
        instruction: What to do, in words, such as "make it black and white".
        model: Release folder, as `mgie extract` writes it, or a hub id.
        out: File to write for one photo; folder for several, where each keeps its name.
        images: What `<image>` stands for in the instruction, such as "replace the cup by <image>"; files, in
            its order, of models that read instructions with pictures.
        mask: Where the photos may change: a picture's file, white there; x0,y0,x1,y1 in parts of width and
            height; auto, where the words matter; or "phrase:the dog", what detector and segmenter find.
        detector: Local folder of OWLv2 or Grounding DINO, which finds boxes of the mask's phrase.
        segmenter: Local folder of SAM, which cuts out what is in them, or of CLIPSeg, which needs none.
        preserve: How the rest is kept: exact (to the byte), soft, or none.
        region: How an edit is kept inside its mask, such as --region.feather 12.
        regions: What belongs where: a JSON file with a list of phrases and their boxes or masks; or
            COCO-MIG's annotations, of which the instruction is a prompt.
        layout: How those regions are painted, such as --layout.until 0.5.
        controller: Published file of MIGC or MIGC++, or a folder of a release's controllers, for regions.
        subjects: Adapter of one's own things (`mgie personalize`); it may come several times.
        start: How noise shows them from the first, where the words name two or more: --start.gamma 0.1.
        new: Paint a new picture: the words are all that is given, and no photo.
        steps: Sampling steps. Default: the release's.
        guidance: How strongly the words count. Default: the release's.
        image_guidance: How strongly the photo counts. Default: the release's.
        seed: Seed of the noise; the same seed gives the same picture.
        size: Side in pixels that the photo is edited at. Default: the release's.
        device: Where the model runs, such as cpu or cuda:1. Default: the GPU, where there is one.
        dtype: What it computes in: float32, float16 or bfloat16.
        verify: Compare the release with its manifest; --verify false to take it as it is.
    """
    # Everything that can be wrong is wrong now.
    held = None if images is None else [_open(Path(path)) for path in images]
    _check_words(instruction, pictures=None if held is None else len(held))
    photos = [Path(photo) for photo in photos]
    _check_new(photos, new=new, masked=mask is not None)
    targets = _targets(photos, Path(out), is_folder=str(out).endswith("/"), new=new)
    check_where(mask is not None, preserve, region)
    allowed = None if mask is None else read_mask(mask)
    placed = _placed(regions, layout, instruction, side=(size or SIDE) if new else None)
    check_finding(allowed, detector, segmenter)
    for photo, target in zip(photos, targets):
        _check_pair(photo, target, allowed, placed or (), exact=preserve == "exact")
    release, place, kind = _release(model), find_device(device), find_dtype(dtype)
    _check_writable({target.parent for target in targets})

    # Seconds of imports: not before the request is known to be sound.
    from mgie.personalization.wearing import check_adapters
    from mgie.pipeline import MGIEPipeline
    from mgie.request import check_request

    how = {"steps": steps, "size": size, "dtype": kind, "device": place, "new": new}
    check_request(release, [instruction], pictures=1, inside=None if held is None else len(held), **how)
    check_blocks(release, controller, placed, layout)
    check_adapters(subjects or (), start, instruction)
    started, read = time.monotonic(), {"controller": controller, "progress": True, "verify": verify}
    read["subjects"] = subjects or ()
    given: list[Path | None] = [None] if new else [*photos]
    masks = _masks(given, allowed, detector, segmenter, device=place)
    pipeline = MGIEPipeline.from_pretrained(release, torch_dtype=kind, **read).to(place)
    pipeline.set_progress_bar_config(disable=len(photos) > 1)
    asked = {
        "num_inference_steps": steps, "guidance_scale": guidance, "image_guidance_scale": image_guidance,
        "size": size, "images": held, "preserve": preserve, "region": region, "regions": placed,
        "layout": layout, "start": start,
    }  # fmt: skip
    rows = []
    bar = tqdm(given, desc="edit", unit="photo", disable=len(given) == 1)
    for photo, target, inside in zip(bar, targets, masks):
        picture = None if photo is None else _open(photo)
        result = pipeline(image=picture, prompt=instruction, seed=seed, mask=inside, **asked)
        write_whole(result.images[0], target, like=None if allowed is None else photo)
        rows.append({"photo": str(photo or ""), "out": str(target), **_facts(result)})
    return {"model": str(model), "seed": seed, "seconds": round(time.monotonic() - started, 1), "edits": rows}


def table(facts: dict[str, Any]) -> str:
    """The edits as lines to print: where each picture is, and what the model said of it."""
    lines = []
    for row in facts["edits"]:
        lines += [
            f"{row['photo'] or 'a new picture'} -> {row['out']}",
            f"  said: {row['said'] or '(nothing)'}",
        ]
        if row["forced"]:
            lines.append("  (the model did not call for the edit by itself: trust it less)")
        if row.get("inside") is not None:
            lines.append(f"  (the mask is {row['inside']:.1%} of the photo)")
        if row.get("outside_change"):
            lines.append(f"  (outside the mask, values changed by up to {row['outside_change']:.1%})")
    return "\n".join(lines)


def _masks(
    photos: Sequence[Path | None],
    allowed: Mask | Phrase | None,
    detector: str | None,
    segmenter: str | None,
    *,
    device: Any,
) -> list[Mask | None]:
    """Each photo's mask. What finds them is gone from memory when the editor comes. Raises DataError."""
    if not isinstance(allowed, Phrase):
        return [allowed] * len(photos)
    find = open_finder(detector, segmenter, device=device)
    return [photo and find(_open(photo), allowed.words, name=str(photo)) for photo in photos]


def _facts(result: Any) -> dict[str, Any]:
    """What is told of one edit."""
    facts: dict[str, Any] = {"said": result.said[0], "forced": result.forced[0]}
    if result.outside_change is not None:
        facts |= {"inside": _share(result.mask[0]), "outside_change": result.outside_change[0]}
    return facts


def write_whole(picture: Image.Image, target: Path, *, like: Path | None = None) -> None:
    """Write `picture` under a temporary name and rename it, so that `target` is never half a picture. With
    the photo that it is `like`: without loss, where the format can, and with its colour profile."""
    options = {} if like is None else {"lossless": True, "icc_profile": _profile(like)}
    temporary = target.with_name(f".{target.stem}-{os.getpid()}{target.suffix}")
    try:
        with temporary.open("wb") as file:
            picture.save(file, format=FORMATS[target.suffix.lower()], **options)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


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


def _placed(
    regions: str | Path | None, layout: LayoutOptions | None, instruction: str, *, side: int | None
) -> tuple[Region, ...] | None:
    """The regions of a file; for a new picture of this side they can be looked at now."""
    check_layout(regions is not None, layout)
    placed = None if regions is None else read_regions(regions, prompt=instruction)
    if placed is not None and side is not None:
        check_regions(placed, (side, side))
    return placed


def _targets(photos: list[Path], out: Path, *, is_folder: bool, new: bool = False) -> list[Path]:
    """The file to write for each photo, or for a new picture."""
    if len(photos) > 1:
        if out.exists() and not out.is_dir():
            raise ConfigError(f"out is the file {out}, but {len(photos)} photos need a folder: name one.")
        if not out.exists() and out.suffix.lower() in FORMATS:
            raise ConfigError(
                f"out is {out}, a picture's name, but {len(photos)} photos need a folder: name one."
            )
        targets = [out / f"{photo.stem}.png" for photo in photos]
        for index, target in enumerate(targets):
            if target in targets[:index]:
                first = photos[targets.index(target)]
                raise ConfigError(
                    f"{first} and {photos[index]} would both become {target}: edit them one by one."
                )
    else:
        if is_folder or out.is_dir():
            one = f"one {'picture' if new else 'photo'} needs a file"
            raise ConfigError(f"out is the folder {out}, but {one}: name one, such as {out / 'out.png'}.")
        if out.suffix.lower() not in FORMATS:
            raise ConfigError(f"out is {out}: expected a name that ends in {', '.join(FORMATS)}.")
        if not out.parent.is_dir():
            raise ConfigError(
                f"out is {out}, but there is no folder {out.parent}: make it first, or name another."
            )
        targets = [out]
    for photo, target in zip(photos, targets):
        if target.exists() and photo.exists() and target.samefile(photo):
            raise ConfigError(f"out would overwrite the photo {photo}: name another file or folder.")
    return targets


def _open(photo: Path) -> Image.Image:
    if not photo.is_file():
        raise DataError(f"there is no photo {photo}: expected the path of a JPEG, PNG or WebP file.")
    return decode(photo.read_bytes(), name=str(photo))


def _check_format(picture: Image.Image, target: Path) -> None:
    """Refuse a file that cannot hold a picture of the photo's size, which the edited one has too."""
    kind = FORMATS[target.suffix.lower()]
    if max(picture.size) > LONGEST.get(kind, max(picture.size)):
        raise ConfigError(
            f"out is {target}, but {kind} holds at most {LONGEST[kind]} pixels a side and the photo has "
            f"{picture.width} x {picture.height}: choose a name that ends in .png."
        )


def _check_pair(
    photo: Path, target: Path, mask: Mask | Phrase | None, regions: Sequence[Region], *, exact: bool
) -> None:
    """Refuse a file that cannot hold what a photo becomes, and a mask or regions that do not fit the
    photo."""
    picture = _open(photo)
    _check_format(picture, target)
    check_regions(regions, picture.size)
    if mask is None:
        return
    if not isinstance(mask, (str, Phrase)):
        check_inside(regions, fitted_mask(mask, picture.size, name=str(photo)))
    if exact and FORMATS[target.suffix.lower()] == "JPEG":
        raise ConfigError(
            f"out is {target}, but a JPEG changes every pixel a little, which preserve=exact forbids: "
            "choose a name that ends in .png, or --preserve soft."
        )


def _profile(photo: Path) -> bytes | None:
    """What a photo's red, green and blue mean; None where it does not say so."""
    with Image.open(photo) as image:
        profile = image.info.get("icc_profile") or b""
    return profile if profile[16:20] == b"RGB " else None


def _share(mask: Image.Image) -> float:
    """Which part of a photo is inside its mask."""
    counts = mask.histogram()
    return round(sum(counts[128:]) / sum(counts), 4)


def _check_writable(folders: set[Path]) -> None:
    """Find out before the model is loaded, not after minutes of work. Raises OSError."""
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            tempfile.TemporaryFile(dir=folder).close()
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(folder)) from error  # not the temporary name


def _release(model: str | Path) -> str:
    """A release folder, or the name of one on a hub. Raises WeightsError for a folder that is none."""
    folder = Path(model)
    if folder.is_dir() and not any((folder / index).is_file() for index in ("model_index.json", "mllm.pt")):
        raise WeightsError(
            f"{folder} is no release: it has no model_index.json (nor the original's mllm.pt); "
            f"`mgie extract RUN_DIR --out FOLDER` makes one from a training run."
        )
    if not folder.exists() and (
        folder.is_absolute() or str(model).startswith((".", "_")) or str(model).count("/") != 1
    ):
        raise WeightsError(
            f"there is no release folder {model}: expected one that `mgie extract` wrote, or a hub id."
        )
    return str(model)
