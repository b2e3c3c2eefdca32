"""A shipped protocol with hashes of somebody's weights and items: a file to hand on.

    mgie evaluate --pin magicbrush --clip _ckpt/clip --dino _ckpt/dino --data _data/test --out pins.yaml
    mgie evaluate --model _ckpt/tiny --suite pins.yaml --clip ... --dino ... --data ... --out _ckpt/report

It pins what the shipped protocol leaves open and changes nothing else. Its hash is in the identity, so
figures by two such files never stand in one table.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml

from mgie.data.files import MALFORMED, reason, regular
from mgie.errors import ConfigError
from mgie.evaluation.measures.eyes import Eyes
from mgie.evaluation.published.data import identity, read_layout
from mgie.evaluation.published.protocol import Protocol, Weights, find_protocol, protocol_names
from mgie.evaluation.published.rows import check_eyes
from mgie.lines import say

ENDING = ".yaml"
PINNED = "pinned"
"""Variant that such protocols are."""
KEYS = ("extends", "weights", "items_sha256")
EXPECTED = f"a file that `mgie evaluate --pin` wrote, with {', '.join(KEYS)}"
HEEDED = ("pin", "clip", "dino", "lpips", "data", "out", "device")
"""All options of `mgie evaluate` that pinning looks at."""


def read_pins(path: Path) -> tuple[str, Protocol]:
    """Name of the shipped protocol, and that with the file's hashes. Raises ConfigError."""
    try:
        said = yaml.safe_load(regular(path).read_text(encoding="utf-8"))
        unknown = [key for key in said if key not in KEYS]
        models = {
            str(model): Weights(
                repo=str(each["repo"]), sha256={str(k): str(v) for k, v in each["sha256"].items()}
            )
            for model, each in said["weights"].items()
        }
        name, items = str(said["extends"]), str(said.get("items_sha256", ""))
    except (*MALFORMED, yaml.YAMLError) as error:
        raise ConfigError(f"{path} cannot be read as pins ({reason(error)}): expected {EXPECTED}.") from error
    if unknown:
        raise ConfigError(f"{path} has {unknown[0]!r}: expected {EXPECTED}.")
    protocol = find_protocol(name)
    if strange := [model for model in models if model not in protocol.weights]:
        raise ConfigError(
            f"{path} pins {strange[0]}, and {name} measures with {', '.join(protocol.weights)}: pin these."
        )
    return name, pinned(protocol, models, items)


def pinned(protocol: Protocol, models: Mapping[str, Weights], items: str) -> Protocol:
    """The protocol with these hashes, as a variant of its own."""
    variant = f"{protocol.variant}-{PINNED}" if protocol.variant else PINNED
    weights = {**protocol.weights, **models}
    return replace(protocol, variant=variant, weights=weights, items_sha256=items)


def write_pins(
    name: str,
    out: str | Path,
    given: Sequence[str],
    *,
    clip: str | Path | None,
    dino: str | Path | None,
    lpips: str | None,
    data: str | Path | None,
    device: torch.device,
) -> dict[str, Any]:
    """Write the pins of a protocol: hashes of the user's weights, and of which items there are where the
    data are named. `given` are options that were asked for. Raises ConfigError and WeightsError, and
    DataError for data that are not as published."""
    # Everything that can be wrong is wrong now.
    for option in given:
        if option not in HEEDED:
            raise ConfigError(f"{option} has no place beside pin: nothing is measured yet; leave it out.")
    if name not in protocol_names():
        find_protocol(name)  # which tells what there is
    out = Path(out)
    if out.suffix != ENDING or out.exists():
        why = "is there already" if out.exists() else f"does not end in {ENDING}"
        raise ConfigError(f"--out {out} {why}: pins go to a new file, such as {name}-pinned{ENDING}.")
    protocol = find_protocol(name)
    eyes = Eyes.open(clip, dino, lpips, device)
    check_eyes(protocol, eyes)
    models = {
        model: Weights(repo=weights.repo, sha256=eyes.hashes[model])
        for model, weights in protocol.weights.items()
    }
    items = "" if data is None else identity(read_layout(protocol, Path(data)))

    # Write, and tell.
    said: dict[str, Any] = {"extends": name}
    said["weights"] = {
        model: {"repo": each.repo, "sha256": dict(each.sha256)} for model, each in models.items()
    }
    said |= {"items_sha256": items} if items else {}
    whole = pinned(protocol, models, items)
    out.parent.mkdir(parents=True, exist_ok=True)
    head = f"# {whole.identity}: {protocol.identity} with the hashes of what was measured with.\n"
    out.write_text(head + yaml.safe_dump(said, sort_keys=False), encoding="utf-8")
    say(f"{whole.identity} is in {out}: --suite {out} refuses other weights{' and items' * bool(items)}.")
    return {"protocol": whole.identity, "protocol_sha256": whole.sha256, "pins": str(out), **said}
