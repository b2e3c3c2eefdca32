"""Trained controllers on disk: folders beside the parts of a release, or published files.

controllers/layout/config.json         the kind of its blocks ("migc", "migc++") and their heads
controllers/layout/model.safetensors   the tensors, by their published names (migc.py)
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from llava_patch.loading import Dtypes
from mgie.controllers.layout import LayoutBlocks
from mgie.controllers.layout_blocks import SLOTS, MIGCBlock, MIGCPlusBlock
from mgie.errors import WeightsError
from mgie.weights.migc import PUBLISHED_HEADS, read_blocks, write_blocks
from mgie.weights.models import read_json
from mgie.weights.parts import dtype_of

CONTROLLERS, LAYOUT = "controllers", "layout"
CONFIG, WEIGHTS = "config.json", "model.safetensors"
KINDS = {"migc": MIGCBlock, "migc++": MIGCPlusBlock}
MOST = {kind: SLOTS - 1 - int(block.with_background) for kind, block in KINDS.items()}
"""How many regions a picture may have."""


def read_controllers(
    folder: Path, *, controller: str | Path | None = None, dtype: Dtypes = torch.float32
) -> dict[str, LayoutBlocks]:
    """Those of a release's folder; `controller`, a published file or such a folder, takes the layout's place.

    Raises WeightsError.
    """
    own = folder / CONTROLLERS / LAYOUT
    where = own if controller is None else Path(controller)
    if controller is None and not own.is_dir():
        return {}
    kind = dtype_of(dtype, LAYOUT)
    if not where.is_dir():
        return {LAYOUT: LayoutBlocks(read_blocks(where, dtype=kind))}
    config = _config(where)
    blocks = read_blocks(where / WEIGHTS, heads=config["heads"], dtype=kind)
    if strange := [site for site, block in blocks.items() if type(block) is not KINDS[config["kind"]]]:
        raise WeightsError(
            f"{where / CONFIG} says {config['kind']}, and the block of {strange[0]} in {WEIGHTS} is of the "
            "other kind: use files that belong together."
        )
    return {LAYOUT: LayoutBlocks(blocks)}


def write_controllers(controllers: Mapping[str, Any], folder: Path) -> None:
    """Write each into its own folder of a new release; nothing where there are none. Raises ConfigError for
    blocks that the published files have no names for."""
    for name, controller in controllers.items():
        place = folder / CONTROLLERS / name
        place.mkdir(parents=True)
        blocks = controller.by_site
        first = next(iter(blocks.values()))
        kind = next(kind for kind, block in KINDS.items() if type(first) is block)
        facts = {"kind": kind, "heads": first.config.heads}
        (place / CONFIG).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
        write_blocks(blocks, place / WEIGHTS)


def most_regions(folder: Path, controller: str | Path | None = None) -> int | None:
    """How many regions a picture may have with the layout's blocks of a release, by its small files; None
    where there are none, or only the weights tell. Raises WeightsError."""
    where = folder / CONTROLLERS / LAYOUT if controller is None else Path(controller)
    return MOST[_config(where)["kind"]] if where.is_dir() else None


def _config(folder: Path) -> dict[str, Any]:
    config = read_json(folder / CONFIG)
    heads = config.get("heads", PUBLISHED_HEADS)
    if config.get("kind") not in KINDS or not isinstance(heads, int) or not 1 <= heads <= 1024:
        raise WeightsError(
            f"{folder / CONFIG} says {json.dumps(config)[:100]}: expected a kind, {' or '.join(KINDS)}, and "
            "a number of heads; fetch it again."
        )
    return {"kind": config["kind"], "heads": heads}
