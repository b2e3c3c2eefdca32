"""Tensors of checkpoints in shards, a file of each process: torch's distributed checkpoints.

The files are safetensors, which say in their headers where in a whole tensor a shard belongs, so that any
number of processes reads what any other number has written, each its own share; one without a process group
reads the whole. Tensors are named "trained.<name>", "ema.<name>" and "optimizer.<name>|<kind of moment>".
"""

import errno
import warnings
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from safetensors import SafetensorError
from torch import Tensor

from mgie.errors import WeightsError

SHARDS = "shards"
"""The folder within a checkpoint."""
TRAINED, EMA, OPTIMIZER = "trained.", "ema.", "optimizer."
"""How names begin."""


def are_in(checkpoint: Path) -> bool:
    """Whether a checkpoint lies in shards."""
    return (checkpoint / SHARDS).is_dir()


def shapes(checkpoint: Path, kind: str) -> dict[str, Tensor]:
    """The tensors of one kind, by name, without values: on the meta device. Raises WeightsError."""
    with _telling(checkpoint):
        known = _reader(checkpoint).read_metadata().state_dict_metadata
        return {
            name.removeprefix(kind): torch.empty(facts.size, dtype=facts.properties.dtype, device="meta")
            for name, facts in known.items()
            if name.startswith(kind) and isinstance(facts, dcp.TensorStorageMetadata)
        }


def read_whole(checkpoint: Path, kind: str) -> dict[str, Tensor]:
    """The tensors of one kind, whole, by one process alone. Raises WeightsError."""
    tensors = {
        f"{kind}{name}": torch.empty_like(each, device="cpu")
        for name, each in shapes(checkpoint, kind).items()
    }
    with _telling(checkpoint), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")
        if tensors:
            dcp.load(tensors, storage_reader=_reader(checkpoint), no_dist=True)
    return {name.removeprefix(kind): tensor for name, tensor in tensors.items()}


def read_shares(checkpoint: Path, tensors: dict[str, Tensor], *, group: Any) -> None:
    """Fill this process's shares of `tensors`, in place; all processes of `group` do so together.

    Raises WeightsError.
    """
    with _telling(checkpoint):
        dcp.load(dict(tensors), storage_reader=_reader(checkpoint), process_group=group)


def write_shares(folder: Path, tensors: dict[str, Tensor], *, group: Any) -> Future:
    """Begin to write this process's shares into `folder`, with all processes of `group`, of the kind gloo.

    What they are now is written: they may be changed at once. The future ends when everyone's are there, or
    with the error of any (`disk_full`).
    """
    writer = dcp.HuggingFaceStorageWriter(str(folder / SHARDS), save_distributed=True)
    written = dcp.async_save(tensors, storage_writer=writer, process_group=group)
    assert isinstance(written, Future)
    return written


def disk_full(error: BaseException) -> OSError | None:
    """The error of a full disk, where that is what stopped any process."""
    told = str(error)
    full = "No space left" in told or "Disk quota" in told or "disk is full" in told
    return OSError(errno.ENOSPC, "No space left on device") if full else None


def _reader(checkpoint: Path) -> Any:
    return dcp.HuggingFaceStorageReader(str(checkpoint / SHARDS))


@contextmanager
def _telling(checkpoint: Path) -> Iterator[None]:
    """One sentence of whatever the library meets in files that are not what they were."""
    try:
        yield
    except (
        dcp.api.CheckpointException,
        SafetensorError,
        OSError,
        KeyError,
        ValueError,
        RuntimeError,
    ) as error:
        causes = list(getattr(error, "failures", {}).values())
        first = " ".join(str(causes[0][0] if causes else error).split())[:200]
        raise WeightsError(
            f"the shards of checkpoint {checkpoint} do not fit the model or are damaged ({first}): use the "
            "recipe it was trained with, or an earlier checkpoint."
        ) from error
