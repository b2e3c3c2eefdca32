"""Where an edit may change a photo: masks as users give them, and what stays as it was.

A mask is a picture, white where something may change, or a box (x0, y0, x1, y1) in parts of the photo's width
and height, or "auto": then the editor looks where the words matter. Everything here is at the photo's own
size, but for what is said to be otherwise.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Real
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from PIL import Image
from torch import Tensor

from llava_patch.ranges import check_ranges
from mgie.controllers.base import Setting
from mgie.controllers.masking import mixed, sized
from mgie.controllers.region import Preserve, RegionController, RegionOptions
from mgie.controllers.softening import composite, feathered, grown
from mgie.data.grounding import check_box
from mgie.data.images import decode_mask, upright_mask
from mgie.errors import ConfigError, DataError
from mgie.models.finders import check_finders
from mgie.types import Box, Context, ControlBatch, ControlPlan, Size, moved

AUTO = "auto"
Mask = Image.Image | Sequence[float | int] | Literal["auto"]
"""A picture, a box, or `AUTO`."""
PHRASE = "phrase:"
"""What a mask on the command line begins with that is to be found by words."""
HALF = 0.5
"""Of how much the words matter where they do most: from there on a place belongs to an automatic mask."""
SHAPE = 0.02
"""By so much the shape of a mask may differ from its photo's: what rounding does to a small one."""
WHITE = 128


@dataclass(frozen=True, kw_only=True)
class Where:
    """Photos with a mask each, upright and in colours."""

    photos: tuple[Image.Image, ...]
    masks: tuple[Bool[np.ndarray, "_ _"], ...]
    preserve: Preserve
    options: RegionOptions
    auto: tuple[int, ...] = ()
    """Rows whose masks are still to be found: until then, all of the photo."""

    def found(self, contrasts: Mapping[int, Float[Tensor, "1 h w"]]) -> "Where":
        """The same with masks for the rows of `auto`, of how much the words matter at each place, in [0, 1].

        Raises DataError where they do not matter.
        """
        masks = list(self.masks)
        for row, contrast in contrasts.items():
            width, height = self.photos[row].size
            if not contrast.any():
                raise DataError(
                    f"no mask was found for picture {row + 1}: its words change nothing in it; use other "
                    "words, or draw the mask."
                )
            smooth = torch.nn.functional.interpolate(
                contrast[None].float().cpu(), (height, width), mode="bilinear", align_corners=False
            )
            # A photo may be smaller than the latents.
            inside = (smooth >= min(HALF, smooth.max().item()))[0, 0].numpy()
            masks[row] = _grown(inside, self.options)
        return replace(self, masks=tuple(masks), auto=())

    def repeated(self, each: int) -> "Where":
        """The same for `each` results of each photo; automatic masks are found before."""
        rows = [row for row in range(len(self.photos)) for _ in range(each)]
        photos, masks = (tuple(held[row] for row in rows) for held in (self.photos, self.masks))
        return replace(self, photos=photos, masks=masks)

    @property
    def empty(self) -> tuple[bool, ...]:
        """Which photos nothing may change in."""
        return tuple(not mask.any() for mask in self.masks)

    def plan(
        self,
        rows: Sequence[int],
        source: Float[Tensor, "b 3 y x"],
        context: Context,
        reference: Callable[[int], Tensor],
        *,
        steps: int,
        multiple: int,
    ) -> ControlPlan:
        """What the masks of some photos mean for their sampling: `source` is these at the size that they are
        edited at, `reference` their latents at its levels; the denoiser takes latents of this `multiple`."""
        height, width = source.shape[-2:]
        masks = [
            sized(torch.from_numpy(self.masks[row]).float()[None, None], (height, width)) for row in rows
        ]
        count, latents = len(rows), reference(steps)
        controls = ControlBatch(
            boxes=torch.zeros(count, 0, 4), present=torch.zeros(count, 0, dtype=torch.bool),
            phrases=torch.zeros(count, 0, 0, dtype=torch.long), scales=torch.zeros(count, 0, 3),
            mask=torch.cat(masks),
        )  # fmt: skip
        setting = Setting(
            grid=(latents.shape[-2], latents.shape[-1]), context=context, source=source, steps=steps,
            reference=reference,
        )  # fmt: skip
        controller = RegionController(self.options, preserve=self.preserve, depth=multiple.bit_length() - 1)
        return controller.plan(moved(controls, source.device), setting)

    def results(
        self, edited: list[Tensor], sources: list[Tensor], kind: str, show: Callable[[list[Tensor]], Any]
    ) -> dict[str, Any]:
        """Edited pictures as they are shown, with what is outside put back; masks; changes outside."""
        rows = range(len(edited))
        facts: dict[str, Any] = {"mask": [self.picture(row) for row in rows]}
        if kind == "latent":
            return facts | {"images": show(edited)}
        if kind == "pil":
            images, changes = [], []
            for row, image in zip(rows, show(edited)):
                alpha = self._alpha(self.masks[row])
                images.append(self.shown(row, image, alpha))
                changes.append(_change(images[-1], self.photos[row], alpha))
        else:
            pixels, changes = [], []
            for row, edit in enumerate(edited):
                alpha = self._alpha(self._at(row, edit))
                pixels.append(self.shown_pixels(row, edit, sources[row], alpha))
                changes.append(_change_of_pixels(pixels[-1], sources[row], alpha))
            images = show(pixels)
        return facts | {"images": images, "outside_change": changes}

    def shown(self, row: int, edit: Image.Image, alpha: Float[np.ndarray, "y x"]) -> Image.Image:
        """An edited photo with what is outside put back, byte by byte, where that is exact. `alpha` is how
        much of the edit shows."""
        if self.preserve != "exact" and not self.empty[row]:
            return edit
        return Image.fromarray(composite(np.asarray(edit), np.asarray(self.photos[row]), alpha))

    def shown_pixels(
        self,
        row: int,
        edit: Float[Tensor, "3 y x"],
        source: Float[Tensor, "3 y x"],
        alpha: Float[np.ndarray, "y x"],
    ) -> Float[Tensor, "3 y x"]:
        """The same of pixels at the size of the editing."""
        if self.preserve != "exact" and not self.empty[row]:
            return edit
        return mixed(torch.from_numpy(alpha).to(edit), edit, source.to(edit))

    def picture(self, row: int) -> Image.Image:
        """A mask as a picture, white where the edit was allowed."""
        return Image.fromarray(self.masks[row].astype(np.uint8) * 255)

    def _at(self, row: int, edit: Tensor) -> Bool[np.ndarray, "y x"]:
        _, height, width = edit.shape
        mask = torch.from_numpy(self.masks[row]).float()[None, None]
        return (sized(mask, (height, width)) >= 0.5)[0, 0].numpy()

    def _alpha(self, mask: Bool[np.ndarray, "y x"]) -> Float[np.ndarray, "y x"]:
        height, width = mask.shape
        return feathered(mask, self.options.scaled(self.options.feather, (width, height)))


