"""What tests of the evaluation measure: pictures that a seed determines, a small MagicBrush made of them."""

import json
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image


def pic(seed: int, width: int, height: int) -> Image.Image:
    """6 x 7 random colours, enlarged by Pillow's bicubic filter, with noise of up to 20 on each value."""
    draw = np.random.default_rng(seed)
    small = Image.fromarray(draw.integers(0, 256, (6, 7, 3), np.uint8))
    smooth = np.asarray(small.resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    noise = draw.integers(-20, 21, (height, width, 3))
    return Image.fromarray((smooth + noise).clip(0, 255).astype(np.uint8))


def write_magicbrush(folder: Path, sessions: Mapping[str, int], caption: str = "a red d") -> None:
    """MagicBrush's test layout in `folder`/data, of sessions with so many turns, and a system's pictures in
    `folder`/gen."""
    turns, captions = {}, {}
    for session, count in sessions.items():
        lying, made = folder / "data" / "images" / session, folder / "gen" / session
        lying.mkdir(parents=True)
        made.mkdir(parents=True)
        files = [f"{session}-input.png", *(f"{session}-output{turn}.png" for turn in range(1, count + 1))]
        for place, file in enumerate(files):
            pic(10 * int(session) + place, 40, 30).save(lying / file)
        turns[session] = [
            {"input": before, "output": after, "instruction": "edit it"} for before, after in pairwise(files)
        ]
        captions[session] = dict.fromkeys(files[1:], caption)
        kinds = ["1", *(f"{kind}_{turn}" for turn in range(2, count + 1) for kind in ("inde", "iter"))]
        for place, kind in enumerate(kinds):
            pic(place, 32, 32).save(made / f"{session}_{kind}.png")
    (folder / "data" / "edit_sessions.json").write_text(json.dumps(turns))
    (folder / "data" / "local_descriptions.json").write_text(json.dumps(captions))
