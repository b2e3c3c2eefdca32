"""The records that flow through the program. Nothing here computes.

Axes, used in every shape comment of this repository
    b batch   t text tokens   k visual tokens   q condition tokens   r rows: branches of guidance x samples
    n controlled instances   l tokens of a phrase   f width of reference tokens
    m images seen by CLIP   s side of such an image   p patches of it   dp their numbers   dv vision width
    j pictures inside instructions
    d language-model width   e condition width   v vocabulary   c channels
    y x height and width in pixels   h w height and width in latents

Spaces, used in every name
    clip_pixels   what CLIP sees: normalised with CLIP's mean and deviation; squares, or patches of all images
    pixels        what the codec sees: in [-1, 1]
    latents       what the denoiser sees: `noisy` and `target` scaled, `source` as its codec says
    states        last hidden states of the language model, after its final norm
    condition     what the denoiser attends to
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, Literal, Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

Box = tuple[float, float, float, float]
"""x0 y0 x1 y1, as parts of the picture's width and height."""
Size = tuple[int, int]
"""Width and height in pixels."""
PICTURE, SOURCE = "<image>", "<source>"
"""Where a picture belongs in an instruction that contains some, and where the photo itself."""
Looks = Float[Tensor, "m 3 s s"] | Float[Tensor, "_ dp"]
"""What a vision tower sees: squares, or patches of pictures of any size, one after the other."""
Source = Float[Tensor, "_ c h w"] | tuple[Float[Tensor, "_ _ _ _"], ...] | None
"""The picture before the edit, in latents; several, of any sizes, for denoisers that see such; or none."""
Record = TypeVar("Record")


