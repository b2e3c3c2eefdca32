"""The records that flow through the program. Nothing here computes.

Axes, used in every shape comment of this repository
    b batch   t text tokens   k visual tokens   q condition tokens   n controlled instances
    m images seen by CLIP   s side of such an image   d language-model width   e condition width
    v vocabulary   c channels
    y x height and width in pixels   h w height and width in latents

Spaces, used in every name
    clip_pixels   what CLIP sees: normalised with CLIP's mean and deviation
    pixels     what the codec sees: in [-1, 1]
    latents    what the denoiser sees: `noisy` and `target` scaled by the codec's factor, `source` not
    states     last hidden states of the language model, after its final norm
    condition  what the denoiser attends to
"""

from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class EditPair:
    """One edit as it is stored: two pictures and the words between them.

    Pictures are the bytes of a file, as they came.
    """

    key: str
    """Stable name, unique in its data set; error messages and random draws refer to it."""
    instruction: str
    """What the user asks for."""
    target: bytes
    """The picture after the edit."""
    source: bytes | None = None
    """The picture before the edit. None: there is none (generation)."""
    expressive: str = ""
    """What the result will look like, in words. Empty: not known (yet)."""
    mask: bytes | None = None
    """A one-channel picture, white where the edit is allowed."""
    task: str = "edit"
    """Which task of a mixture the pair belongs to."""
    kind: str = ""
    """Which kind of edit it is ("recolour", "remove", ...), for reports; empty where nobody knows."""
    session: str = ""
    """Name of the sequence of turns that this edit belongs to (MagicBrush); empty for a single edit."""
    turn: int = 0
    """Place in its session, from 1; 0 for a single edit."""
    weight: float = 1.0
    """How much the pair counts in a weighted mixture."""
    meta: dict[str, str] = field(default_factory=dict)
    """Facts that a source knows and a judge or a filter may ask for, all as text."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """One pair, ready to be batched. Lengths differ between examples."""

    input_ids: Int[Tensor, " t"]
    labels: Int[Tensor, " t"]
    """The ids to be predicted, IGNORE elsewhere; not shifted."""
    read_at: Int[Tensor, " k"]
    """Positions whose states become the visual tokens."""
    clip_pixels: Float[Tensor, "m 3 s s"]
    source: Float[Tensor, "3 y x"]
    """Pixels in [-1, 1]; zeros where there is no source."""
    has_source: bool
    target: Float[Tensor, "3 y x"]
    key: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """Examples side by side, padded on the right."""

    input_ids: Int[Tensor, "b t"]
    labels: Int[Tensor, "b t"]
    mask: Bool[Tensor, "b t"]
    """True where there is a token, False on padding."""
    read_at: Int[Tensor, "b k"]
    clip_pixels: Float[Tensor, "m 3 s s"]
    """CLIP pixels of all images, in the order of their placeholders."""
    source: Float[Tensor, "b 3 y x"]
    has_source: Bool[Tensor, " b"]
    target: Float[Tensor, "b 3 y x"]
    keys: tuple[str, ...]
    """What to name when something goes wrong."""
    positions: tuple[int, ...]
    """Place of each sample in the run's data order, counted over all epochs; random draws derive from it."""
    features: Float[Tensor, "_ p dv"] | None = None
    """The vision tower's features of all images, where they were stored: then `clip_pixels` is empty."""

    @property
    def label_tokens(self) -> int:
        """How many positions have a label that something stands before."""
        return int((self.labels[:, 1:] >= 0).sum())

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch with its tensors on `device`."""
        moved = {
            name: value.to(device, non_blocking=True)
            for name in self.__slots__
            if isinstance(value := getattr(self, name), Tensor)
        }
        return replace(self, **moved)


@dataclass(frozen=True, kw_only=True, slots=True)
class Context:
    """What the denoiser is told: the condition of each sample, and the condition that says nothing."""

    tokens: Float[Tensor, "b q e"]
    null: Float[Tensor, "1 q e"]
    """The condition of "no words", for dropped conditions in training and for guidance in sampling."""
    mask: Bool[Tensor, "b q"] | None = None
    """True where there is a condition token. None: everywhere."""
    states: Float[Tensor, "b t d"] | None = None
    """The language model's states, where there is one: the speaking loss is computed from them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Draws:
    """Everything random in one training step, drawn outside the model."""

    posterior: Float[Tensor, "b c h w"]
    """Standard normal that turns the codec's posterior of the target into a sample."""
    noise: Float[Tensor, "b c h w"]
    """Standard normal that corrupts the target."""
    t: Int[Tensor, " b"]
    """Diffusion time of each sample, 0 (clean) to T - 1 (noise)."""
    keep: Float[Tensor, " b"]
    """Uniform in [0, 1); decides which conditions are dropped."""

    def to(self, device: torch.device | str) -> "Draws":
        """The same draws on `device`."""
        return Draws(**{name: getattr(self, name).to(device, non_blocking=True) for name in self.__slots__})


@dataclass(frozen=True, kw_only=True, slots=True)
class Losses:
    """Sums and counts, so that the mean over a step does not depend on how the step was split."""

    speak: Float[Tensor, ""]
    """Sum of cross-entropies over the spoken positions."""
    spoken: Int[Tensor, ""]
    """How many positions were spoken."""
    edit: Float[Tensor, ""]
    """Sum over the samples of each sample's mean squared error."""
    align: Float[Tensor, ""]
    """Sum over the samples of the condition's distance from the text encoder's; zero where none teaches."""
    samples: int
    """How many samples."""
