"""Where the things of a layout lie: masks at the sizes of picture, latents and layers.

A mask is reduced twice, from the picture to the latents and from there to a layer, as MIGC's weights were
trained (Zhou et al., CVPR 2024). Its values become fractions at the edges and stay so.
"""

import torch
from einops import rearrange
from jaxtyping import Bool, Float, UInt8
from torch import Tensor
from torch.nn import functional

Grid = tuple[int, int]
"""Height and width, in pixels, latents or positions of a layer."""


def rectangles(boxes: Float[Tensor, "*n 4"], grid: Grid) -> Float[Tensor, "*n y x"]:
    """1 in each box and 0 outside; upper ends are excluded, and all ends cut off rather than rounded.

    Boxes are x0 y0 x1 y1 in [0, 1]; their own precision decides where an end falls.
    """
    y, x = grid
    left, top, right, bottom = (boxes.unbind(-1)[side][..., None] for side in range(4))
    rows, columns = (torch.arange(count, device=boxes.device) for count in grid)
    down = (rows >= (top * y).floor()) & (rows < (bottom * y).floor())
    across = (columns >= (left * x).floor()) & (columns < (right * x).floor())
    return (down[..., :, None] & across[..., None, :]).float()


def instance_masks(
    boxes: Float[Tensor, "b n 4"],
    present: Bool[Tensor, "b n"],
    grid: Grid,
    stencils: UInt8[Tensor, "b n y x"] | None = None,
) -> Float[Tensor, "b n y x"]:
    """Masks of the instances in [0, 1] at the picture's size: stencils, boxes where those are empty.

    Padding has zeros.
    """
    masks = rectangles(boxes, grid)
    if stencils is not None:
        drawn = rearrange(stencils.flatten(2).ne(0).any(-1), "b n -> b n 1 1")
        masks = torch.where(drawn, stencils.float() / 255, masks)
    return masks * rearrange(present, "b n -> b n 1 1")


def boxes_of(masks: Tensor) -> Float[Tensor, "*n 4"]:
    """The box of what is not zero in masks "*n y x": parts of width and height from first to last index.

    The last itself is the end, not the one after it, as the published systems have it. An empty mask has the
    box 0 0 0 0.
    """
    sides = []
    for axis in (-2, -1):  # along x, along y
        there = masks.ne(0).any(axis)
        count = there.shape[-1]
        places = torch.arange(count, device=masks.device)
        first = torch.where(there, places, count).amin(-1)
        last = torch.where(there, places, -1).amax(-1)
        sides.append([torch.where(last >= 0, end, 0).double() / count for end in (first, last)])
    (x0, x1), (y0, y1) = sides
    return torch.stack([x0, y0, x1, y1], dim=-1)


def background(masks: Float[Tensor, "b n y x"]) -> Float[Tensor, "b 1 y x"]:
    """What no instance covers."""
    return 1 - masks.sum(1, keepdim=True).clamp(max=1)


def reduced(masks: Float[Tensor, "b n _ _"], grid: Grid) -> Float[Tensor, "b n h w"]:
    """Bilinear, without smoothing, pixels meant by their centres; of the grid's own size, they stay.

    From the picture to the latents, and then from the latents to a layer: straight to the layer would give
    other fractions.
    """
    if not masks.shape[1]:
        return masks.new_zeros(len(masks), 0, *grid)
    return functional.interpolate(masks, size=grid, mode="bilinear", align_corners=False, antialias=False)


def made_visible(
    masks: Float[Tensor, "b n h w"], boxes: Float[Tensor, "b n 4"], present: Bool[Tensor, "b n"]
) -> Float[Tensor, "b n h w"]:
    """Give present instances that a layer's grid misses the one cell that their box's middle is in.

    The published systems pass over such instances in that layer.
    """
    h, w = masks.shape[-2:]
    middle = (boxes[..., :2] + boxes[..., 2:]) / 2
    column = (middle[..., 0] * w).floor().clamp(0, w - 1)
    row = (middle[..., 1] * h).floor().clamp(0, h - 1)
    down = torch.arange(h, device=masks.device) == row[..., None]
    across = torch.arange(w, device=masks.device) == column[..., None]
    missed = present & ~masks.flatten(2).ne(0).any(-1)
    cell = down[..., :, None] & across[..., None, :] & missed[..., None, None]
    return torch.where(cell, 1.0, masks)
