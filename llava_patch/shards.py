"""Files of tensors: which belong to a folder, reading one safely, writing many.

Only tensors are read: safetensors, or pickles through torch's restricted loader. One file is open at a time.
"""

import json
import os
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from llava_patch.errors import WeightsError

SAFE_FILE, SAFE_INDEX = "model.safetensors", "model.safetensors.index.json"
STEMS = ("model", "pytorch_model")
"""How transformers' files of weights begin: safetensors, and pickles."""
PORTION = 128 * 2**20
"""Bytes of a file that are mapped at a time, about."""
SHARD_BYTES = 5 * 1024**3
"""Greatest size of one written file, as published models have it."""


def shard_files(folder: str | Path, *, stems: tuple[str, str] = STEMS) -> list[Path]:
    """The files that hold a folder's weights: its index's, else the single one, else numbered ones."""
    folder = Path(folder)
    singles = [stem + suffix for stem, suffix in zip(stems, (".safetensors", ".bin"), strict=True)]
    if not folder.is_dir():
        raise WeightsError(f"{folder} is no folder; expected a folder with {' or '.join(singles)} or shards.")
    for single in singles:
        if (folder / f"{single}.index.json").is_file():
            return _indexed(folder, f"{single}.index.json")
        if (folder / single).is_file():
            return [folder / single]
        if numbered := sorted(folder.glob(single.replace(".", "-*."))):
            _check_numbers(folder, numbered)
            return numbered
    raise WeightsError(
        f"{folder} holds no weights: expected {', '.join(singles)}, or numbered shards of either; fetch them."
    )


def read_tensors(path: str | Path, *, within: str | None = None) -> dict[str, Tensor]:
    """All tensors of one safetensors, .bin or .pt file, mapped rather than read where the file allows it.

    A pickle may have them under the key `within`, beside plain values that are passed over.
    """
    path = Path(path)
    if not path.is_file():
        what = "is a folder, expected a file of weights" if path.is_dir() else "is missing"
        raise WeightsError(f"{path} {what}; fetch the file.")
    return _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path, within)


def each_shard(
    source: str | Path, *, progress: bool = True, title: str = "loading", stems: tuple[str, str] = STEMS
) -> Iterator[tuple[Path, dict[str, Tensor]]]:
    """The files of a folder, or one file, in turn: (path, tensors). A name in two files is an error.

    Take the tensors out of the dictionary to hold no more than one file in memory.
    """
    source = Path(source)
    files = [source] if source.is_file() else shard_files(source, stems=stems)
    seen: dict[str, Path] = {}
    with tqdm(files, desc=f"{title} {source.name}", unit="file", disable=not progress, leave=False) as bar:
        for path in bar:
            tensors = read_tensors(path)
            for name in tensors:
                if name in seen:
                    raise WeightsError(
                        f"{name} is in {seen[name].name} and in {path.name} of {path.parent}, expected it "
                        "once; "
                        "remove the files of the other set."
                    )
                seen[name] = path
            yield path, tensors


class TensorFolder:
    """Random access to a folder's tensors by name; one file is open at a time."""

    def __init__(self, folder: str | Path, *, progress: bool = True) -> None:
        """List the names and shapes of all tensors."""
        self.folder = Path(folder)
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._files: dict[str, Path] = {}
        self._open: tuple[Path, dict[str, Tensor]] | None = None
        for path, tensors in each_shard(folder, progress=progress, title="listing"):
            self.shapes.update((name, tuple(tensor.shape)) for name, tensor in tensors.items())
            self._files.update(dict.fromkeys(tensors, path))

    def __getitem__(self, name: str) -> Tensor:
        """One tensor."""
        path = self._files[name]
        if self._open is None or self._open[0] != path:
            self._open = (path, read_tensors(path))
        return self._open[1][name]


