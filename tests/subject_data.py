"""Subjects as a user's folder has them: ellipses on noise, masks, captions."""

import json

import numpy as np
from PIL import Image, ImageDraw

COLOURS = {"a": "red", "b": "blue", "c": "green", "d": "orange", "e": "purple"}


def write_subjects(folder, names="abc", *, photos=2, size=(96, 72), file="metadata.jsonl"):
    """`photos` of each name, of one ellipse on a ground of noise, with masks and captions."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    lines = [{"id": {name: f"olis{name} {COLOURS[name]} disk" for name in names}}]
    for name in names:
        for number in range(photos):
            image = Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
            mask = Image.new("L", size)
            box = (10 + number, 8, 50 + 3 * number, 60)
            ImageDraw.Draw(image).ellipse(box, fill=COLOURS[name])
            ImageDraw.Draw(mask).ellipse(box, fill=255)
            image.save(folder / f"{name}{number}.png")
            mask.save(folder / f"mask_{name}{number}.png")
            text = f"a photo of a olis{name} {COLOURS[name]} disk on noise {number}"
            lines.append(
                {
                    "id": name,
                    "file_name": f"{name}{number}.png",
                    "mask_path": f"mask_{name}{number}.png",
                    "text": text,
                }
            )
    (folder / file).write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder
