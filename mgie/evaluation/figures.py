"""The figures of a report by name: headings, how they are printed, and which way is better."""

from dataclasses import dataclass
from typing import Literal

Better = Literal["higher", "lower"]


@dataclass(frozen=True, slots=True)
class Figure:
    """How one figure is shown."""

    heading: str
    form: str
    """Format of its number."""
    better: Better | None = None
    """None: neither way."""


FIGURES: dict[str, Figure] = {
    "n": Figure("items", "{}"),
    "right": Figure("judged right", "{:.0%}", "higher"),
    "control_right": Figure("right, other's words", "{:.0%}", "lower"),
    "l1_ratio": Figure("L1 / copy's L1", "{:.3f}", "lower"),
    "said_exactly": Figure("said as expected", "{:.0%}", "higher"),
    "l1": Figure("L1", "{:.4f}", "lower"),
    "l2": Figure("L2", "{:.4f}", "lower"),
    "psnr": Figure("PSNR", "{:.2f}", "higher"),
    "ssim": Figure("SSIM", "{:.3f}", "higher"),
    "clip_i": Figure("CLIP-I", "{:.3f}", "higher"),
    "clip_t": Figure("CLIP-T", "{:.3f}", "higher"),
    "dino": Figure("DINO", "{:.3f}", "higher"),
    **{f"lpips_{net}": Figure(f"LPIPS ({net})", "{:.4f}", "lower") for net in ("alex", "vgg", "squeeze")},
    "cmmd": Figure("CMMD", "{:.3f}", "lower"),
    "instance_success_rate": Figure("instances right", "{:.1%}", "higher"),
    "image_success_rate": Figure("pictures right", "{:.1%}", "higher"),
    "mean_iou": Figure("mIoU", "{:.3f}", "higher"),
    "strict_instance_success_rate": Figure("instances right, one to one", "{:.1%}", "higher"),
    "strict_image_success_rate": Figure("pictures right, one to one", "{:.1%}", "higher"),
    "in_place": Figure("in place", "{:.1%}", "higher"),
    "ap": Figure("AP", "{:.3f}", "higher"),
    "ap50": Figure("AP50", "{:.3f}", "higher"),
    "ap75": Figure("AP75", "{:.3f}", "higher"),
    "counts_right": Figure("counts right", "{:.1%}", "higher"),
    "all_counts_right": Figure("pictures with all counts right", "{:.1%}", "higher"),
    "miscounted": Figure("miscounted by", "{:.2f}", "lower"),
    "outside_change": Figure("greatest change outside", "{:.4f}", "lower"),
    "outside_equal": Figure("outside untouched", "{:.1%}", "higher"),
    "outside_l1": Figure("L1 outside", "{:.4f}", "lower"),
    "inside_l1": Figure("L1 inside", "{:.4f}", "lower"),
    "inside_change": Figure("change inside", "{:.4f}"),
    "seam": Figure("seam", "{:.2f}", "lower"),
    "dnc": Figure("D&C", "{:.3f}", "higher"),
    "dnc_greedy": Figure("D&C, greedy", "{:.3f}", "higher"),
    "number_right": Figure("as many as subjects", "{:.1%}", "higher"),
}
"""Name -> how it is shown."""


def figure(name: str, better: Better | None = None) -> Figure:
    """How a figure is shown: one that nobody declared by its own name, to four digits."""
    return FIGURES.get(name, Figure(name, "{:.4f}", better))
