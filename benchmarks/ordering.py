"""Does a language model help, and how must it be trained? The four ways of the paper's ablation (Fu et al.
2024, table 2) on the toy world: same data, same budget, same painter to begin with.

    python benchmarks/ordering.py --seeds 1 2 3

The language model of the small base knows this world's edits before any of them begins.
"""

import argparse
import json
import platform
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path
from statistics import fmean
from typing import Any

import yaml

from llava_patch.processor import Processor
from llava_patch.tokenizer import LlavaTokenizer
from mgie.config import dump_run, load_run
from mgie.evaluate import evaluate
from mgie.extract import extract
from mgie.models.encoders.clip_text import ClipTextEncoder
from mgie.prepare import prepare
from mgie.prompts import AbstractPrompts, Conversation
from mgie.toy.pairs import ToyPairs
from mgie.toy.things import PLACES
from mgie.toy.world import Scene
from mgie.train import train
from mgie.types import EditPair
from mgie.weights.diffusers_parts import load_text_model
from mgie.weights.parts import AbstractEncoderPart, resolve

REPORT = Path(__file__).with_suffix(".md")
BASE = "builtin:tiny_base"
LANGUAGE = ["embeddings", "lm_head", "language_model"]
WAYS = {
    "instruction only": "the painter and its text encoder, which reads the instruction (InstructPix2Pix)",
    "frozen": "edit head and painter; the language model stays as it is",
    "fine-tuned first": "half of the time the language model alone, on words; then edit head and painter",
    "end to end": "language model, edit head and painter together (MGIE)",
}
PLACE = {middle: name for name, middle in PLACES.items()}


@dataclass(frozen=True, kw_only=True)
class InstructionSettings:
    """What a recipe says of it: nothing."""

    kind: str = "instruction"


class InstructionPrompts(AbstractPrompts):
    """The instruction alone, in the small base's own tokens."""

    def __init__(self, tokenizer: LlavaTokenizer, *, most: int):
        """A text may have `most` tokens; of longer ones the end is not read."""
        self.tokenizer, self.most, self.pad_id = tokenizer, most, tokenizer.pad_id

    def conversation(self, instruction: str, expressive: str, **about: Any) -> Conversation:
        """What will be seen is not told."""
        del expressive, about
        ids = self.tokenizer.encode(instruction, bos=False)[: self.most]
        return Conversation(input_ids=ids, labels=list(ids))

    def question(self, instruction: str, **about: Any) -> Conversation:
        """As in training."""
        del about
        return Conversation(input_ids=self.tokenizer.encode(instruction, bos=False)[: self.most])


class InstructionEncoder(ClipTextEncoder):
    """The painter's text encoder."""


class InstructionPart(AbstractEncoderPart):
    """The text encoder of the small base, which its painter was trained with."""

    kind, settings, makes = "instruction", InstructionSettings, InstructionEncoder

    def build(self, settings: InstructionSettings, **options: Any) -> Any:
        """As it is in the base."""
        del settings, options
        return self._read(Path(resolve(f"{BASE}/sd")))

    def save(self, encoder: InstructionEncoder, prompts: InstructionPrompts, folder: Path) -> dict[str, Any]:
        """The tokens are the base's."""
        del prompts
        encoder.text_model.save_pretrained(folder / "text_encoder")
        return {}

    def load(self, folder: Path, facts: dict[str, Any], **options: Any) -> Any:
        """As `save` wrote it."""
        del facts, options
        return self._read(folder)

    def _read(self, folder: Path) -> Any:
        text_model = load_text_model(folder)
        tokenizer = Processor.from_pretrained(Path(resolve(f"{BASE}/llava"))).tokenizer
        queries = load_run("tiny").model.encoder.edit_head.queries
        encoder = InstructionEncoder(text_model, silent_ids=(tokenizer.eos_id,), pooled=queries)
        most = text_model.config.max_position_embeddings - queries
        return encoder, InstructionPrompts(tokenizer, most=most)


