"""Regions with phrases as users give them, and what they mean for the painting of a call.

A file of them is a list: [{"phrase": "a red ball", "box": [0.1, 0.5, 0.4, 0.9]}, ...]. Instead of a box,
whose numbers are parts of width and height, a region may have a mask, the name of a picture beside that file.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Int, UInt8
from PIL import Image
from torch import Tensor

from llava_patch.ranges import check_ranges
from mgie.controllers.base import Setting, join
from mgie.controllers.layout_masks import boxes_of
from mgie.controllers.layout_options import LayoutOptions, worded
from mgie.controllers.masking import sized
from mgie.controllers.session import LayoutSession
from mgie.data.images import decode_mask
from mgie.data.validation import check_instruction, check_mask_shape, wrong_region
from mgie.diffusion.guidance import rows_of
from mgie.errors import ConfigError, DataError
from mgie.identities import Known
from mgie.instructions import PLACE
from mgie.types import Box, Context, ControlBatch, ControlPlan, Region, Size

if TYPE_CHECKING:
    from mgie.controllers.layout import LayoutBlocks
    from mgie.masks import Where


@dataclass(frozen=True, kw_only=True)
class Heard:
    """What the encoder made of all phrases of a call, picture after picture."""

    context: Context
    pooled: Tensor | None = None
    """One state each, where the encoder has such."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The regions of each picture of a call."""

    regions: tuple[tuple[Region, ...], ...]
    options: LayoutOptions
    blocks: "LayoutBlocks | None" = None
    """What was trained; None: the fuser alone."""

    def of_each(self, values: Sequence[Any]) -> list[Any]:
        """What each picture has, once for each of its regions."""
        return [value for value, regions in zip(values, self.regions) for _ in regions]

    @property
    def phrases(self) -> list[str]:
        """All phrases, picture after picture, as who reads them is told."""
        told = [region.phrase for regions in self.regions for region in regions]
        return told if self.blocks is None else [worded(self.blocks.way, phrase) for phrase in told]

    def heard(self) -> Heard | None:
        """What the blocks' own reader makes of the phrases; None where the editor's encoder reads them.
        Raises DataError for a phrase that is too long."""
        reader: Any = None if self.blocks is None else self.blocks.reader
        if reader is None:
            return None
        read = reader(reader.tokens(self.phrases)).condition
        plain = replace(read, pooled=None)
        return Heard(
            context=Context(condition=plain, null=plain), pooled=read.pooled
        )  # its null is not heard

    def plan(
        self, rows: Sequence[int], heard: Heard, context: Context, *, grid: Size, pixels: Size, multiple: int
    ) -> ControlPlan:
        """What the regions of some pictures, of `pixels` height and width, mean for their sampling over
        latents of height and width `grid`; `context` is what these pictures are told, and the denoiser takes
        latents of this `multiple`."""
        from mgie.controllers.layout import LayoutController

        chosen = [self.regions[row] for row in rows]
        most = max(map(len, chosen))
        if not most:
            return ControlPlan()
        index = torch.tensor([each for row in rows for each in self._places(row, most)])
        dtype = context.condition.tokens.dtype
        condition = rows_of(heard.context, index.tolist(), dtype).condition
        pooled = None if heard.pooled is None else heard.pooled[index].to(dtype)
        setting = Setting(
            grid=grid, context=context, pixels=pixels, phrases=replace(condition, pooled=pooled)
        )
        controller = LayoutController(self.options, blocks=self.blocks, depth=multiple.bit_length() - 1)
        return controller.plan(_controls(chosen, most, pixels), setting)

    def _places(self, row: int, most: int) -> Int[np.ndarray, " n"]:
        """Where a picture's phrases are among all; padding hears any of them, and is not heard itself."""
        first = sum(map(len, self.regions[:row]))
        own = np.arange(first, first + len(self.regions[row]))
        return np.concatenate([own, np.zeros(most - len(own), dtype=own.dtype)])


