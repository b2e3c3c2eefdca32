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
}
"""Name -> how it is shown."""


def figure(name: str, better: Better | None = None) -> Figure:
    """How a figure is shown: one that nobody declared by its own name, to four digits."""
    return FIGURES.get(name, Figure(name, "{:.4f}", better))
