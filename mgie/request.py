"""What an edit may be asked for: held to its rules here, whoever asks."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor

from llava_patch.ranges import check_ranges
from mgie.data.examples import ExampleBuilder
from mgie.data.express import clean_up
from mgie.data.images import fitted_size, quick_resize, resize, to_image, upright
from mgie.data.validation import check_instruction
from mgie.diffusion.sampling import Generators
from mgie.errors import ConfigError, DataError
from mgie.instructions import PLACE, check_counts
from mgie.prompts import AbstractPrompts, Compat, Conversation
from mgie.ranges import NewTokens, Ngram, Scale, Side, Steps
from mgie.types import Context, Size
from mgie.weights import limits
from mgie.weights.limits import Limits

Shown = Literal["pil", "np", "pt", "latent"]
"""What pictures are handed out as."""
Fitted = tuple[Image.Image, Size | None]
"""A picture at the size that it is edited at, and the one that it is brought back to."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How pictures are edited, in the names of diffusers' pipelines."""

    num_inference_steps: Steps
    guidance_scale: Scale
    image_guidance_scale: Scale
    size: Side
    """Side in pixels of a square as large as the pictures are edited at."""
    max_new_tokens: NewTokens
    no_repeat_ngram_size: Ngram
    compat: Compat

    @classmethod
    def of(cls, own: Mapping[str, Any], limits: Limits, **asked: Any) -> "Sampling":
        """An editor's own settings, with what is asked for over them. Raises ConfigError."""
        told = {name: value for name, value in asked.items() if value is not None}
        sampling = cls(**{f.name: told.get(f.name, own[f.name]) for f in fields(cls)})
        if sampling.compat not in ("default", "reference"):
            raise ConfigError(f"compat is {sampling.compat!r}: expected default or reference.")
        check_ranges(sampling)
        limits.check(steps=sampling.num_inference_steps, size=sampling.size)
        return sampling


@dataclass(frozen=True, kw_only=True)
class Imagined:
    """What the model understood of pictures and instructions: can be painted many times."""

    context: Context
    said: list[str]
    forced: list[bool]
    pooled: Tensor | None = None
    """One state for each sample's words, of encoders that have such."""


def check_request(
    model: str | Path,
    instructions: Sequence[str],
    *,
    pictures: int,
    steps: int | None,
    size: int | None,
    dtype: torch.dtype,
    device: torch.device,
    new: bool = False,
    inside: int | None = None,
) -> None:
    """Refuse, before weights are read, what the editor on disk cannot do with so many pictures at a time;
    `inside`: how many pictures are in the instruction.

    Raises DataError, ConfigError and WeightsError. Of a hub id too little is known; the pipeline asks again.
    """
    for instruction in instructions:
        check_instruction(instruction, pictures=inside)
    sees = limits.check_release(model, steps=steps, size=size, pictures=pictures, dtype=dtype, device=device)
    if sees is not None:
        check_source(not new, masked=False, sees=sees, compat="default")


def asked_of(
    image: Any, prompt: Any, images: Any, *, places: bool
) -> tuple[list[Any], list[str], list[list[Image.Image]]]:
    """Pictures, instructions and the pictures inside these, one entry for each; `places`: whether a model
    reads such. Raises DataError."""
    pictures, instructions = pairs_of(image, prompt, places=places or images is not None)
    return pictures, instructions, inside_of(images, instructions, places=places)


def pairs_of(
    image: Image.Image | Sequence[Image.Image] | None, prompt: str | Sequence[str], *, places: bool = False
) -> tuple[list[Any], list[str]]:
    """Pictures and instructions, one for each: one instruction may serve several pictures, one picture
    several instructions; None for each picture where there are none. `places`: whether instructions may have
    some for pictures. Raises DataError."""
    instructions = [prompt] if isinstance(prompt, str) else list(_several(prompt, str, "instruction"))
    pictures = [None] * len(instructions) if image is None else pictures_of(image, len(instructions))
    instructions *= len(pictures) if len(instructions) == 1 else 1
    if not pictures or len(pictures) != len(instructions):
        raise DataError(
            f"there are {len(pictures)} pictures and {len(instructions)} instructions: expected at "
            "least one picture and one instruction, and one for all or one for each."
        )
    for instruction in instructions:
        check_instruction(PLACE.sub(" ", instruction) if places else instruction)
    return pictures, instructions


