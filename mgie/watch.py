"""What a run looks at on the way: a few edits, losses of held-out pairs, figures of suites."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image
from torch import nn

from mgie.build import Parts, build_release, frozen_short
from mgie.build_data import build_examples
from mgie.config import RunConfig
from mgie.data.batches import collate
from mgie.data.images import decode, square, upright_size
from mgie.data.photo_files import open_photo
from mgie.data.regions import cropped
from mgie.data.side_by_side import ROWS, Seen, sheets, thumbnail
from mgie.data.stored_pairs import StoredPairs
from mgie.errors import ConfigError
from mgie.evaluation.in_training import Watch
from mgie.evaluation.report import Item, sheet
from mgie.evaluation.shards import Shard
from mgie.jobs import Job, read_list
from mgie.pipeline import EditOutput, MGIEPipeline
from mgie.training.draws import draws_for
from mgie.training.task import EditTask
from mgie.training.world import World
from mgie.types import Batch, EditPair, Region
from mgie.weights import checkpoint
from mgie.weights.checkpoint import TrainState

BEST = "best"
"""Folder in a run's: a checkpoint without the optimizer's state, to be extracted as a run is."""
LARGEST = 1024
"""Longer side in pixels of one's own photos, as they are kept while a run trains."""
Own = tuple[Job, Image.Image]
"""What is asked for, and the photo."""


def measured(
    run: RunConfig, parts: Parts, world: World, watch: Watch, state: TrainState
) -> tuple[dict[str, int | float], bool]:
    """Figures of the editor as it is now, and whether it is the best one until now; each process makes and
    scores its part."""
    if world.is_main:
        watch.forget(state.samples)
    world.wait()
    pipeline = MGIEPipeline.from_release(build_release(parts, run))
    pipeline.set_progress_bar_config(disable=True)
    short = torch.autocast(world.device.type, torch.bfloat16, enabled=frozen_short(run, world.device))
    with at_rest(parts.editor), short:
        facts = watch.measure(
            state.samples, lambda: pipeline, Shard(world.rank, world.size), device=world.device
        )

    def tell() -> tuple[dict[str, int | float], bool]:
        assert facts, "the first process reports"
        kept = checkpoint.latest(run.folder / BEST)
        return watch.figures(facts), watch.is_best(state.samples, facts, kept)

    return world.from_main(tell)


def own_photos(run: RunConfig) -> list[Own]:
    """The instructions of the run's user that are shown on the way, with their photos: read now, so that the
    files are not needed again, and made smaller.

    Raises DataError, and ConfigError for more than a sheet has rows.
    """
    if run.preview.photos is None:
        return []
    jobs = read_list(Path(run.preview.photos), run.folder / "previews", seed=run.seed)
    if len(jobs) > ROWS:
        raise ConfigError(
            f"{run.preview.photos} lists {len(jobs)} edits: expected at most {ROWS} in preview.photos, for "
            "all of them are made at every preview."
        )
    own = []
    for job in jobs:
        assert job.photo
        photo = open_photo(job.photo).picture
        photo.thumbnail((LARGEST, LARGEST))
        own.append((job, photo))
    return own


def check_shown(own: Sequence[Own], parts: Parts) -> None:
    """Refuse photos for an editor that sees none. Raises ConfigError."""
    if own and not parts.editor.denoiser.sees_source:
        raise ConfigError(
            "preview.photos is for editors, and this denoiser sees no picture before the edit: leave it out."
        )


def preview(run: RunConfig, parts: Parts, device: torch.device, own: Sequence[Own] = ()) -> Image.Image:
    """A few edits as the editor makes them now, with what it said: of one's `own` photos before and after, or
    of held-out pairs, beside their targets."""
    pipeline = MGIEPipeline.from_release(build_release(parts, run))
    pipeline.set_progress_bar_config(disable=True)
    # What is frozen may be in bfloat16, beside what is trained in float32.
    short = torch.autocast(device.type, torch.bfloat16, enabled=frozen_short(run, device))
    with at_rest(parts.editor), short:
        return _of_photos(pipeline, own) if own else _of_pairs(pipeline, run)


