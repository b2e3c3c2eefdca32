"""Delta weights: base + delta -> whole weights, and back. One shard is in memory at a time.

The rule of LLaVA and Vicuna: tensors of one name and shape are added; the two embedding tables may have more
rows than the base's, which is added to the first ones; the projector, which no base has, is taken as it is.
"""

import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import torch
from torch import Tensor

from llava_patch.errors import WeightsError
from llava_patch.folders import MANIFEST, whole_folder
from llava_patch.ranges import Range, in_range
from llava_patch.shards import SHARD_BYTES, ShardWriter, TensorFolder, each_shard
from llava_patch.tokenizer import MODEL_FILE
from llava_patch.weights import is_constant

FACTS_FILE = "delta.json"
"""Written by `make_delta`: what the base was, so that `apply_delta` can tell another one."""

BLOCK = 2048
"""Rows that are added or subtracted at a time."""

Bytes = Annotated[int, Range(ge=1, le=2**50)]

_TABLES = ("model.embed_tokens.weight", "lm_head.weight")
_TAKEN = ("model.mm_projector.",)
_COPIED = ("*.json", "*.model", "*.txt", "*.md", "LICENSE*", "NOTICE*")


@dataclass(frozen=True, kw_only=True)
class Merge:
    """What a merge or a difference did."""

    added: int = 0
    """Tensors that have a partner in the base."""
    taken: list[str] = field(default_factory=list)
    """Tensors that are there as they were, for the base has none of their name."""
    widened: list[str] = field(default_factory=list)
    """Differences that need a wider type than the weights to restore them exactly."""


@in_range
def apply_delta(
    base: str | Path, delta: str | Path, out: str | Path, *, limit: Bytes = SHARD_BYTES, progress: bool = True
) -> Merge:
    """Write base + delta into the new folder `out`, in the delta's types, with the delta's other files."""
    facts = _facts(Path(delta))
    bases = TensorFolder(base, progress=progress)
    _check_tokenizer(Path(base), Path(delta))
    taken: list[str] = []
    done: set[str] = set()
    with whole_folder(out, kind="LLaVA", replace=False) as partial:
        writer = ShardWriter(partial, limit=limit)
        for name, tensor in _tensors(delta, progress, "merging"):
            if not _partner(name, tensor, bases, delta):
                writer.add(name, tensor)
                taken.append(name)
                continue
            partner = bases[name]
            _check_partner(name, tensor, partner, facts, base, delta, first=not done)
            dtype = getattr(torch, facts["types"].get(name, _name(tensor.dtype)))
            writer.add(name, _sum(partner, tensor, dtype))
            done.add(name)
        _check_all_used(bases, done, base, delta)
        writer.close()
        _copy_others(Path(delta), partial)
    return Merge(added=len(done), taken=taken)


@in_range
def make_delta(
    base: str | Path,
    target: str | Path,
    out: str | Path,
    *,
    limit: Bytes = SHARD_BYTES,
    progress: bool = True,
) -> Merge:
    """Write target - base into the new folder `out`, with the target's other files and digests of the base.

    A difference is stored in the narrowest type, from the target's own, that gives the target back exactly.
    """
    bases = TensorFolder(base, progress=progress)
    _check_tokenizer(Path(base), Path(target))
    taken: list[str] = []
    digests: dict[str, str] = {}
    types: dict[str, str] = {}
    with whole_folder(out, kind="delta", replace=False) as partial:
        writer = ShardWriter(partial, limit=limit)
        for name, tensor in _tensors(target, progress, "subtracting"):
            if not _partner(name, tensor, bases, target):
                writer.add(name, tensor)
                taken.append(name)
                continue
            difference = _difference(name, bases[name], tensor)
            writer.add(name, difference)
            digests[name] = _digest(bases[name])
            if difference.dtype != tensor.dtype:
                types[name] = _name(tensor.dtype)
        _check_all_used(bases, set(digests), base, target)
        writer.close()
        _copy_others(Path(target), partial)
        facts = {"base": digests, "types": types}
        (partial / FACTS_FILE).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    return Merge(added=len(digests), taken=taken, widened=sorted(types))


def _tensors(folder: str | Path, progress: bool, title: str) -> Iterator[tuple[str, Tensor]]:
    for _, tensors in each_shard(folder, progress=progress, title=title):
        for name in list(tensors):
            tensor = tensors.pop(name)
            if not is_constant(name):
                yield name, tensor


