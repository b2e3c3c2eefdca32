"""Pictures that a seed determines: smooth colours with a little noise, for values that were published so."""

import numpy as np
from PIL import Image


def pic(seed: int, width: int, height: int) -> Image.Image:
    """6 x 7 random colours, enlarged by Pillow's bicubic filter, with noise of up to 20 on each value."""
    draw = np.random.default_rng(seed)
    small = Image.fromarray(draw.integers(0, 256, (6, 7, 3), np.uint8))
    smooth = np.asarray(small.resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    noise = draw.integers(-20, 21, (height, width, 3))
    return Image.fromarray((smooth + noise).clip(0, 255).astype(np.uint8))
