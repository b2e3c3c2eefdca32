"""All of the page that is no page: the loaded editor, its worker, and what was made."""

import hashlib
import tempfile
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from mgie.data.photo_files import FORMATS, Photo, read_photo, suffix_of, write_whole
from mgie.errors import ConfigError, DataError
from mgie.pipeline import MGIEPipeline
from mgie.request import Imagined
from mgie.web.asked import Asked, Bounds, asked, inside
from mgie.web.history import PICTURE, Histories, History, Turn, noted, without_loss
from mgie.web.preview import Colours, as_file
from mgie.web.worker import Ticket, Worker

REMEMBERED = 16
"""What was understood of so many pictures and instructions is kept: other seeds paint it again."""
EVERY = 0.25
"""Seconds between two previews, at least."""


@dataclass(frozen=True, kw_only=True)
class Abilities:
    """What a release can be asked for."""

    photos: bool
    """Whether it sees a picture before an edit; else it paints new ones only."""
    boxes: bool
    """Whether phrases have places."""
    pictures: bool
    """Whether instructions may hold pictures."""
    steps: int
    """At most."""
    size: int
    """In pixels, unless a request asks for another."""


class Service:
    """An editor that serves requests one after the other."""

    def __init__(self, pipeline: MGIEPipeline, *, bounds: Bounds | None = None):
        """Serve this editor, which nobody else may use meanwhile."""
        self.pipeline, self.bounds = pipeline, bounds or Bounds()
        pipeline.set_progress_bar_config(disable=True)
        self.histories = Histories(int(self.bounds.memory * 2**20))
        self.worker = Worker(waiting=self.bounds.waiting, seconds=self.bounds.seconds)
        self.edits = 0
        self._imagined: OrderedDict[str, Imagined] = OrderedDict()
        self._decoding = threading.BoundedSemaphore(2)
        multiple = pipeline.codec.space.factor * pipeline.denoiser.multiple
        self._colours = Colours.of(pipeline.codec, side=min(pipeline.size, 256), multiple=multiple)

    @property
    def can(self) -> Abilities:
        """What may be asked for."""
        pipeline = self.pipeline
        return Abilities(
            photos=pipeline.denoiser.sees_source, boxes="attention" in pipeline.denoiser.heeds,
            pictures=pipeline.prompts.reads_pictures,
            steps=int(pipeline.scheduler.config["num_train_timesteps"]), size=pipeline.size,
        )  # fmt: skip

    def begin(self, owner: str, file: bytes, *, name: str = "") -> Turn:
        """A picture that somebody brings, as the first turn of a tree; `name` tells its format only. Raises
        DataError."""
        return self.histories.add(owner, **self._brought(file, name))

    def _brought(self, file: bytes, name: str) -> dict[str, Any]:
        self.bounds.check_file(file, name=PICTURE)
        with self._decoding:  # large ones take memory
            photo = read_photo(file, name=PICTURE)
        suffix = suffix_of(Path(Path(name).name or "picture.png")).lower()
        bare = Photo(
            picture=Image.new("RGB", (1, 1)), exif=photo.exif, profile=photo.profile, deep=photo.deep
        )
        return {"file": file, "suffix": suffix, "like": bare}

    def ask(self, owner: str, given: dict[str, Any], *, file: bytes | None = None, name: str = "") -> Ticket:
        """A place in the queue for a request (`asked`): of a turn of the owner's, or of a picture's `file`,
        which is then the first turn of a history that nobody keeps. Raises DataError, ConfigError and
        DeviceError."""
        request = asked(given, bounds=self.bounds, places=self.can.pictures)
        history = History()
        if file is not None:
            base = history.add(**self._brought(file, name))
        elif request.base is not None:
            base = self.histories.of(owner).get(request.base)
        else:
            base = None
        self._check(request, base)
        kept = owner if file is None else None
        return self.worker.submit(owner, lambda ticket: self._edit(ticket, request, base, kept))

    def _check(self, request: Asked, base: Turn | None) -> None:
        can = self.can
        if base is None and can.photos and not can.pictures:
            raise DataError("there is no picture: drop one on the page first, or choose an example.")
        if base is not None and not can.photos:
            raise DataError("this editor paints new pictures only: take the picture away.")
        if request.images and not can.pictures:
            raise DataError("this editor reads no pictures in instructions: leave them out.")
        if request.regions and not can.boxes:
            raise DataError("this editor paints no boxes: leave them out.")
        if request.steps is not None and request.steps > can.steps:
            raise ConfigError(f"steps is {request.steps}: expected at most {can.steps} with this editor.")

    def cancel(self, owner: str) -> int:
        """Cancel what an owner waits for; how many requests that were."""
        return self.worker.cancel(owner)

    def leave(self, owner: str) -> None:
        """A page was closed: nobody waits for its edit, and its pictures are kept a little longer."""
        self.cancel(owner)
        self.histories.leave(owner)

    def close(self) -> None:
        """End the worker."""
        self.worker.close()

    # In the worker.

    def _edit(self, ticket: Ticket, request: Asked, base: Turn | None, keep: str | None) -> list[Turn]:
        """The edits of a request: what the model says first, then each picture."""
        picture = None if base is None else base.picture
        images = inside(request.images)
        imagined = self._imagine(request, base, picture, images)
        steps = request.steps or self.pipeline.config.num_inference_steps
        ticket.tell(
            said=imagined.said[0], forced=imagined.forced[0], steps=steps, count=request.count
        )  # fmt: skip
        ticket.check()
        made = []
        for number in range(request.count):
            ticket.tell(stage="painting", number=number, step=0)
            began = time.monotonic()
            seed = (request.seed + number) % 2**63
            result: Any = self.pipeline(
                picture, request.instruction, images=images, imagined=imagined, seed=seed,
                mask=request.mask, regions=list(request.regions) or None,
                num_inference_steps=request.steps, guidance_scale=request.guidance,
                image_guidance_scale=request.image_guidance, size=request.size,
                detail=request.detail and base is not None,
                callback_on_step_end=self._watch(ticket, picture),
            )  # fmt: skip
            facts = {
                "seed": seed, "steps": request.steps, "guidance": request.guidance,
                "image_guidance": request.image_guidance, "size": request.size,
                "forced": imagined.forced[0], "seconds": round(time.monotonic() - began, 2),
            }  # fmt: skip
            if result.outside_change is not None:
                facts["outside_change"] = result.outside_change[0]
            turn = {
                "parent": None if base is None else base.number, "file": without_loss(result.images[0]),
                "suffix": ".png" if base is None or request.mask is not None else base.suffix,
                "like": None if base is None else base.like, "instruction": request.instruction,
                "said": imagined.said[0], "facts": {k: v for k, v in facts.items() if v is not None},
            }  # fmt: skip
            made.append(History().add(**turn) if keep is None else self.histories.add(keep, **turn))
            self.edits += 1
        return made

    def _imagine(self, request: Asked, base: Turn | None, picture: Any, images: Any) -> Imagined:
        """What the model understands; of the same picture and words it is not computed again."""
        files = [b"" if base is None else base.file, *request.images, request.instruction.encode("utf-8")]
        key = hashlib.sha256(b"".join(hashlib.sha256(each).digest() for each in files)).hexdigest()
        if key not in self._imagined:
            self._imagined[key] = self.pipeline.imagine(picture, request.instruction, images=images)
        self._imagined.move_to_end(key)
        while len(self._imagined) > REMEMBERED:
            self._imagined.popitem(last=False)
        return self._imagined[key]

    def _watch(self, ticket: Ticket, picture: Image.Image | None) -> Any:
        """What tells a ticket of each step, and ends the work where it should end."""
        size = (1, 1) if picture is None else picture.size
        shown = 0.0

        def watch(pipeline: Any, step: int, t: Any, given: dict[str, Any]) -> dict[str, Any]:
            nonlocal shown
            del pipeline, t
            ticket.check()
            told: dict[str, Any] = {"step": step + 1}
            if time.monotonic() - shown > EVERY:
                shown = time.monotonic()
                told["preview"] = as_file(self._colours.picture(given["latents"][0], size))
            ticket.tell(**told)
            return given

        return watch


def write_turn(turn: Turn, folder: Path, *, strip: bool) -> Path:
    """The file that somebody downloads: with what lay beside the first photo and a note of what was asked and
    said, or with nothing but its pixels. The folder has it alone."""
    suffix = turn.suffix if turn.suffix in FORMATS else ".png"
    place = Path(tempfile.mkdtemp(dir=folder)) / f"edit-{turn.number}{'-plain' if strip else ''}{suffix}"
    like = noted(turn)
    write_whole(like.picture, place, like=like, strip=strip, lossless="outside_change" in turn.facts)
    return place
