"""`mgie edit`: photos in, edited photos out, each whole or not at all; or a new picture.

mgie edit photo.jpg "make it black and white" --model _ckpt/tiny --out out.png
"""

import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from llava_patch.ranges import in_range
from mgie.controllers.layout_options import LayoutOptions
from mgie.controllers.region_options import Preserve, RegionOptions
from mgie.personalization.start_options import SubjectStart
from mgie.ranges import Dtype, Scale, Seed, Side, Steps


@in_range
def edit(
    photos: Sequence[str | Path],
    instruction: str,
    *,
    model: str | Path,
    out: str | Path,
    also: Sequence[str] | None = None,
    list_: str | Path | None = None,
    chain: bool = False,
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
    seed: Seed | Sequence[Seed] = 0,
    size: Side | None = None,
    detail: bool = False,
    sheet: bool = False,
    captions: bool = False,
    strip: bool = False,
    overwrite: bool = False,
    device: str | None = None,
    dtype: Dtype = "float32",
    verify: bool = True,
) -> dict[str, Any]:
    """Edit photos by instructions and write the results, or paint new pictures; the facts: model, seed,
    device, dtype, loading and seconds, a row per picture, and what failed.

    A result has its photo's size, EXIF data and colour profile, and, where several are written, its format.
    One photo that cannot be edited does not stop the others. Results that were made here make way.

    Args:
        photos: Pictures to edit, of any size: files, folders of them, or patterns such as "*.jpg".
        instruction: What to do, in words, such as "make it black and white".
        model: Release folder, as `mgie extract` writes it, or a hub id.
        out: File to write for one result; folder for several, where each keeps its photo's name.
        also: Another instruction for the same photos; may be given again and again.
        list_: Photos and instructions in a file instead: CSV with the columns photo, instruction and perhaps
            out and seed, or JSON lines with these names.
        chain: Follow the instructions in turn, each on what the one before has made, and keep every step.
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
        seed: Seed of the noise, or several, such as "[1, 2]"; the same seed gives the same picture.
        size: Side in pixels that the photo is edited at. Default: the release's.
        detail: Bring the change to the photo's own detail, where the photo is larger than that.
        sheet: Also write a picture of before, said and after.
        captions: Also write what the model said, as a text file beside each picture.
        strip: Leave out EXIF data and colour profile.
        overwrite: Replace also files that were not made here.
        device: Where the model runs, such as cpu or cuda:1. Default: the GPU, where there is one.
        dtype: What it computes in: float32, float16 or bfloat16.
        verify: Compare the release with its manifest; --verify false to take it as it is.
    """
    # Seconds of imports, torch's: not for who asks what there is.
    from tqdm import tqdm

    from mgie import asked as looked_at
    from mgie.data.photo_files import open_photo, write_text, write_whole
    from mgie.data.side_by_side import Seen, thumbnail
    from mgie.devices import find_device, find_dtype
    from mgie.jobs import Job, check_targets
    from mgie.layouts import check_blocks
    from mgie.lines import say
    from mgie.masks import check_finding, check_where, read_mask
    from mgie.telling import facts_of, outlook, sheet_file, write_sheets

    # Everything that can be wrong is wrong now.
    held = None if images is None else [looked_at.open_picture(Path(path)) for path in images]
    words, seeds = [instruction, *(also or ())], [seed] if isinstance(seed, int) else [*seed]
    exact = mask is not None and preserve == "exact"
    jobs = looked_at.jobs_of(
        photos, words, seeds, Path(out), list_, chain=chain, new=new, masked=mask is not None, lossless=exact,
        inside=None if held is None else len(held), is_folder=str(out).endswith("/"),
    )  # fmt: skip
    check_where(mask is not None, preserve, region)
    allowed = None if mask is None else read_mask(mask)
    side = (size or looked_at.SIDE) if new else None
    placed = looked_at.placed_of(regions, layout, prompt=instruction, side=side)
    check_finding(allowed, detector, segmenter)
    failed: list[looked_at.Failed] = []
    alone = len({job.photo for job in jobs}) == 1
    check = partial(looked_at.check_job, mask=allowed, regions=placed or (), exact=exact, whole=alone)
    jobs = looked_at.sound(jobs, check, failed, alone=alone)
    page = sheet_file(Path(out), jobs) if sheet else None
    texts = [target.with_suffix(".txt") for job in jobs if captions for target in job.targets]
    replaced = check_targets(jobs, [*texts, *([page] if page else ())], overwrite=overwrite)
    release, place, kind = looked_at.release_of(model), find_device(device), find_dtype(dtype)
    looked_at.check_writable({target.parent for job in jobs for target in job.targets})

    # Those of the models: not before the request is known to be sound.
    from mgie.personalization.wearing import check_adapters
    from mgie.pipeline import MGIEPipeline
    from mgie.request import check_request

    how = {"steps": steps, "size": size, "dtype": kind, "device": place, "new": new}
    inside = None if held is None else len(held)
    check_request(
        release, [*{each: 1 for job in jobs for each in job.words}], pictures=1, inside=inside, **how
    )
    check_blocks(release, controller, placed, layout)
    for each in {word: 1 for job in jobs for word in job.words}:
        check_adapters(subjects or (), start, each)
    say(outlook(jobs, out, release, place, dtype, replaced=replaced, failed=len(failed)))
    started, read = time.monotonic(), {"controller": controller, "progress": True, "verify": verify}
    read["subjects"] = subjects or ()
    masks: dict[Path | None, Any] = {}
    jobs = looked_at.sound(
        jobs, looked_at.finding(masks, allowed, detector, segmenter, device=place), failed, alone=alone
    )
    pipeline = MGIEPipeline.from_pretrained(release, torch_dtype=kind, **read).to(place)
    loading = time.monotonic() - started
    total = sum(len(job.words) for job in jobs)
    pipeline.set_progress_bar_config(disable=total > 1)
    asked = {
        "num_inference_steps": steps, "guidance_scale": guidance, "image_guidance_scale": image_guidance,
        "size": size, "images": held, "preserve": preserve, "region": region, "regions": placed,
        "layout": layout, "start": start, "detail": detail,
    }  # fmt: skip
    rows: list[dict[str, Any]] = []
    seen: list[Seen] = []
    heard: dict[Any, Any] = {}
    bar = tqdm(total=total, desc="edit", unit="picture", disable=total == 1)

    def paint(job: Job) -> None:
        photo = None if job.photo is None else open_photo(job.photo)
        picture = None if photo is None else photo.picture
        for each, target in zip(job.words, job.targets):
            begun = time.monotonic()
            # Another seed changes nothing of what is said.
            key = (job.photo, each, len(job.words))
            if key not in heard or len(job.words) > 1:
                heard.clear()
                heard[key] = pipeline.imagine(picture, each, images=held)
            result = pipeline(
                picture, each, imagined=heard[key], seed=job.seed, mask=masks[job.photo], **asked
            )
            write_whole(result.images[0], target, like=photo, lossless=exact, strip=strip)
            row = {"photo": str(job.photo or ""), "out": str(target), "instruction": each, "seed": job.seed}
            row |= facts_of(result) | {"seconds": round(time.monotonic() - begun, 2)}
            if photo is not None and photo.deep:
                row["deep"] = True
            if captions:
                write_text(row["said"] + "\n", target.with_suffix(".txt"))
            if page is not None:
                before = None if picture is None else thumbnail(picture)
                after = thumbnail(result.images[0])
                seen.append(Seen(before=before, after=after, instruction=each, said=row["said"]))
            rows.append(row)
            picture = result.images[0]
            bar.update()
            if total > 1:
                say(f"{target.name}: {row['said'] or '(nothing)'} ({row['seconds']:.1f} s)")

    with bar:
        looked_at.sound(jobs, paint, failed, alone=alone)
    written = write_sheets(seen, page)
    seconds = time.monotonic() - started
    return {
        "model": str(model), "seed": seed, "device": str(place), "dtype": dtype, "loading": round(loading, 1),
        "seconds": round(seconds, 1), "edits": rows, "sheets": written, "failed": failed,
    }  # fmt: skip
