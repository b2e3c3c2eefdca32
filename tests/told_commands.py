"""The commands that README and docs tell: where each stands, and why a test cannot run it as it is."""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]

NEEDS = {
    "quickstart.sh": "installs everything and trains for minutes: benchmarks/quickstart.py",
    "test.sh": "these are the tests",
    "pytest": "is a test: tests/stories/test_extending.py",
    "torchrun": "eight processes: tests/mgie/test_train_together.py",
    "delta apply": "LLaMA's weights: tests/llava_patch/test_delta.py",
    "mgie_7b": "weights of the published sizes: tests/mgie/test_extract.py",
    "stable-diffusion-v1-5": "Stable Diffusion: tests/mgie/test_pictures.py",
    "migc_sd15": "Stable Diffusion: tests/mgie/test_train_layouts.py",
    "instruct-pix2pix": "InstructPix2Pix: tests/mgie/weights/test_stable_diffusion.py",
    "_ckpt/mige": "MIGE's weights: tests/mgie/weights/test_mige.py",
    "--detector": "a detector and a segmenter: tests/mgie/test_masks.py",
    "magicbrush": "MagicBrush: tests/mgie/data/sources/test_magicbrush.py",
    "llava:": "LLaVA: tests/mgie/test_prepare.py",
    "OWNER/NAME": "a hub: tests/mgie/data/test_streamed.py",
    "mgie push": "a hub: tests/mgie/weights/test_hub.py",
    "--judge": "a judge: tests/mgie/evaluation/judges/test_benchmark.py",
    "report-a": "reports of several systems: tests/mgie/test_compare.py",
    "_ckpt/compared": "what people answered: tests/mgie/test_compare.py",
    "mgie web": "serves until Ctrl-C: tests/mgie/web/test_serving.py",
    "PAGE": "a page that is served: tests/mgie/web/test_page.py",
    "tensorboard": "a package of an extra: tests/mgie/training/test_world.py",
}
"""What a command has in it that a test has not -> what that is, and what is tested in its place. All others
are run as they stand, but for their length: tests/stories/test_told_commands.py."""


@dataclass(frozen=True, kw_only=True)
class Told:
    """A command of a page, without the comment behind it; lines that end in a backslash are joined."""

    page: str
    words: str

    @property
    def mgie(self) -> str:
        """As a command of `mgie` itself, whatever starts it; empty for other programs'."""
        words = re.sub(r"^(torchrun .*?|python3? )-m mgie ", "mgie ", self.words)
        return words if words.startswith("mgie ") else ""

    @property
    def needs(self) -> str:
        """What a test has not; empty for nothing."""
        return next((reason for word, reason in NEEDS.items() if word in self.words), "")


def blocks(page: Path, language: str) -> list[str]:
    """The contents of a page's fenced blocks."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def told() -> list[Told]:
    """Every command of every page, in order."""
    lines = [
        (page.name, re.sub(r"(^|\s)#.*", "", line).strip())
        for page in PAGES
        for block in blocks(page, "bash")
        for line in block.replace("\\\n", " ").splitlines()
    ]
    return [Told(page=page, words=words) for page, words in lines if words]


def spoken() -> list[tuple[str, str]]:
    """(page, code): what stands between single backticks outside of blocks."""
    found = []
    for page in PAGES:
        text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
        found += [(page.name, code) for code in re.findall(r"`([^`\n]+)`", text)]
    return found
