"""The first stage of an evaluation: a system edits a benchmark's pictures, file by file.

What is made together in one call is a matter of the chunk alone (`shards.chunks_of`), and the noise of a
picture one of (seed, key). So neither the number of processes nor a kill changes a byte: a batch of which
some are missing is made again as a whole, and what was missing is written.
"""

import hashlib
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Protocol, runtime_checkable

from PIL.Image import Image
from tqdm import tqdm

from mgie.data.images import decode, encode, fitted_size, resize, upright
from mgie.errors import DataError
from mgie.evaluation.run_folder import MADE, OUTPUTS, RunFolder, sha
from mgie.evaluation.shards import Shard
from mgie.lines import say


@runtime_checkable
class Edits(Protocol):
    """What an editing system gives back: one entry for each picture."""

    images: list[Image]
    said: list[str]
    forced: list[bool]


@runtime_checkable
class Editing(Protocol):
    """Whatever edits pictures by instructions: MGIEPipeline, or another system to compare it with. One that
    has an `identity`, a text that is another one for other weights or settings, is known again when an
    evaluation of it goes on."""

    size: int
    """Side in pixels that pictures are edited at."""

    def __call__(
        self, image: list[Image] | None, prompt: list[str], /, *, seed: list[int], **options: Any
    ) -> Edits:
        """Edit each picture by the instruction at its place, with noise from the seed at its place; None:
        paint new ones."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One picture to be made."""

    output: str
    """Name of its file."""
    key: str
    """What its noise depends on, beside the run's seed."""
    unit: str
    """What is made by one process: the turns of a session, an edit and its control."""
    instruction: str
    source: Callable[[], bytes] | None
    """File of the picture that is edited. None: there is none, a new one is painted."""
    after: str = ""
    """Output of an earlier turn, which is edited instead of the source."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """What the call is given over the options of the run."""
    controls: Mapping[str, Callable[[], Any]] = field(default_factory=dict)
    """What the call is given of this picture alone, by the call's names: its mask, its regions, the pictures
    in its instruction; read when it is made. A benchmark's plan knows them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Making:
    """How all pictures of a run are made."""

    seed: int
    batch_size: int
    """How many pictures are edited in one call."""
    options: Mapping[str, Any]
    """What each call is given beside pictures, instructions and seeds."""
    side: int | None = None
    """Pictures are brought to about side x side pixels first. None: they are given as they are."""


def item_seed(seed: int, key: str) -> int:
    """Seed of the noise of one item: of nothing but the run's seed and its key."""
    digest = hashlib.sha256(f"evaluate/{seed}/{key}".encode(errors="surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generate(
    folder: RunFolder,
    jobs: Sequence[Job],
    chunks: Mapping[str, int],
    making: Making,
    system: Callable[[], Editing],
    shard: Shard,
    *,
    progress: bool = True,
) -> dict[str, dict[str, Any]]:
    """Make what the shard has to make and is not there; output -> what is known of it.

    `system` gives the editor, and is asked only if something is missing. Raises DataError where data were
    changed since, or cannot be read.
    """
    system = cache(system)
    found: dict[str, dict[str, Any]] = {}
    mine = [job for job in jobs if shard.owns(chunks[job.unit])]
    with tqdm(total=len(mine), desc="generate", unit="edit", disable=None if progress else True) as bar:
        for batch in batches(mine, chunks, making.batch_size):
            found |= _make(folder, batch, making, system)
            bar.update(len(batch))
    return found


def batches(jobs: Iterable[Job], chunks: Mapping[str, int], size: int) -> list[list[Job]]:
    """What is made in one call each: of one chunk, one turn and one set of options, all of them edits or all
    of them new pictures; earlier turns first."""
    depths: dict[str, int] = {}
    groups: dict[tuple[Any, ...], list[Job]] = defaultdict(list)
    for job in jobs:
        depths[job.output] = depths[job.after] + 1 if job.after else 0
        new = job.source is None and not job.after
        asked = (*sorted(job.options.items()), *sorted(job.controls))
        groups[chunks[job.unit], depths[job.output], new, asked].append(job)
    order = sorted(groups, key=lambda group: group[:3])
    return [groups[key][start : start + size] for key in order for start in range(0, len(groups[key]), size)]


def _make(
    folder: RunFolder, batch: list[Job], making: Making, system: Callable[[], Editing]
) -> dict[str, dict[str, Any]]:
    """Whatever of a batch is missing; all of it is edited, for a batch of others may give other bytes."""
    files = [_file(folder, job) for job in batch]
    known = [_known(folder, job, sha(file)) for job, file in zip(batch, files)]
    if None not in known:
        return {job.output: facts for job, facts in zip(batch, known) if facts}
    pictures = [decode(file, name=job.key) for job, file in zip(batch, files) if file] or None
    if making.side is not None:
        pictures = pictures and [resize(each, fitted_size(each.size, side=making.side)) for each in pictures]
    seeds = [item_seed(making.seed, job.key) for job in batch]
    editing, options = system(), {**making.options, **batch[0].options}
    if pictures is None and making.side is not None:
        options["size"] = making.side
    started = time.monotonic()
    own = {name: [job.controls[name]() for job in batch] for name in batch[0].controls}
    edited = editing(pictures, [job.instruction for job in batch], seed=seeds, **options, **own)
    seconds = (time.monotonic() - started) / len(batch)
    if not len(edited.images) == len(edited.said) == len(edited.forced) == len(batch):
        told = ", ".join(str(len(each)) for each in (edited.images, edited.said, edited.forced))
        raise DataError(
            f"the system gave {told} pictures, words and marks for {len(batch)} pictures: expected as "
            "many of each."
        )
    other = [type(each).__name__ for each in edited.images if not isinstance(each, Image)]
    if other:
        raise DataError(f"the system gave a picture of the type {other[0]}: expected Pillow's, of 8 bits.")
    for at, job in enumerate(batch):
        if known[at] is None:
            if (folder.out / f"{MADE}/{job.output}.json").exists():
                say(f"{job.output} was damaged, and is made again.")
            whole = upright(edited.images[at], name=f"the system's picture {job.output}")
            picture = encode(whole, "PNG")
            facts = {
                "key": job.key, "output": job.output, "sha256": sha(picture), "source": sha(files[at]),
                "instruction": job.instruction, "seed": seeds[at], "said": str(edited.said[at]),
                "forced": bool(edited.forced[at]), "seconds": round(seconds, 4),
            }  # fmt: skip
            folder.put(f"{OUTPUTS}/{job.output}", picture)
            folder.record(f"{MADE}/{job.output}", facts)
            known[at] = facts
    return {job.output: facts for job, facts in zip(batch, known) if facts}


def _file(folder: RunFolder, job: Job) -> bytes:
    """What is edited; nothing for a new picture."""
    if job.after:
        return (folder.out / OUTPUTS / job.after).read_bytes()
    return job.source() if job.source else b""


def _known(folder: RunFolder, job: Job, source: str) -> dict[str, Any] | None:
    """What is known of a picture that is there and was made from this source. Raises DataError where a
    benchmark's own picture is another one now."""
    facts = folder.made(job.output)
    if facts is not None and facts["source"] != source:
        if not job.after:
            raise DataError(
                f"{folder.out} has {job.output} made from another picture than {job.key} has now: the data "
                "were changed since; choose another --out."
            )
        return None
    return facts
