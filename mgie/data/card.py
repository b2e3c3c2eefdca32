"""The card of a data set: README.md as the hub reads it, written from the facts and from nothing else."""

from pathlib import Path
from typing import Any

LICENCES = {
    "toy": "Drawn scenes are the project's own (Apache-2.0); the photographs are those named in `mgie/data/toy_photos.py`.",
    "ipr2pr": "InstructPix2Pix's data is published under the MIT licence; its pictures come from Stable Diffusion (OpenRAIL-M).",
    "magicbrush": "MagicBrush is published under CC BY 4.0; its pictures come from MS COCO and DALL-E 2.",
    "pairs": "The owner of these pairs decides; write it here before you pass them on.",
    "legacy": "As the pairs that it was made from, usually InstructPix2Pix's (MIT licence).",
}


def write_card(folder: Path, facts: dict[str, Any]) -> None:
    """Write README.md into the folder of a data set."""
    (folder / "README.md").write_text(card(facts))


def card(facts: dict[str, Any]) -> str:
    """The text of the card."""
    source = facts["arguments"]["source"]
    name = source.partition(":")[0]
    lines = [
        "---",
        "task_categories: [image-to-image]",
        "tags: [instruction-based image editing]",
        "---",
        f"# Editing pairs from `{source}`",
        "",
        "Made by",
        "",
        f"    {facts['command']}",
        "",
        "| split | pairs | files | SHA-256 of the rows |",
        "| --- | ---: | ---: | --- |",
    ]
    for split, about in facts["splits"].items():
        lines.append(f"| {split} | {about['rows']} | {len(about['shards'])} | `{about['sha256']}` |")
    rejected = facts["rejected"]
    lines += ["", f"{rejected['rows']} rows were set aside (`rejected.jsonl` names each)."]
    lines += [f"- {reason}: {rows}" for reason, rows in rejected["reasons"].items()]
    lines += [
        "",
        "Columns: `source`, `target` and `mask` are the bytes of the files as they came; `instruction` is what is asked,",
        "`expressive` what the result looks like; `docs/data.md` tells of the others.",
        "",
        f"Licence: {LICENCES.get(name, 'unknown.')}",
    ]
    return "\n".join(lines) + "\n"