@dataclass(frozen=True, kw_only=True, slots=True)
class Region:
    """A place in a picture, and what belongs there."""

    phrase: str
    """What is to be there, in words."""
    box: Box | None = None
    mask: bytes | None = None
    """A one-channel picture, white inside, as large as the picture; the box follows from it."""
    scales: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """How strongly cross-attention, enhancement and aggregation act (MIGC++, Zhou et al. 2024)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Instruction:
    """Words with pictures between them."""

    parts: tuple[str | int | None, ...]
    """Words, the number of a picture that came with them, or None for the photo itself: "replace the circle
    in <source> by <image>" is ("replace the circle in", None, "by", 0)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EditPair:
    """One edit as it is stored: two pictures and the words between them.

    Pictures are the bytes of a file, as they came.
    """

    key: str
    """Stable name, unique in its data set; error messages and random draws refer to it."""
    instruction: str
    """What the user asks for; `<image>` stands for each of `pictures`, `<source>` for the source."""
    target: bytes
    """The picture after the edit."""
    source: bytes | None = None
    """The picture before the edit. None: there is none (generation)."""
    expressive: str = ""
    """What the result will look like, in words. Empty: not known (yet)."""
    mask: bytes | None = None
    """A one-channel picture, white where the edit is allowed."""
    regions: tuple[Region, ...] = ()
    """What belongs where in the target."""
    pictures: tuple[bytes, ...] = ()
    """Pictures that the instruction contains, in its order."""
    subjects: tuple[str, ...] = ()
    """Names of the learnt subjects that the target shows."""
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
class ControlBatch:
    """Where things belong, in the pictures of a batch; padded to the most instances of a picture."""

    boxes: Float[Tensor, "b n 4"]
    """As `Box`."""
    present: Bool[Tensor, "b n"]
    """False on padding."""
    phrases: Int[Tensor, "b n l"]
    """In the tokens of who reads them, -1 behind the last; no column where they are read elsewhere."""
    scales: Float[Tensor, "b n 3"]
    stencils: UInt8[Tensor, "b n y x"] | None = None
    """Masks of the instances; None where all are boxes."""
    mask: Float[Tensor, "b 1 y x"] | None = None
    """1 where the edit is allowed. None: everywhere."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """One pair, ready to be batched. Lengths differ between examples."""

    input_ids: Int[Tensor, " t"]
    labels: Int[Tensor, " t"]
    """The ids to be predicted, IGNORE elsewhere; not shifted."""
    read_at: Int[Tensor, " k"]
    """Positions whose states become the visual tokens."""
    clip_pixels: Looks
    source: Float[Tensor, "3 y x"]
    """Pixels in [-1, 1]; zeros where there is no source."""
    has_source: bool
    target: Float[Tensor, "3 y x"]
    key: str
    clip_features: Float[Tensor, "_ p dv"] | None = None
    """The vision tower's features, where they were stored: then `clip_pixels` is empty."""
    source_moments: Float[Tensor, "c2 h w"] | None = None
    """Means, then deviations of the codec's posterior, where they were stored: then there are no pixels."""
    target_moments: Float[Tensor, "c2 h w"] | None = None
    pictures: Float[Tensor, "j 3 _ _"] | None = None
    """Pixels of the pictures inside the instruction, in its order. None: there are none."""
    pictures_at: Int[Tensor, " j"] | None = None
    """The first position of each."""
    extras: Mapping[str, Tensor] = field(default_factory=dict)
    """As in `Asked`."""
    loss_mask: Float[Tensor, "1 y x"] | None = None
    """1 where errors of the painting count in full. None: everywhere."""
    weight: float = 1.0
    """How much those of this example count."""
    controls: ControlBatch | None = None
    """Its regions, where they are learnt: a batch of one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pictures:
    """Pictures inside the instructions of a batch, one after the other: j of them."""

    at: Int[Tensor, "j 2"]
    """Row of each one, and the first of its positions in that row's ids."""
    pixels: Float[Tensor, "j 3 _ _"] | None = None
    """What the codec sees of them. None: latents are known."""
    latents: Float[Tensor, "j c _ _"] | None = None
    """Not scaled; put in by who has the codec."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """Examples side by side, padded on the right."""

    input_ids: Int[Tensor, "b t"]
    labels: Int[Tensor, "b t"]
    mask: Bool[Tensor, "b t"]
    """True where there is a token, False on padding."""
    read_at: Int[Tensor, "b k"]
    clip_pixels: Looks
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
    source_mean: Float[Tensor, "b c h w"] | None = None
    """What Codec.moments gives of the source first, where it was stored: then there are no pixels."""
    target_mean: Float[Tensor, "b c h w"] | None = None
    target_std: Float[Tensor, "b c h w"] | None = None
    """With `target_mean`, what Codec.moments gives of the target."""
    controls: ControlBatch | None = None
    pictures: Pictures | None = None
    extras: Mapping[str, Tensor] = field(default_factory=dict)
    """As in `Asked`."""
    loss_mask: Float[Tensor, "b 1 y x"] | None = None
    """1 where errors of the painting count in full. None: everywhere."""
    weight: Float[Tensor, " b"] | None = None
    """How much those of each sample count. None: all alike."""

    @property
    def label_tokens(self) -> int:
        """How many positions have a label that something stands before."""
        return int((self.labels[:, 1:] >= 0).sum())

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch with its tensors on `device`."""
        return moved(self, device)


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """What an encoder is asked to answer: prompts, and the pictures that they speak of."""

    input_ids: Int[Tensor, "b t"]
    mask: Bool[Tensor, "b t"]
    """True where there is a token; prompts are padded on the left, of encoders that are mute on the right."""
    clip_pixels: Looks
    """Of all pictures, in the order of their placeholders."""
    pictures: Pictures | None = None
    extras: Mapping[str, Tensor] = field(default_factory=dict)
    """What one family of encoders needs besides, made by its prompts: grids of patches, positions."""

    def to(self, device: torch.device | str) -> "Asked":
        """The same with its tensors on `device`."""
        return moved(self, device)


@dataclass(frozen=True, kw_only=True, slots=True)
class Condition:
    """What a denoiser is told, row by row."""

    tokens: Float[Tensor, "r q e"]
    mask: Bool[Tensor, "r q"] | None = None
    """True where there is a condition token. None: everywhere."""
    pooled: Float[Tensor, "r pe"] | None = None
    """One state for all of the words (SDXL)."""
    sizes: Float[Tensor, "r 6"] | None = None
    """Original, crop and target sizes (SDXL)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Context:
    """What an encoder understood: the condition of each sample, and the condition that says nothing."""

    condition: Condition
    null: Condition
    """"No words", for dropped conditions in training and for guidance in sampling: one row for all, or one a
    sample. Its mask None: that of whom it replaces."""
    states: Float[Tensor, "b t d"] | None = None
    """The language model's states, where there is one: its loss is computed from them."""
    references: Float[Tensor, "b k f"] | None = None
    """Tokens of reference pictures, for attention beside the condition."""
    references_mask: Bool[Tensor, "b k"] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What an encoder made of prompts."""

    context: Context
    said: tuple[tuple[int, ...], ...]
    """Ids that it said for each sample, without what only steers the denoiser; empty if it is mute."""
    forced: tuple[bool, ...]
    """Which samples never came to the visual tokens by themselves."""
    pooled: Float[Tensor, "b e"] | None = None
    """One state for each sample's words, behind the last of them, of encoders that have such."""