def trained(way: str, seed: int, samples: int, folder: Path) -> Path:
    """The release that a way leads to."""
    head, begin = ["edit_head", "denoiser"], f"{BASE}/aligned.safetensors"

    def run(name: str, groups: list[str], samples: int, *more: str) -> Path:
        fixed = {
            "name": name, "out": folder / "runs", "seed": seed, "data.path": folder.parent / "data",
            "train.samples": samples, "train.groups": groups, "save.every": samples, "preview.every": 0,
        }  # fmt: skip
        path = str(own) if (own := folder / "own.yaml").exists() else "tiny"
        made = load_run(path, [*(f"--{key}={value}" for key, value in fixed.items()), *more])
        train(made)
        return made.folder

    if way == "instruction only":
        tiny = dump_run(load_run("tiny", ["--train.align_weight=0", "--model.start=null"]))
        (folder / "own.yaml").write_text(with_encoder(tiny), encoding="utf-8")
        last = run("words", ["text_encoder", "denoiser"], samples)
    elif way == "fine-tuned first":
        first = run("speaking", LANGUAGE, samples // 2, "--train.edit_weight=0")
        last = run("painting", head, samples - samples // 2, f"--model.start={first}")
    else:
        groups = head if way == "frozen" else [*LANGUAGE, *head]
        last = run("run", groups, samples, f"--model.start={begin}")
    extract(last, out=folder / "model")
    return folder / "model"


def with_encoder(recipe: str) -> str:
    """A recipe with the text encoder in place of the language model."""
    content = yaml.safe_load(recipe)
    content["model"]["encoder"] = {"kind": InstructionPart.kind}
    return yaml.safe_dump(content)


def takes_a_look(pair: EditPair) -> bool:
    """Whether the instruction leaves open where something changes."""
    if not pair.meta.get("before"):
        return False
    before, after = (set(Scene.from_json(pair.meta[when]).things) for when in ("before", "after"))
    names = {PLACE.get((thing.x, thing.y), "") for thing in before ^ after}
    return any(not name or f"the {name}" not in pair.instruction for name in names)


def measured(model: Path, seed: int, count: int, out: Path) -> dict[str, float]:
    """Shares of what a release gets right."""
    evaluate(model=str(model), suite="toy", seed=seed, count=count, out=out, control=False)
    items = [json.loads(line) for line in (out / "items.jsonl").read_text().splitlines()]
    pairs = {pair.key: pair for pair in ToyPairs(count, seed=seed, split="test")}
    rows = [(takes_a_look(pairs[item["key"]]), item) for item in items]
    shares = {"all": [item["right"] for _, item in rows]}
    shares["words tell"] = [item["right"] for looks, item in rows if not looks]
    shares["takes a look"] = [item["right"] for looks, item in rows if looks]
    shares["said exactly"] = [item["said"] == item["expected"] for _, item in rows]
    return {name: fmean(each) for name, each in shares.items()}


def row(way: str, found: Sequence[dict[str, float]]) -> str:
    """A line of the table: means, and all seeds."""
    cells = []
    for name in found[0]:
        shares = [each[name] for each in found]
        each = ", ".join(f"{share:.1%}" for share in shares)
        cells.append(f"{fmean(shares):.1%} ({each})")
    return f"| {way} | {' | '.join(cells)} |"


def report(rows: list[str], arguments: argparse.Namespace) -> str:
    """The report of the ways that are done."""
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "diffusers"))
    seeds = " ".join(map(str, arguments.seeds))
    lines = [
        "# The ways to train, in order",
        "",
        f"`python benchmarks/ordering.py --seeds {seeds} --samples {arguments.samples} --count "
        f"{arguments.count}`, {date.today()}; {platform.machine()}, Python {platform.python_version()}, "
        f"{versions}.",
        "",
        f"Right of {arguments.count} held-out pairs, mean of the seeds and each; every way has "
        f"{arguments.samples} samples.",
        "",
        *(f"- **{way}**: {about}." for way, about in WAYS.items()),
        "",
        "An edit takes a look where its instruction does not name every place that changes.",
        "",
        "| way | all | words tell | takes a look | said exactly |",
        "| --- | --- | --- | --- | --- |",
        *rows,
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Train and measure every way with every seed; what is done is not done again."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--samples", type=int, default=8000)
    parser.add_argument("--count", type=int, default=400, help="measured pairs per seed")
    parser.add_argument("--folder", type=Path, default=Path("_ckpt/benchmark-ordering"))
    parser.add_argument("--out", type=Path, default=REPORT)
    arguments = parser.parse_args()
    rows = []
    for way in WAYS:
        found = []
        for seed in arguments.seeds:
            place = arguments.folder / f"seed-{seed}"
            if not (place / "data").is_dir():
                prepare("toy", place / "data", seed=seed)
            folder = place / way.replace(" ", "-")
            if not (figures := folder / "figures.json").exists():
                shutil.rmtree(folder / "model", ignore_errors=True)
                folder.mkdir(parents=True, exist_ok=True)
                model = trained(way, seed, arguments.samples, folder)
                figures.write_text(json.dumps(measured(model, seed, arguments.count, folder / "report")))
            found.append(json.loads(figures.read_text()))
        rows.append(row(way, found))
        print(rows[-1], flush=True)
        arguments.out.write_text(report(rows, arguments), encoding="utf-8")


if __name__ == "__main__":
    main()