def inside_of(images: Any, instructions: Sequence[str], *, places: bool = True) -> list[list[Image.Image]]:
    """The pictures inside each of these instructions: those of all, or its own; none where they may have no
    `places` for them. Raises DataError."""
    count, what = len(instructions), "PIL picture inside an instruction"
    if images is not None and not places:
        raise DataError(
            "there are pictures for an instruction, and this model reads none in instructions: leave them "
            "out, or take another model."
        )
    given = [images] if isinstance(images, Image.Image) else [] if images is None else images
    if isinstance(given, Sequence) and any(isinstance(each, (list, tuple)) for each in given):
        if len(given) != count:
            raise DataError(
                f"there are pictures for {len(given)} instructions and {count} are asked: expected a list "
                "for each, or one for all."
            )
        inside = [list(_several(each, Image.Image, what)) for each in given]
    else:
        inside = [list(_several(given, Image.Image, what))] * count
    for instruction, each in zip(instructions, inside):
        if places:
            check_counts(instruction, pictures=len(each))
    return inside


def questions_of(
    prompts: AbstractPrompts,
    builder: ExampleBuilder,
    instructions: Sequence[str],
    photos: Sequence[Image.Image | None],
    inside: Sequence[Sequence[Image.Image]],
) -> tuple[list[Conversation], list[Tensor], list[Image.Image]]:
    """Questions about photos, what the vision tower is shown of each, and the pictures that have a place in
    them, one after the other. Raises DataError, and ConfigError for pictures where there never were such."""
    if builder.compat == "reference" and any(inside):
        raise ConfigError(
            'compat="reference" asks as the original program did, whose instructions are words alone: leave '
            "the pictures for the instruction, or compat, out."
        )
    questions: list[Conversation] = []
    looked: list[Tensor] = []
    placed: list[Image.Image] = []
    for instruction, photo, others in zip(instructions, photos, inside):
        held: dict[int | None, Any] = {None: photo, **dict(enumerate(others))}  # as an instruction names them
        shown = [held[which] for which in prompts.shown(instruction, photo=photo is not None)]
        sizes = [builder.look_size(each.size) for each in shown]
        questions.append(prompts.question(instruction, sizes=sizes))
        looked += [builder.clip_pixels(each) for each in shown or [None]]
        placed += [held[which] for which, _ in questions[-1].placed]
    return questions, looked, placed


def pictures_of(image: Any, count: int) -> list[Image.Image]:
    """The pictures, whatever came; a single one `count` times. Raises DataError for what is none."""
    if isinstance(image, Image.Image):
        return [image] * count
    return list(_several(image, Image.Image, "PIL picture (PIL.Image.open(PATH) gives one)"))


def check_imagined(said: Sequence[str], pictures: int) -> None:
    """Refuse what was imagined of others. Raises DataError."""
    if len(said) != pictures:
        raise DataError(
            f"there are {pictures} pictures and {len(said)} were imagined: expected the same pictures."
        )


def check_source(given: bool, *, masked: bool, sees: bool, compat: str) -> None:
    """Refuse photos for who paints new pictures only, and what new pictures cannot have. Raises DataError and
    ConfigError."""
    if given and not sees:
        raise DataError(
            "there is a photo, and this editor paints new pictures only: leave the photo out (image=None, or "
            "--new), or take an editor."
        )
    if not given and masked:
        raise ConfigError(
            "a mask says what of a photo is to be preserved, and there is none: leave the mask out, or give "
            "a photo."
        )
    if not given and compat == "reference":
        raise ConfigError(
            'compat="reference" edits as the original program did, which paints no new pictures: give a '
            "photo, or leave compat out."
        )


def _several(given: Any, kind: type, what: str) -> Sequence[Any]:
    if isinstance(given, Sequence) and not isinstance(given, str):
        wrong = [each for each in given if not isinstance(each, kind)]
        if not wrong:
            return given
        given = wrong[0]
    raise DataError(f"{given!r:.60} is a {type(given).__name__}: expected one {what}, or a list of them.")


def generators_of(
    count: int, seed: int | Sequence[int] | None, given: Generators, *, each: int = 1
) -> Generators:
    """Where noise comes from: a seed for all or one for each, or what is given; for `each` results of every
    picture, seeds are counted on, unless there is one for every result. Raises ConfigError."""
    if seed is None:
        given = list(given) if isinstance(given, tuple) else given
        if isinstance(given, list) and len(given) != count * each:
            raise ConfigError(
                f"there are {len(given)} generators for {count * each} pictures: give one each."
            )
        return given
    if given is not None:
        raise ConfigError("both seed and generator are given: expected one of them.")
    seeds = [seed] * count if isinstance(seed, int) else list(seed)
    if len(seeds) == count:
        seeds = counted_on(seeds, each)
    if len(seeds) != count * each:
        raise ConfigError(f"there are {len(seeds)} seeds for {count * each} pictures: give one, or one each.")
    return [torch.Generator().manual_seed(each) for each in seeds]


def seeds_of(count: int, seed: int | Sequence[int] | None, given: Generators, *, each: int = 1) -> list[int]:
    """What is drawn besides noise begins with these, one for each of `each` results of every picture: a seed,
    or a generator's first one."""
    if isinstance(given, torch.Generator):
        return [(given.initial_seed() + place) % 2**63 for place in range(count * each)]
    if given is not None:
        return [generator.initial_seed() % 2**63 for generator in given]
    if seed is None:
        return torch.randint(2**62, (count * each,)).tolist()
    seeds = [seed] * count if isinstance(seed, int) else list(seed)
    return counted_on(seeds, each) if len(seeds) == count else seeds