@dataclass(frozen=True, kw_only=True)
class Guess:
    """What a denoiser answers. Without slots: ZeRO 3 looks for tensors in what a module returns."""

    mean: Float[Tensor, "b c h w"]
    """Noise, velocity or sample, as its process asks for."""
    spread: Float[Tensor, "b c h w"] | None = None
    """A learned variance (Nichol and Dhariwal 2021), of denoisers that have one."""


Branch = Literal["T", "I", "U", "R"]
"""A question of guidance: T words and picture, I picture alone, U neither; R as I, of a reference."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rows:
    """Which row of a denoiser's batch asks what: all samples of the first branch, then of the next."""

    names: tuple[Branch, ...]
    batch: int
    copies: int = 1
    """Rows of one sample side by side, where it attends to several contexts."""

    def of(self, name: Branch) -> slice:
        """The rows of one branch."""
        count = self.batch * self.copies
        at = self.names.index(name)
        return slice(at * count, (at + 1) * count)

    def each(self, values: Tensor) -> Tensor:
        """What each sample has, (b, ...), for each row: (r, ...)."""
        return values.repeat_interleave(self.copies, 0).repeat(len(self.names), *[1] * (values.ndim - 1))


@dataclass(frozen=True, kw_only=True, slots=True)
class Site:
    """An attention layer of a denoiser."""

    name: str
    """Such as "mid_block.attentions.0.transformer_blocks.0.attn2"."""
    cross: bool
    """Whether it attends to the condition, not to the picture itself."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AttentionCall:
    """One attention layer at work, p positions attending."""

    site: Site
    attn: Any
    """The layer: a diffusers `Attention`."""
    states: Float[Tensor, "r p c"]
    context: Float[Tensor, "r q e"] | None
    """What is attended to. None: the states themselves."""
    bias: Float[Tensor, "r _ q"] | None
    """Added to the scores, for all heads alike: 0 where a token counts, very negative where it does not."""
    grid: Size
    """Height and width of the layer: their product is p."""
    rows: Rows
    read: Callable[[Tensor], Tensor] | None = None
    """What the denoiser makes of a condition before its layers attend to it. None: nothing."""

    def heard(self, condition: Float[Tensor, "r q e"]) -> Float[Tensor, "r q f"]:
        """A condition as it is attended to here."""
        told = condition.to(self.states)
        return told if self.read is None else self.read(told)


@runtime_checkable
class AttentionHook(Protocol):
    """Goes around an attention: it calls `attend`, as often as it likes, and gives the states that follow."""

    @property
    def order(self) -> int:
        """The least is innermost: 10 regions, 20 layouts, 30 identity and references."""
        ...

    @property
    def during(self) -> tuple[float, float]:
        """In which part of the sampling it acts, from 0 to 1; the end is not part of it."""
        ...

    def wants(self, site: Site) -> bool:
        """Whether it has something to say there."""
        ...

    def __call__(
        self, call: AttentionCall, attend: Callable[[AttentionCall], Tensor]
    ) -> Float[Tensor, "r p c"]:
        """What comes out; rows that it has nothing to say about keep their bits."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class AttentionPlan:
    """What a denoiser hands to its attention layers."""

    hooks: tuple[AttentionHook, ...]
    grid: Size
    """Height and width of the latents."""
    rows: Rows
    read: Callable[[Tensor], Tensor] | None = None
    """As that of an AttentionCall."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """A place between the blocks of a UNet, before that block: inputs from 1, outputs from 0."""

    part: Literal["input", "middle", "output"]
    index: int = 0


@runtime_checkable
class FeatureHook(Protocol):
    """Changes what flows into the blocks of a UNet, beside a row R of the reference."""

    @property
    def during(self) -> tuple[float, float]:
        """As of an `AttentionHook`."""
        ...

    def __call__(
        self, point: Point, states: Float[Tensor, "r c _ _"], rows: Rows, grid: Size, /
    ) -> Float[Tensor, "r c _ _"]:
        """The states before a block; `grid` is height and width of the latents."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class ControlPlan:
    """How controls act while a picture is painted. Empty: not at all."""

    attention: tuple[AttentionHook, ...] = ()
    features: FeatureHook | None = None
    blend: Callable[[Tensor, int], Tensor] | None = None
    """(latents, step) -> latents, after each step of the sampler, at the level of noise it has reached."""
    guidance: Float[Tensor, "b 1 h w"] | None = None
    """How strongly the words count at each place, instead of the one number."""
    finish: tuple[Callable[[Tensor], Tensor], ...] = ()
    """Decoded pixels -> pixels, one after the other."""
    loss_weight: Float[Tensor, "b 1 h w"] | None = None
    """How much each place counts in training."""
    losses: Mapping[str, Callable[[], Tensor]] = field(default_factory=dict)
    """A controller's own losses, read after the forward pass."""

    @property
    def given(self) -> tuple[str, ...]:
        """Names of the controls that it has."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return tuple(name for name, value in values.items() if value is not None and value not in ((), {}))

    @property
    def inner(self) -> "ControlPlan":
        """What acts within the denoiser."""
        return ControlPlan(attention=self.attention, features=self.features)

    def at(self, progress: float) -> "ControlPlan":
        """What acts at this part of the sampling, from 0 to 1."""
        return replace(
            self,
            attention=tuple(hook for hook in self.attention if _acts(hook, progress)),
            features=self.features if self.features and _acts(self.features, progress) else None,
        )


def _acts(hook: AttentionHook | FeatureHook, progress: float) -> bool:
    start, end = hook.during
    return start <= progress < end


@dataclass(frozen=True, kw_only=True, slots=True)
class Draws:
    """Everything random in one training step, drawn outside the model."""

    posterior: Float[Tensor, "b c h w"]
    """Standard normal that turns the codec's posterior of the target into a sample."""
    noise: Float[Tensor, "b c h w"]
    """Standard normal that corrupts the target."""
    t: Int[Tensor, " b"] | Float[Tensor, " b"]
    """Diffusion time of each sample, from 0 (clean) to as many as there are (noise); it may be fractional."""
    keep: Float[Tensor, " b"]
    """Uniform in [0, 1); decides which conditions are dropped."""
    pictures: Float[Tensor, "j c _ _"] | None = None
    """Standard normal that turns the codec's posteriors of pictures inside instructions into samples."""
    slots: Int[Tensor, "b s"] | None = None
    """Which slot each slot of a layout's aggregation is compared as, where a layout is learnt."""
    placed: Float[Tensor, " b"] | None = None
    """Uniform in [0, 1), with `slots`; decides whose regions are left out."""
    known: Float[Tensor, " b"] | None = None
    """Uniform in [0, 1); decides whose look is left out, where looks are learnt."""

    def to(self, device: torch.device | str) -> "Draws":
        """The same draws on `device`."""
        return moved(self, device)


@dataclass(frozen=True, kw_only=True, slots=True)
class Term:
    """One loss of a batch as a sum and a count, so that the mean of a step does not depend on how the
    step was split."""

    sum: Float[Tensor, ""]
    count: int | Int[Tensor, ""]
    """What is to be divided by: tokens, samples."""


Losses = Mapping[str, Term]
"""The losses of a batch by name."""


def moved(record: Record, device: torch.device | str) -> Record:
    """The same record with all its tensors on `device`, those of records inside it too."""
    held: Any = record
    return replace(held, **{f.name: _moved(getattr(held, f.name), device) for f in fields(held)})


def _moved(value: Any, device: torch.device | str) -> Any:
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, tuple):
        return tuple(_moved(inner, device) for inner in value)
    if isinstance(value, Mapping):
        return {name: _moved(inner, device) for name, inner in value.items()}
    return moved(value, device) if is_dataclass(value) and not isinstance(value, type) else value
