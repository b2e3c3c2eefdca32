"""What a run on one's own subjects learns from, drawn anew for each position of its order."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from PIL import Image
from torch.utils.data import Dataset

from mgie.data.images import encode
from mgie.data.orders import generator
from mgie.errors import ConfigError, DataError
from mgie.personalization.segmix import SegMixConfig, Style, compose, cut_out, mixed_caption, sample_placement
from mgie.personalization.subjects import Photo, Subject
from mgie.types import EditPair


@dataclass(frozen=True, kw_only=True)
class SubjectsConfig:
    """How one's own subjects are learnt, when `data.path` is a folder of them."""

    prior: str | None = None
    """Folder with pictures of what the subjects are instances of (class_metadata.jsonl): half of the samples.
    None: there are none."""
    segmix: SegMixConfig = field(default_factory=SegMixConfig)
    """How often, and how, cut-outs are mixed."""


STREAM = 0x5E6
"""Sets these draws apart from all others of the same seed."""
PHOTO, PRIOR, EPOCH = range(3)
Choice = TypeVar("Choice")


class SubjectPairs(Dataset[EditPair]):
    """Photos of the subjects and, at times, canvases on which several of them are mixed (MuDI, Jang et al.
    2024), as pairs without a source. All that is random in a pair is a function of (seed, its position): the
    same one in any worker, process or resumed run.

    With a `prior` (pictures of what the subjects are instances of, in the subjects' order), every second
    position is one of its pictures, or a canvas of them where its neighbour is one.
    """

    def __init__(
        self,
        subjects: Sequence[Subject],
        *,
        size: int,
        seed: int,
        batch_size: int,
        prior: Sequence[Subject] | None = None,
        segmix: SegMixConfig | None = None,
    ):
        """`size`: side of the pictures; `batch_size`: samples of a step, by which `segmix.start_step` counts.

        Raises ConfigError where there is nothing to mix, DataError for a photo without a mask that may be
        mixed.
        """
        self.subjects, self.prior, self.segmix = (
            tuple(subjects),
            prior and tuple(prior),
            segmix or SegMixConfig(),
        )
        self.size, self.seed, self.batch_size = size, seed, batch_size
        if prior and batch_size % 2:
            raise ConfigError(
                f"batches of {batch_size} with a prior: expected an even number, half of it for the prior."
            )
        self.photos = [(number, photo) for number, each in enumerate(self.subjects) for photo in each.photos]
        if self.segmix.prob:
            self._check()

    def __len__(self) -> int:
        """Positions until each photo has come once."""
        return len(self.photos) * (2 if self.prior else 1)

    def __getitem__(self, position: int) -> EditPair:
        """The pair at a position of the endless order."""
        visit, is_prior = divmod(position, 2) if self.prior else (position, 0)
        epoch, turn = divmod(visit, len(self.photos))
        at = int(generator(self.seed, STREAM, EPOCH, epoch).permutation(len(self.photos))[turn])
        number, photo = self.photos[at]
        rng = generator(self.seed, STREAM, PHOTO, visit)
        mixes = (
            bool(rng.random() < self.segmix.prob) and position // self.batch_size >= self.segmix.start_step
        )
        if not is_prior:
            return self._pair(rng, position, self.subjects, number, photo, mixes=mixes)
        assert self.prior
        rng = generator(self.seed, STREAM, PRIOR, visit)
        photo = _one(rng, self.prior[number].photos)
        return self._pair(rng, position, self.prior, number, photo, mixes=mixes)

    def _pair(
        self,
        rng: np.random.Generator,
        position: int,
        subjects: Sequence[Subject],
        number: int,
        photo: Photo,
        *,
        mixes: bool,
    ) -> EditPair:
        task = "subject" if subjects is self.subjects else "prior"
        if mixes:
            image, mask, caption, shown = self._mixed(rng, subjects, number, photo, level=task == "prior")
        else:  # as published: all of a photo counts, its ground too
            image, mask, shown = _cropped(rng, photo, self.size), None, [number]
            caption = _one(rng, photo.captions)
        return EditPair(
            key=f"{task}-{position}",
            instruction=caption,
            expressive=caption,
            target=encode(image, "BMP"),
            mask=mask and encode(mask, "BMP"),
            subjects=tuple(self.subjects[each].name for each in shown) if task == "subject" else (),
            task=task,
            kind="mixed" if mixes else "photo",
        )

    def _mixed(
        self, rng: np.random.Generator, subjects: Sequence[Subject], number: int, photo: Photo, *, level: bool
    ) -> tuple[Image.Image, Image.Image, str, list[int]]:
        others = [each for each in range(len(subjects)) if each != number]
        count = min(_one(rng, self.segmix.together), len(subjects))
        shown = [number, *(others[int(at)] for at in rng.permutation(len(others))[: count - 1])]
        photos = [photo, *(_one(rng, subjects[each].photos) for each in shown[1:])]
        cuts = [cut_out(each) for each in photos]
        style: Style = "mudi" if level else self.segmix.style
        placement = sample_placement(
            rng, [cut.image.size for cut in cuts], canvas=self.size, config=self.segmix,
            scales=None if level else [self.segmix.scales.get(subjects[each].name) for each in shown],
            level=level, in_order=level,
        )  # fmt: skip
        composed = compose(cuts, placement, self.size)
        caption = mixed_caption([subjects[each].phrase for each in shown], placement, style)
        return composed.image, Image.fromarray(composed.union), caption, shown

    def _check(self) -> None:
        names = [each.name for each in self.subjects]
        if len(names) < 2:
            raise ConfigError(
                f"Seg-Mix with one subject, {', '.join(names)}: expected two or more; or say --segmix.prob 0."
            )
        unknown = set(self.segmix.scales) - set(names)
        if unknown:
            known = ", ".join(names)
            raise ConfigError(f"segmix.scales names {min(unknown)!r}: expected some of {known}.")
        for each in (*self.subjects, *(self.prior or ())):
            for photo in each.photos:
                if photo.mask is None:
                    raise DataError(
                        f"{photo.name} of {each.name!r} has no mask: expected one, to mix subjects."
                    )


def _cropped(rng: np.random.Generator, photo: Photo, size: int) -> Image.Image:
    """A square part of a photo, whose shorter side becomes `size`."""
    scale = size / min(photo.image.size)
    fitted = (max(size, round(photo.image.width * scale)), max(size, round(photo.image.height * scale)))
    left, top = (int(rng.integers(side - size + 1)) for side in fitted)
    box = (left, top, left + size, top + size)
    return photo.image.resize(fitted, Image.Resampling.BILINEAR).crop(box)


def _one(rng: np.random.Generator, choices: Sequence[Choice]) -> Choice:
    return choices[int(rng.integers(len(choices)))]