def counted_on(seeds: Sequence[int], each: int) -> list[int]:
    """`each` seeds for every one of these."""
    return [(first + further) % 2**63 for first in seeds for further in range(each)]


def check_shown(
    output_type: str,
    callback_inputs: Sequence[str],
    *,
    detail: bool = False,
    new: bool = False,
    compat: str = "default",
) -> None:
    """Refuse outputs and inputs of callbacks that there are not, and detail where there is no photo at its
    own size. Raises ConfigError."""
    shown = Shown.__args__  # type: ignore[attr-defined]
    if output_type not in shown:
        raise ConfigError(f"output_type is {output_type!r}: expected {', '.join(shown)}.")
    if detail and (output_type != "pil" or new or compat != "default"):
        raise ConfigError(
            "detail is a photo's own, at its own size: expected a photo, output_type pil and our own way of "
            "editing; leave detail out."
        )
    if unknown := set(callback_inputs) - {"latents"}:
        raise ConfigError(
            f"callbacks get latents, there are no {', '.join(sorted(unknown))}: leave them out."
        )


def shown(edited: list[Tensor], kind: str, sizes: list[tuple[int, int] | None]) -> Any:
    """Pixels or latents as the caller wants them; tensors and arrays are stacked if they are of one size."""
    if kind == "pil":
        images = [to_image(pixels) for pixels in edited]
        return [image if size is None else resize(image, size) for image, size in zip(images, sizes)]
    if kind != "latent":
        edited = [(pixels.float() / 2 + 0.5).clamp(0, 1) for pixels in edited]
    alike = len({pixels.shape for pixels in edited}) == 1
    if kind != "np":
        return torch.stack(edited) if alike else edited
    arrays = [pixels.permute(1, 2, 0).cpu().numpy() for pixels in edited]
    return torch.stack([pixels.permute(1, 2, 0).cpu() for pixels in edited]).numpy() if alike else arrays


def edited_size(size: tuple[int, int], sampling: Sampling, *, factor: int, multiple: int) -> tuple[int, int]:
    """Width and height that a picture of this one is edited at. Raises DataError for one that is too small
    for the reference, which edits at the picture's own, but for what a latent of `factor` pixels leaves."""
    if sampling.compat != "reference":
        return fitted_size(size, side=sampling.size, multiple=multiple)
    width, height = (side // factor * factor for side in size)
    if not (width and height):
        raise DataError(
            f"a picture of {size[0]} x {size[1]} pixels is too small: expected at least {factor} x {factor}."
        )
    return width, height


def fitted_pictures(
    pictures: Sequence[Image.Image | None],
    sampling: Sampling,
    limits: Limits,
    *,
    factor: int,
    dtype: torch.dtype,
    device: torch.device,
    each: int = 1,
) -> list[Fitted]:
    """Each picture at the size that it is edited at, and the size that it is brought back to; of a new
    one a canvas, which stays as large. A latent has `factor` pixels; `each` times as many are painted.

    Raises DataError, and ConfigError for more than memory holds.
    """
    side, multiple = sampling.size, limits.multiple
    canvas = Image.new("RGB", fitted_size((side, side), side=side, multiple=multiple))
    read = [canvas if picture is None else read_picture(picture, sampling) for picture in pictures]
    sizes = [edited_size(one.size, sampling, factor=factor, multiple=multiple) for one in read]
    pixels = each * max(width * height * count for (width, height), count in Counter(sizes).items())
    limits.check_memory(pixels, dtype=dtype, device=device)
    if sampling.compat == "reference":
        kind = Image.Resampling.LANCZOS
        return [(one.resize(size, kind), None) for one, size in zip(read, sizes)]
    back = [None if picture is None else one.size for picture, one in zip(pictures, read)]
    return [(quick_resize(one, *size), old) for one, size, old in zip(read, sizes, back)]


def read_picture(picture: Image.Image, sampling: Sampling) -> Image.Image:
    """The picture in colours, upright, on white; the reference drops what is beside the colours."""
    if sampling.compat == "reference":
        return picture.convert("RGB")
    return upright(picture, name="a picture")


def cleaned(words: str) -> str:
    """What was said, by the default rule; a full stop that was not said is not put into the model's mouth."""
    cleaned, words = clean_up(words), " ".join(words.split())
    return words if cleaned == words + "." else cleaned


def literal(conversation: str) -> str:
    """What was said, by the reference's rule; it has no answer for an empty text."""
    try:
        return clean_up(conversation, compat="reference")
    except IndexError:
        return ""
