"""For tests of evaluations: a system whose pictures tell what it was given, what a folder holds."""

import hashlib
import json
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image


@dataclass
class Edits:
    images: list[Image.Image]
    said: list[str]
    forced: list[bool]


@dataclass
class Noisy:
    """Adds noise by each picture's seed, and by who else is in the call: as floats do, whose sums depend on
    the size of a batch."""

    identity: str = "noisy 1"
    size: int = 64
    seconds: float = 0.0
    social: bool = True
    """Whether the others in the call matter."""
    calls: list = field(default_factory=list)

    def __call__(self, image, prompt, /, *, seed, **options):
        if image is None:  # painted from nothing
            image = [Image.new("RGB", (options["size"], options["size"]), "grey") for _ in prompt]
        assert len(image) == len(prompt) == len(seed)
        self.calls.append((list(image), list(prompt), list(seed), options))
        time.sleep(self.seconds * len(image))
        company = repr([prompt, seed]) if self.social else ""
        made = []
        for picture, words, own in zip(image, prompt, seed):
            digest = hashlib.sha256(f"{words}/{own}/{sorted(options.items())}/{company}".encode()).digest()
            noise = np.random.default_rng(list(digest)).integers(-30, 31, (picture.height, picture.width, 3))
            values = (np.asarray(picture).astype(int) + noise).clip(0, 255).astype(np.uint8)
            made.append(Image.fromarray(values))
        return Edits(made, [f"{words} it is" for words in prompt], [False] * len(image))


class Unneeded(Noisy):
    """The same, which must not be asked again."""

    def __call__(self, *asked, **options):
        raise AssertionError(f"all pictures are there: {asked} {options}")


Unneeded.__name__ = "Noisy"


TIMES = ("seconds", "seconds_per_edit")


def content(out: Path) -> dict[str, object]:
    """Every file of an evaluation by its hash, but for what tells seconds; results.json without them."""
    found: dict[str, object] = {}
    for path in sorted(out.rglob("*")):
        name = path.relative_to(out).as_posix()
        if path.is_file() and not name.startswith(("made/", "scores/")) and name != "plan.json":
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    facts = json.loads((out / "results.json").read_text())
    found["results.json"] = {name: value for name, value in facts.items() if name not in TIMES}
    return found