def _controls(chosen: Sequence[Sequence[Region]], most: int, pixels: Size) -> ControlBatch:
    """The regions of pictures of one size, padded."""
    count = len(chosen)
    boxes = torch.zeros(count, most, 4, dtype=torch.float64)
    present, scales = torch.zeros(count, most, dtype=torch.bool), torch.ones(count, most, 3)
    drawn = any(region.mask is not None for regions in chosen for region in regions)
    stencils = torch.zeros(count, most, *pixels, dtype=torch.uint8) if drawn else None
    for row, regions in enumerate(chosen):
        for place, region in enumerate(regions):
            present[row, place], scales[row, place] = True, torch.tensor(region.scales)
            if region.mask is not None and stencils is not None:
                stencils[row, place] = _stencil(region.mask, pixels)
            # Of the mask as it came: at the picture's size a small one may have vanished.
            boxes[row, place] = torch.tensor(box_of(region), dtype=torch.float64)
    return ControlBatch(
        boxes=boxes, present=present, scales=scales, stencils=stencils,
        phrases=torch.zeros(count, most, 0, dtype=torch.long),  # read by whoever reads the instruction
    )  # fmt: skip


def _stencil(mask: bytes, pixels: Size) -> UInt8[Tensor, "y x"]:
    values = torch.from_numpy(np.array(decode_mask(mask, name="a region's mask"))).float()
    return sized(values[None, None], pixels)[0, 0].round().to(torch.uint8)


@dataclass(frozen=True, kw_only=True)
class Controls:
    """What controls the painting of some pictures of a call, those in `rows`."""

    rows: list[int]
    plan: ControlPlan | None = None
    where: "Where | None" = None
    layout: tuple[Layout, Heard] | None = None
    session: LayoutSession | None = None
    identity: Known | None = None

    def joined(
        self,
        pixels: Tensor,
        context: Context,
        reference: Any,
        *,
        noise: Tensor,
        scheduler: Any,
        multiple: int,
        new: bool,
        own: ControlPlan | None = None,
    ) -> ControlPlan | None:
        """One plan of all, and of the encoder's `own`, for a sampling from `noise`; None where there is none.
        Raises ConfigError for what does not go together."""
        steps, grid = len(scheduler.timesteps), (noise.shape[-2], noise.shape[-1])
        told = {"plan": self.plan, "references": own}
        plans = {name: plan for name, plan in told.items() if plan is not None}
        if self.where is not None:
            plans["mask"] = self.where.plan(
                self.rows, pixels, context, reference, steps=steps, multiple=multiple
            )
        if self.identity is not None:
            plans["identity"] = self.identity.plan(self.rows)
        if self.layout is not None:
            layout, heard = self.layout
            size = (pixels.shape[-2], pixels.shape[-1])
            plans["layout"] = layout.plan(
                self.rows, heard, context, grid=grid, pixels=size, multiple=multiple
            )
        if self.session is not None:
            plans["session"] = self.session.plan(
                self._placed(), noise=noise, scheduler=scheduler, source=None if new else pixels
            )
        return join(plans) if len(plans) > 1 else next(iter(plans.values()), None)

    def _placed(self) -> tuple[tuple[str, Box], ...]:
        """The regions of the first picture, by phrase and box."""
        regions = () if self.layout is None else self.layout[0].regions[self.rows[0]]
        return tuple((region.phrase, box_of(region)) for region in regions)


def box_of(region: Region) -> Box:
    """The box of a region, or of its mask."""
    if region.mask is None:
        return region.box or (0.0, 0.0, 1.0, 1.0)
    drawn = torch.from_numpy(np.array(decode_mask(region.mask, name="a region's mask")))
    x0, y0, x1, y1 = boxes_of(drawn).tolist()
    return (x0, y0, x1, y1)


def layout_of(
    given: Any,
    sizes: Sequence[Size],
    *,
    options: LayoutOptions | None = None,
    blocks: "LayoutBlocks | None" = None,
    compat: str = "default",
    where: "Where | None" = None,
) -> Layout | None:
    """The regions of pictures of these widths and heights: a list for all, or one for each. None where none
    are given.

    Raises ConfigError and DataError for regions that are none, and for what no layout can do. `where` are the
    masks that the same edits are kept in.
    """
    check_layout(given is not None, options, compat=compat)
    if given is None:
        return None
    if not isinstance(given, Sequence) or isinstance(given, str):
        raise DataError(f"{given!r:.60} is a {type(given).__name__}: expected a list of regions.")
    for_all = all(isinstance(each, Region) for each in given)
    if odd := [] if for_all else [some for some in given if not isinstance(some, list | tuple)]:
        raise DataError(
            f"{odd[0]!r:.60} is a {type(odd[0]).__name__}: expected regions for all pictures, or a list of "
            "them for each."
        )
    each = [tuple(given)] * len(sizes) if for_all else [tuple(regions) for regions in given]
    if len(each) != len(sizes):
        raise DataError(
            f"there are {len(each)} lists of regions for {len(sizes)} pictures: expected one for all or one "
            "for each."
        )
    asked = options or LayoutOptions()
    acting = blocks if blocks is not None and asked.over(blocks.way).until else None
    for row, (regions, size) in enumerate(zip(each, sizes)):
        check_regions(regions, size)
        check_count(regions, asked, None if acting is None else acting.most)
        if where is not None:
            check_inside(regions, where.masks[row])
    return Layout(regions=tuple(each), options=asked, blocks=acting)


