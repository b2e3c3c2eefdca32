"""Pairs, pictures and draws for the tests of the reference's quirks."""

import io

import numpy as np
from PIL import Image

from llava_patch.processor import Processor
from mgie.build import Parts
from mgie.config import RunConfig, load_run
from mgie.training.draws import draws_for
from mgie.types import Draws, EditPair
from mgie.weights.parts import resolve

QUESTION = "what will this image be like if '{instruction}'"


def tiny() -> RunConfig:
    """The recipe of the small parts."""
    return load_run("tiny")


def processor_of(run: RunConfig) -> Processor:
    """Its processor as the folder has it: without visual tokens."""
    return Processor.from_pretrained(resolve(run.model.encoder.llava), template=run.model.encoder.template)


def picture(width: int = 32, height: int = 32, seed: int = 0) -> Image.Image:
    """Smooth noise: it survives a resize."""
    values = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(values).resize((width, height), Image.Resampling.BICUBIC)


def pair(key: str, *, expressive: str = "the ball is red", width: int = 32, height: int = 32) -> EditPair:
    """An edit of small pictures."""
    files = []
    for seed in (0, 1):
        file = io.BytesIO()
        picture(width, height, seed).save(file, "PNG")
        files.append(file.getvalue())
    return EditPair(
        key=key, instruction="make it red", expressive=expressive, source=files[0], target=files[1]
    )


def draw_for(parts: Parts, positions: tuple[int, ...], side: int = 32) -> Draws:
    """The random numbers of a training step."""
    shape = parts.editor.codec.latent_shape(side, side)
    return draws_for(0, positions, latent_shape=shape, process=parts.process, shift=1.0)