def _change(edit: Image.Image, photo: Image.Image, alpha: Float[np.ndarray, "y x"]) -> float:
    """Greatest change of a value where nothing of the edit shows, in parts of the whole range."""
    values = [np.asarray(each)[alpha == 0].astype(np.int16) for each in (edit, photo)]
    return float(np.abs(values[0] - values[1]).max(initial=0) / 255)


def _change_of_pixels(
    edit: Float[Tensor, "3 y x"], source: Float[Tensor, "3 y x"], alpha: Float[np.ndarray, "y x"]
) -> float:
    change = (edit.float().clamp(-1, 1).cpu() - source.float().cpu()).abs().amax(dim=0) / 2
    return float(change.numpy()[alpha == 0].max(initial=0.0))


def where_of(
    given: Any,
    photos: Sequence[Image.Image],
    *,
    preserve: Preserve = "exact",
    options: RegionOptions | None = None,
    output_type: str = "pil",
    compat: str = "default",
) -> Where | None:
    """The masks of photos, which are upright: one for all, or one each. None where none is given.

    Raises ConfigError and DataError for masks that are none or do not fit, and for what no mask can do.
    """
    check_where(given is not None, preserve, options, output_type=output_type, compat=compat)
    if given is None:
        return None
    one = _is_box(given) or not isinstance(given, Sequence) or isinstance(given, str)
    several = [given] * len(photos) if one else list(given)
    if len(several) != len(photos):
        raise DataError(
            f"there are {len(several)} masks for {len(photos)} photos: expected one for all or one each."
        )
    asked = options or RegionOptions()
    auto = tuple(row for row, mask in enumerate(several) if isinstance(mask, str) and mask == AUTO)
    masks = [
        _grown(fitted_mask((0, 0, 1, 1) if row in auto else mask, photo.size), asked)
        for row, (mask, photo) in enumerate(zip(several, photos))
    ]
    return Where(photos=tuple(photos), masks=tuple(masks), preserve=preserve, options=asked, auto=auto)


def check_where(
    given: bool,
    preserve: str,
    options: RegionOptions | None,
    *,
    output_type: str = "pil",
    compat: str = "default",
) -> None:
    """Refuse what no mask can do, before anything is loaded. Raises ConfigError."""
    known = Preserve.__args__  # type: ignore[attr-defined]
    if preserve not in known:
        raise ConfigError(f"preserve is {preserve!r}: expected {', '.join(known)}.")
    if options is not None:
        check_ranges(options, name="region")
    if not given:
        if preserve != "exact" or options not in (None, RegionOptions()):
            raise ConfigError(
                "preserve and region say how a mask is heeded, but there is none: give a mask, or leave them "
                "out."
            )
        return
    if compat == "reference":
        raise ConfigError(
            'compat="reference" edits as the original program did, which has no masks: leave the mask or '
            "compat out."
        )
    if output_type == "latent" and preserve == "exact":
        raise ConfigError(
            'preserve="exact" is a promise about pixels, and output_type="latent" asks for none: take '
            "another output_type, or preserve soft."
        )