def check_layout(given: bool, options: LayoutOptions | None, *, compat: str = "default") -> None:
    """Refuse what no layout can do, before anything is loaded. Raises ConfigError."""
    if options is not None:
        check_ranges(options, name="layout")
        if options.around not in (None, "words", "nothing"):
            raise ConfigError(f"layout.around is {options.around!r}: expected words or nothing.")
        if not given:
            raise ConfigError("layout says how regions are painted, but there are none: give some.")
    if given and compat == "reference":
        raise ConfigError(
            'compat="reference" edits as the original program did, which has no regions: leave the regions '
            "or compat out."
        )


def check_regions(regions: Sequence[Any], size: Size) -> None:
    """Hold regions to their rules, for a picture of this width and height. Raises DataError."""
    for number, region in enumerate(regions, 1):
        if not isinstance(region, Region):
            raise DataError(f"{region!r:.60} is a {type(region).__name__}: expected a Region.")
        if wrong := wrong_region(region, size):
            raise DataError(f"region {number} {wrong}.")
        if place := PLACE.search(region.phrase):
            raise DataError(
                f"region {number} has {place[0]} in its phrase, which is words alone: show the picture in "
                "the instruction, and say in words what belongs into the region."
            )
        check_instruction(region.phrase)
        if region.mask is not None:
            mask = decode_mask(region.mask, name=f"the mask of region {number}")
            check_mask_shape(mask.size, size, name=f"the mask of region {number}")
            if not any(mask.getextrema()):
                raise DataError(f"the mask of region {number} is black: expected white where it belongs.")


def check_count(regions: Sequence[Region], options: LayoutOptions, most: int | None) -> None:
    """Refuse more regions than the layout's blocks take, where there are some. Raises ConfigError."""
    if most is not None and options.until != 0 and len(regions) > most:
        raise ConfigError(
            f"there are {len(regions)} regions for one picture: expected at most {most} with this "
            "controller; leave some out, or set layout.until to 0 for the fuser alone."
        )


def check_blocks(
    model: str | Path,
    controller: str | Path | None,
    regions: Sequence[Region] | None,
    options: LayoutOptions | None,
) -> None:
    """Refuse, before weights are read, regions that the blocks of a release, or of `controller`, do not take.
    Raises ConfigError and WeightsError."""
    if regions is None:
        if controller is not None:
            raise ConfigError("a controller paints regions, and there are none: leave it out, or give some.")
        return
    from mgie.weights.controllers import most_regions

    check_count(regions, options or LayoutOptions(), most_regions(Path(model), controller))


def check_session(given: bool, pictures: int, *, masked: bool, compat: str) -> None:
    """Refuse calls that no session remembers. Raises ConfigError."""
    if given and (pictures != 1 or masked or compat != "default"):
        raise ConfigError(
            "a session is for one picture in each call, without a mask and in our own way: leave it out."
        )


def check_inside(regions: Sequence[Region], mask: Bool[np.ndarray, "y x"]) -> None:
    """Refuse a region that could never show. Raises DataError."""
    height, width = mask.shape
    for number, region in enumerate(regions, 1):
        if region.mask is None:
            x0, y0, x1, y1 = region.box or (0.0, 0.0, 1.0, 1.0)
            inside = mask[int(y0 * height) : int(y1 * height) + 1, int(x0 * width) : int(x1 * width) + 1]
        else:
            drawn = decode_mask(region.mask, name=f"the mask of region {number}")
            inside = mask & (np.asarray(drawn.resize((width, height), Image.Resampling.BILINEAR)) > 0)
        if not inside.any():
            raise DataError(
                f"region {number} lies wholly outside the mask, where nothing may change: move it, or make "
                "the mask larger."
            )
