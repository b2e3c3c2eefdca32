"""Small pairs and pictures that the tests of this folder share."""

import io

import numpy as np
import pytest
from PIL import Image

from mgie.types import EditPair


def picture(width: int = 12, height: int = 12, seed: int = 0, form: str = "PNG", **options) -> bytes:
    """A picture file of noise."""
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, format=form, **options)
    return buffer.getvalue()


def pair(index: int = 0, **changes) -> EditPair:
    """A sound pair, another for each index."""
    values = {
        "key": f"pair-{index}",
        "instruction": f"make it {'very ' * (index % 5)}red",
        "expressive": f"It is red, number {index}.",
        "source": picture(seed=2 * index),
        "target": picture(seed=2 * index + 1),
    }
    return EditPair(**(values | changes))


@pytest.fixture
def make_pair():
    return pair


@pytest.fixture
def make_picture():
    return picture
