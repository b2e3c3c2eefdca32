"""The card of a data set: README.md as the hub reads it, written from the facts and from nothing else."""

from pathlib import Path
from typing import Any

LICENCES = {
    "toy": "Scenes are the project's own (Apache-2.0); `mgie/toy/photos.py` names the photographs.",
    "ipr2pr": "InstructPix2Pix is MIT-licensed; its pictures come from Stable Diffusion (OpenRAIL-M).",
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
        *_hub_files(facts),
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
    left_out = sum(facts["filtered"].values())
    lines += [f"- left out by choice: {left_out}"] if left_out else []
    lines += [
        "",
        "Columns: `source`, `target` and `mask` are the bytes of the files as they came; "
        "`instruction` is what is asked,",
        "`expressive` what the result looks like; `docs/data.md` tells of the others.",
        "",
        f"Licence: {LICENCES.get(name, 'unknown.')}",
    ]
    return "\n".join(lines) + "\n"


def _hub_files(facts: dict[str, Any]) -> list[str]:
    """What a hub needs to know to find the splits."""
    if facts["arguments"].get("format") != "parquet":
        return []
    lines = ["configs:", "- config_name: default", "  data_files:"]
    for split in facts["splits"]:
        lines += [f"  - split: {split}", f"    path: data/{split}-*.parquet"]
    return lines