def _of_photos(pipeline: MGIEPipeline, own: Sequence[Own]) -> Image.Image:
    seen = []
    for job, photo in own:
        edited = pipeline(photo, job.words[0], seed=job.seed)
        assert isinstance(edited, EditOutput)
        small, made = thumbnail(photo), thumbnail(edited.images[0])
        seen.append(Seen(before=small, after=made, instruction=job.words[0], said=edited.said[0]))
    return sheets(seen)[0]


def _of_pairs(pipeline: MGIEPipeline, run: RunConfig) -> Image.Image:
    held_out = StoredPairs(run.data.path, "test")
    pairs = [held_out[index] for index in range(min(run.preview.count, len(held_out)))]

    def shown(data: bytes, pair: EditPair) -> Image.Image:
        return square(decode(data, name=pair.key), run.data.size)

    items = []
    for new in (False, True):  # edited, and painted from nothing
        group = [pair for pair in pairs if (pair.source is None) is new]
        if not group:
            continue
        sources = [shown(pair.source, pair) for pair in group if pair.source is not None]
        edited = pipeline(
            sources or None, [pair.instruction for pair in group], seed=run.seed,
            size=run.data.size if new else None, regions=regions_shown(run, group),
        )  # fmt: skip
        assert isinstance(edited, EditOutput)
        items += [
            Item(
                key=pair.key, kind=pair.kind, instruction=pair.instruction, expected=pair.expressive,
                said=edited.said[at], forced=edited.forced[at],
                source=None if new else sources[at], output=edited.images[at],
                target=shown(pair.target, pair),
            )
            for at, pair in enumerate(group)
        ]  # fmt: skip
    return sheet(items, run.name)


def regions_shown(run: RunConfig, pairs: Sequence[EditPair]) -> list[list[Region]] | None:
    """The regions of pairs in the middle squares of their pictures; None of a run that learns none."""
    if "layout" not in run.train.groups:
        return None
    sizes = [upright_size(pair.target, name=pair.key) for pair in pairs]
    squares = [(min(size), min(size)) for size in sizes]
    found = [cropped(pair.regions, size, shape) for pair, size, shape in zip(pairs, sizes, squares)]
    return [list(regions[: run.train.layout.most]) for regions in found]


@contextmanager
def at_rest(model: nn.Module) -> Iterator[None]:
    """Not in training inside: what recomputes activations cannot speak word by word."""
    trained = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in trained:
            module.training = True


def held_out_losses(run: RunConfig, parts: Parts, task: EditTask, device: torch.device) -> dict[str, float]:
    """Losses of the first held-out pairs, by name: of the words, and of the painting at each level of noise.

    Pairs, noise and levels are the same whenever it is asked, whatever else the run draws.
    """
    builder = replace(build_examples(run, parts.prompts, parts.editor), shapes=None, transforms=())
    pairs, step = StoredPairs(run.data.path, "test"), run.train.micro_batch(1)
    sums: dict[str, float] = {}
    counts: dict[str, int] = {}
    short = torch.autocast(device.type, torch.bfloat16, enabled=run.train.precision == "bf16")
    with at_rest(parts.editor), short:
        for start in range(0, min(run.validation.count, len(pairs)), step):
            positions = tuple(range(start, min(start + step, run.validation.count, len(pairs))))
            some = (pairs[index] for index in positions)
            most = run.train.layout.most
            examples = [builder(replace(pair, regions=pair.regions[:most])) for pair in some]
            batch: Batch = collate(examples, positions=positions, pad_id=builder.pad_id)
            batch = replace(batch, extras=builder.together([each.extras for each in examples], batch.mask))
            shape = parts.editor.codec.latent_shape(*batch.target.shape[-2:])
            draws = draws_for(0, positions, latent_shape=shape, process=parts.process, shift=1.0)
            for name, term in task.held_out(
                batch.to(device), draws.to(device), run.validation.levels
            ).items():
                sums[name] = sums.get(name, 0.0) + float(term.sum)
                counts[name] = counts.get(name, 0) + int(term.count)
    return {name: total / max(counts[name], 1) for name, total in sums.items()}