class ShardWriter:
    """Writes tensors as they come into safetensors files of at most `limit` bytes, then the index."""

    def __init__(self, folder: str | Path, *, limit: int = SHARD_BYTES) -> None:
        """`folder` exists; the files get their published names when `close` is called."""
        self.folder = Path(folder)
        self.limit = limit
        self._pending: dict[str, Tensor] = {}
        self._size = 0
        self._written: list[list[str]] = []
        self._total = 0

    def add(self, name: str, tensor: Tensor) -> None:
        """Take one tensor."""
        size = tensor.numel() * tensor.element_size()
        if self._pending and self._size + size > self.limit:
            self._flush()
        # A copy: the tensor may be mapped from a file that closes, or share its storage with another one.
        self._pending[name] = tensor.detach().cpu().contiguous().clone()
        self._size += size
        self._total += size

    def close(self) -> None:
        """Write what is left and name the files."""
        if self._pending:
            self._flush()
        count = len(self._written)
        if count == 1:
            os.replace(self._part(0), self.folder / SAFE_FILE)
            return
        weight_map = {}
        for number, names in enumerate(self._written):
            final = f"model-{number + 1:05d}-of-{count:05d}.safetensors"
            os.replace(self._part(number), self.folder / final)
            weight_map.update(dict.fromkeys(names, final))
        index = {"metadata": {"total_size": self._total}, "weight_map": dict(sorted(weight_map.items()))}
        (self.folder / SAFE_INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")

    def _part(self, number: int) -> Path:
        return self.folder / f".part-{number:05d}.safetensors"

    def _flush(self) -> None:
        save_file(self._pending, self._part(len(self._written)), metadata={"format": "pt"})
        self._written.append(list(self._pending))
        self._pending, self._size = {}, 0


def write_tensors(
    folder: str | Path, tensors: Iterable[tuple[str, Tensor]], *, limit: int = SHARD_BYTES
) -> None:
    """Write (name, tensor) pairs into a folder, in one file or in numbered ones with an index."""
    writer = ShardWriter(folder, limit=limit)
    for name, tensor in tensors:
        writer.add(name, tensor)
    writer.close()


def _indexed(folder: Path, index: str) -> list[Path]:
    try:
        weight_map = json.loads((folder / index).read_text(encoding="utf-8"))["weight_map"]
        names = sorted(set(weight_map.values()))
        files = [folder / name for name in names]
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise WeightsError(
            f"{folder / index} is no index of shards ({error!r}); fetch the file again."
        ) from error
    if outside := [name for name in names if name in ("", "..") or set(name) & {"/", "\\", "\0"}]:
        raise WeightsError(
            f"{folder / index} names {outside[0]!r}, expected files beside it; fetch the file again."
        )
    absent = [path.name for path in files if not path.is_file()]
    if absent:
        raise WeightsError(f"{folder} lacks {', '.join(absent)}, which its {index} names; fetch the files.")
    return files


def _check_numbers(folder: Path, files: list[Path]) -> None:
    total = files[0].stem.rpartition("-of-")[2]
    if total.isdigit() and int(total) != len(files):
        raise WeightsError(f"{folder} has {len(files)} of {int(total)} shards; fetch the missing ones.")


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    """Mapped in portions: what has been read of a file is given back with the last tensor of a portion."""
    tensors: dict[str, Tensor] = {}
    try:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
        step = -(-len(names) // -(-path.stat().st_size // PORTION)) or 1
        for start in range(0, len(names), step):
            with safe_open(path, framework="pt") as file:
                tensors |= {name: file.get_tensor(name) for name in names[start : start + step]}
    except SafetensorError as error:
        raise _unreadable(path, f" ({error})") from error
    return tensors


def _read_pickle(path: Path, within: str | None) -> dict[str, Tensor]:
    try:
        content = _restricted_load(path)
    except UnpicklingError as error:
        if not _is_zip(path) and path.stat().st_size and not _looks_like_pickle(path):
            raise _unreadable(path) from error
        raise WeightsError(
            f"{path} holds something other than tensors, so it was not opened ({_first_reason(error)}); "
            "use a file that holds only weights."
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise _unreadable(path) from error
    if isinstance(content, dict) and isinstance(content.get(within), dict):
        content = content[within]
    if not isinstance(content, dict):
        raise WeightsError(
            f"{path} holds a {type(content).__name__}, expected tensors by name; use another file."
        )
    others = [
        f"{name!r} ({_kind(value)})"
        for name, value in content.items()
        if not isinstance(name, str) or _kind(value) != "tensor"
    ]
    if others:
        raise WeightsError(
            f"{path} holds something other than tensors: "
            f"{', '.join(others[:8])}{' ...' if len(others) > 8 else ''}; "
            "use a file that holds only weights."
        )
    return dict(content)


def _unreadable(path: Path, reason: str = "") -> WeightsError:
    """The error of a file that is whole weights no more, or never was."""
    with path.open("rb") as file:
        head = file.read(64).lstrip()
    if head.startswith(b"version https://git-lfs"):
        return WeightsError(
            f"{path} is git-lfs's pointer to the weights; fetch the file itself (`git lfs pull`)."
        )
    if head.startswith(b"<"):
        return WeightsError(f"{path} is a web page, no file of weights; fetch the file again.")
    return WeightsError(
        f"{path} ({path.stat().st_size} bytes) is damaged or cut short{reason}; fetch the file again."
    )


def _kind(value: object) -> str:
    """What a value is: "tensor" if it is one that weights may be; one without values is not."""
    if not isinstance(value, Tensor):
        return type(value).__name__
    if value.is_meta or value.is_complex() or value.layout != torch.strided:
        return f"{'empty' if value.is_meta else value.dtype if value.is_complex() else value.layout} tensor"
    return "tensor"


def _restricted_load(path: Path) -> object:
    with warnings.catch_warnings():
        # The loader warns of pickles that it then refuses; the refusal says enough.
        warnings.simplefilter("ignore")
        return torch.load(path, map_location="cpu", weights_only=True, mmap=_is_zip(path))


def _is_zip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


def _looks_like_pickle(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(1) == b"\x80"


def _first_reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if "GLOBAL" in line or "Unsupported" in line]
    return (lines or [type(error).__name__])[0][:160]
