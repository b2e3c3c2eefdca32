"""Pictures of what one's things are instances of, painted before they are learnt.

They hold a model to what a corgi is while it learns a certain one (prior preservation, DreamBooth, Ruiz et
al. 2023), and are written as MuDI's folders are: class_metadata.jsonl, pictures, masks.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image

from llava_patch.folders import whole_folder
from mgie.errors import DataError
from mgie.personalization.subjects import PRIOR, Subject, common_phrase, mask_name

KIND = "prior pictures"
"""Kind of the folder."""
PROMPT = (
    "a photo of a {phrase}, simple background, full body view, award winning photography, highly detailed"
)
"""What is painted (as MuDI's authors do)."""
CAPTION = "A photo of a {phrase}"
TRIES = 10
"""How many pictures are painted for one in which the thing is found."""


def write_prior(
    out: str | Path,
    subjects: Sequence[Subject],
    paint: Callable[[str, int], Image.Image],
    *,
    count: int,
    seed: int = 0,
    find: Callable[[Image.Image, str], Image.Image] | None = None,
) -> Path:
    """Write `count` pictures of what each subject is, whole or not at all. `paint(words, seed)` paints one,
    `find(picture, phrase)` makes its mask and raises DataError where there is nothing to find: then another
    one is painted.

    Raises DataError where that happens again and again.
    """
    names = {each.name: common_phrase(each.phrase) for each in subjects}
    lines: list[dict[str, object]] = [{"id": names}]
    with whole_folder(out, kind=KIND, replace=False) as partial:
        for number, (name, phrase) in enumerate(names.items()):
            for place in range(count):
                file = f"{number}_{place:04d}.png"
                begin = seed + (number * count + place) * TRIES
                picture, mask = _found(paint, find, phrase, range(begin, begin + TRIES))
                picture.save(partial / file)
                if mask is not None:
                    mask.save(partial / mask_name(file))
                lines.append({"id": name, "file_name": file, "text": CAPTION.format(phrase=phrase)})
        (partial / PRIOR).write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return Path(out)


def _found(
    paint: Callable[[str, int], Image.Image],
    find: Callable[[Image.Image, str], Image.Image] | None,
    phrase: str,
    seeds: range,
) -> tuple[Image.Image, Image.Image | None]:
    for seed in seeds:
        picture = paint(PROMPT.format(phrase=phrase), seed)
        if find is None:
            return picture, None
        try:
            return picture, find(picture, phrase)
        except DataError:
            continue
    raise DataError(
        f"in {TRIES} pictures of a {phrase!r} none was found: name it by another phrase, or give prior "
        "pictures of your own (--prior FOLDER)."
    )