def _partner(name: str, tensor: Tensor, bases: TensorFolder, folder: str | Path) -> bool:
    """Whether the base has a partner that fits by the rule; what does not fit is an error."""
    if name not in bases.shapes:
        if name.startswith(_TAKEN):
            return False
        raise WeightsError(
            f"{folder} has {name}, but the base {bases.folder} has no such tensor; expected the base it was "
            "made for."
        )
    ours, theirs = tuple(tensor.shape), bases.shapes[name]
    grown = name in _TABLES and ours[1:] == theirs[1:] and ours[0] >= theirs[0]
    if ours != theirs and not grown:
        raise WeightsError(
            f"{name} has the shape {list(ours)} in {folder}, but {list(theirs)} in the base {bases.folder}; "
            "expected the base that it was made for."
        )
    return True


def _sum(base: Tensor, delta: Tensor, dtype: torch.dtype) -> Tensor:
    # Half precision is added in single, as the reference adds it; wider differences were made in double.
    wide = torch.float32 if delta.dtype in (torch.float16, torch.bfloat16) else torch.float64
    total = torch.empty(delta.shape, dtype=dtype)
    for rows in _blocks(delta):
        block, partner = delta[rows].to(wide, copy=True), base[rows]
        block[: len(partner)] += partner.to(wide)
        total[rows] = block.to(dtype)
    return total


def _difference(name: str, base: Tensor, target: Tensor) -> Tensor:
    for dtype in dict.fromkeys((target.dtype, torch.float32, torch.float64)):
        difference = torch.empty(target.shape, dtype=dtype)
        for rows in _blocks(target):
            block, partner = target[rows].to(torch.float64, copy=True), base[rows]
            block[: len(partner)] -= partner.to(torch.float64)
            difference[rows] = block.to(dtype)
            if not torch.equal(_sum(partner, difference[rows], target.dtype), target[rows]):
                break
        else:
            return difference
    raise WeightsError(
        f"{name} has no difference that restores it exactly (not a number?); mend the weights."
    )


def _blocks(tensor: Tensor) -> Iterator[slice]:
    """A few rows at a time: in double precision a whole table would need more memory than its file."""
    for start in range(0, len(tensor), BLOCK):
        yield slice(start, start + BLOCK)


def _check_partner(
    name: str,
    tensor: Tensor,
    partner: Tensor,
    facts: dict,
    base: str | Path,
    delta: str | Path,
    *,
    first: bool,
) -> None:
    """Refuse another base than the one on record; without a record, a delta that is whole weights."""
    if facts["base"]:
        if facts["base"].get(name) != _digest(partner):
            raise WeightsError(
                f"{base} is not the base that {delta} was made for: {name} has other values; pass that base."
            )
    elif first:
        rows = slice(min(len(partner), len(tensor), BLOCK))
        one, other = partner[rows].double().flatten(), tensor[rows].double().flatten()
        if torch.nn.functional.cosine_similarity(one, other, dim=0) > 0.9:
            raise WeightsError(
                f"{delta} holds whole weights (its {name} points where the base's does), expected "
                "differences; it may "
                "be used as it is, or pass the delta folder."
            )


def _check_all_used(bases: TensorFolder, done: set[str], base: str | Path, other: str | Path) -> None:
    left = [name for name in bases.shapes if name not in done and not is_constant(name)]
    if left:
        raise WeightsError(
            f"the base {base} has {len(left)} tensors that {other} lacks ({', '.join(left[:4])}"
            f"{' ...' if len(left) > 4 else ''}); expected the base it was made for."
        )


def _check_tokenizer(base: Path, other: Path) -> None:
    files = [folder / MODEL_FILE for folder in (base, other)]
    if all(file.is_file() for file in files) and files[0].read_bytes() != files[1].read_bytes():
        raise WeightsError(
            f"{base} and {other} have different {MODEL_FILE} files; expected the same vocabulary."
        )


def _facts(delta: Path) -> dict:
    if not (delta / FACTS_FILE).is_file():
        return {"base": {}, "types": {}}
    try:
        facts = json.loads((delta / FACTS_FILE).read_text(encoding="utf-8"))
        return {"base": dict(facts["base"]), "types": dict(facts["types"])}
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise WeightsError(f"{delta / FACTS_FILE} is damaged ({error!r}); fetch the file again.") from error


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _digest(tensor: Tensor) -> str:
    digest = hashlib.sha256(f"{tensor.dtype} {list(tensor.shape)} ".encode())
    digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _copy_others(source: Path, out: Path) -> None:
    """Everything but weights and their index: configuration, tokenizer, notices, the vision tower."""
    for pattern in _COPIED:
        for path in source.glob(pattern):
            if (
                path.is_file()
                and not path.name.endswith(".index.json")
                and path.name not in (FACTS_FILE, MANIFEST)
            ):
                shutil.copyfile(path, out / path.name)
    for folder in source.iterdir():
        if folder.is_dir() and not folder.name.startswith(".") and (folder / "config.json").is_file():
            shutil.copytree(folder, out / folder.name)