def check_heeds(options: RegionOptions | None, regions: bool, heeds: frozenset[str]) -> None:
    """Refuse what the denoiser of an editor does not heed; `regions`: whether there are some with phrases.
    Raises ConfigError."""
    if regions and "attention" not in heeds:
        raise ConfigError(
            "regions with phrases are painted by hooks of attention, which the denoiser of this editor does "
            "not heed: leave them out."
        )
    asked = [] if options is None else [name for name in ("features", "attention") if getattr(options, name)]
    if unheeded := [name for name in asked if name not in heeds]:
        raise ConfigError(
            f"region asks for {' and '.join(unheeded)}, but the denoiser of this editor heeds "
            f"{', '.join(sorted(heeds)) or 'neither'}: leave them out."
        )


@dataclass(frozen=True, kw_only=True)
class Phrase:
    """A mask that is to be found: all that these words name."""

    words: str


def read_mask(text: str) -> Image.Image | Box | Literal["auto"] | Phrase:
    """A mask from the command line: a file, x0,y0,x1,y1, auto, or "phrase:the dog". Raises DataError."""
    if text == AUTO:
        return AUTO
    if text.startswith(PHRASE):
        if not text.removeprefix(PHRASE).strip():
            raise DataError(f"the mask {text!r} names nothing: expected words, such as 'phrase:the dog'.")
        return Phrase(words=text.removeprefix(PHRASE).strip())
    parts = text.split(",")
    if len(parts) == 4 and not Path(text).exists():
        try:
            return _box([float(part) for part in parts], text)
        except ValueError:
            pass  # no numbers: the name of a file, then
    path = Path(text)
    if not path.is_file():
        raise DataError(
            f"there is no mask {text}: expected a picture's file, white where the photo may change, or "
            "x0,y0,x1,y1 in parts of its width and height, such as 0.1,0.2,0.5,0.9, or auto, or "
            "'phrase:the dog'."
        )
    return decode_mask(path.read_bytes(), name=text)


def check_finding(mask: Any, detector: str | Path | None, segmenter: str | Path | None) -> None:
    """Refuse what cannot find the words of a mask, before any weight is read. Raises ConfigError and
    WeightsError."""
    if isinstance(mask, Phrase):
        check_finders(detector, segmenter)
    elif detector is not None or segmenter is not None:
        raise ConfigError(
            "detector and segmenter find what a mask names in words, but there are none: give --mask "
            "'phrase:the dog', or leave them out."
        )


def fitted_mask(mask: Any, size: Size, *, name: str = "the photo") -> Bool[np.ndarray, "_ _"]:
    """A mask over a photo of this width and height: True where it may change. Raises DataError, calling the
    photo `name`."""
    width, height = size
    if _is_box(mask):
        x0, y0, x1, y1 = _box([float(each) for each in mask], str(tuple(mask)))
        inside = np.zeros((height, width), dtype=bool)
        left, top = min(round(x0 * width), width - 1), min(round(y0 * height), height - 1)
        inside[top : max(round(y1 * height), top + 1), left : max(round(x1 * width), left + 1)] = True
        return inside
    if not isinstance(mask, Image.Image):
        said = " ".join(repr(mask).split())[:60]
        raise DataError(
            f"{said} is a {type(mask).__name__}: expected a mask as a PIL picture (Image.fromarray makes one "
            "of an array), a box (x0, y0, x1, y1) in parts of the photo's width and height, or 'auto'."
        )
    grey = mask.mode == "L" or mask.mode.startswith("I")  # 8 or 16 bits
    most: Any = mask.getextrema()[1] if grey else 0
    mask = mask if mask.mode == "L" and not mask.getexif() else upright_mask(mask, name="the mask")
    most = max(most, mask.getextrema()[1])
    if most > 0 and mask.getextrema()[1] < WHITE:
        raise DataError(
            f"the mask's values go up to {most}, so nothing in it is white: expected 255 of 255 (or 65535 "
            "of 65535) where the photo may change; multiply them."
        )
    if mask.size != size:
        apart = mask.width / mask.height * height / width
        if not 1 / (1 + SHAPE) <= apart <= 1 + SHAPE:
            raise DataError(
                f"the mask has {mask.width} x {mask.height} pixels and {name} {width} x {height}: "
                "expected the same shape; draw the mask over the whole photo."
            )
        mask = mask.resize(size, Image.Resampling.BILINEAR)
    return np.asarray(mask) >= WHITE


def _grown(mask: Bool[np.ndarray, "y x"], options: RegionOptions) -> Bool[np.ndarray, "y x"]:
    height, width = mask.shape
    return grown(mask, options.scaled(options.grow, (width, height)))


def _is_box(given: Any) -> bool:
    return (
        isinstance(given, (tuple, list))
        and len(given) > 0
        and all(isinstance(each, Real) and not isinstance(each, bool) for each in given)
    )


def _box(numbers: Sequence[float], said: str) -> Box:
    if len(numbers) != 4:
        raise DataError(
            f"the mask {said} has {len(numbers)} numbers: expected four, x0, y0, x1, y1, as parts of width "
            "and height."
        )
    box = (numbers[0], numbers[1], numbers[2], numbers[3])
    check_box(box, "the mask's box")
    return box
