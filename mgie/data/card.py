"""The card of a data set, written from its facts. It is README.md, as the hub reads it."""

from pathlib import Path
from typing import Any

LICENCES = {
    "toy": "Scenes are the project's own (Apache-2.0); `mgie/toy/photos.py` names the photographs.",
    "ipr2pr": "InstructPix2Pix is MIT-licensed; its pictures come from Stable Diffusion (OpenRAIL-M).",
    "magicbrush": "MagicBrush is published under CC BY 4.0; its pictures come from MS COCO and DALL-E 2.",
    "mige": "MIGE's authors decide for their records; the pictures belong to the data sets that they name.",
    "pairs": "The owner of these pairs decides; write it here before you pass them on.",
    "legacy": "As the pairs that it was made from, usually InstructPix2Pix's (MIT licence).",
}
PATHS = {"arrow": "{split}/*.arrow", "parquet": "data/{split}-*.parquet"}
"""Format -> where the files of a split lie, as `datasets.load_dataset` is told."""


def write_card(folder: Path, facts: dict[str, Any]) -> None:
    """Write README.md into the folder of a data set."""
    source, command, rejected = facts["arguments"]["source"], facts["command"], facts["rejected"]
    path = PATHS.get(facts["arguments"]["format"])
    splits = facts["splits"]
    files = [f"  - split: {split}\n    path: {path.format(split=split)}" for split in splits if path]
    rows = [f"| {s} | {a['rows']} | {len(a['shards'])} | `{a['sha256']}` |" for s, a in splits.items()]
    left_out = sum(facts["filtered"].values())
    lines = [
        "---",
        "task_categories: [image-to-image]",
        "tags: [instruction-based image editing]",
        *(["configs:", "- config_name: default", "  data_files:", *files] if files else []),
        "---",
        f"# Editing pairs from `{source}`\n\nMade by\n\n    {command}\n",
        "| split | pairs | files | SHA-256 of the rows |",
        "| --- | ---: | ---: | --- |",
        *rows,
        f"\n{rejected['rows']} rows were set aside (`rejected.jsonl` names each).",
        *(f"- {reason}: {count}" for reason, count in rejected["reasons"].items()),
        *([f"- left out by choice: {left_out}"] if left_out else []),
        "\nColumns: `source`, `target` and `mask` are the bytes of the files as they came; `instruction` is",
        "what is asked, `expressive` what the result looks like; `docs/data.md` tells of the others.",
        f"\nLicence: {LICENCES.get(source.partition(':')[0], 'unknown.')}",
    ]
    (folder / "README.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
