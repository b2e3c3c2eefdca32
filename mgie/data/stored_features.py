"""What frozen parts would compute again each epoch, kept beside the pairs and memory-mapped.

DIR/features/SPLIT has vae_source.npy and vae_target.npy (moments of the posterior: n x 2c x h x w, mean then
deviation) and clip.npy (patch features: n x p x dv). They belong to one model, one preprocessing and one data
set, whose hashes are in features.json; with any other they are an error, not garbage.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from llava_patch.folders import whole_folder
from mgie.data.examples import ExampleBuilder
from mgie.data.files import is_name, read_json, reason
from mgie.data.shards import about_file, check_files
from mgie.data.stored_pairs import Shard, StoredPairs, row_hashes, stored_splits
from mgie.devices import Dtype
from mgie.errors import ConfigError, DataError, WeightsError
from mgie.lines import say
from mgie.models.codec import Codec
from mgie.models.encoders.base import AbstractInstructionEncoder
from mgie.types import EditPair

Kind = Literal["vae", "clip"]
Watch = Callable[[Iterable[Any], str], Iterable[Any]]
FOLDER = "features"
FACTS = "features.json"
FIELDS = {"vae_source": "source_moments", "vae_target": "target_moments", "clip": "clip_features"}
"""File -> field of Example. A file's name begins with its kind."""
PREPROCESSING = 1
"""Raised when the same settings begin to mean other pixels."""


@dataclass(frozen=True)
class FeatureExtractor:
    """Frozen parts, and the builder that prepares pictures for them; kinds without a part are not stored."""

    builder: ExampleBuilder
    codec: Codec | None = None
    encoder: AbstractInstructionEncoder | None = None

    def identity(self) -> dict[str, str]:
        """Kind -> hash of everything that its features depend on, besides the pairs."""
        builder, found = self.builder, {}
        if builder.shapes:
            wish = "train from pixels, or in squares"
            raise ConfigError(f"features of pictures in several shapes cannot be stored: {wish}.")
        crop = {"preprocessing": PREPROCESSING, "compat": builder.compat}
        if self.codec is not None:
            found["vae"] = fingerprint(self.codec.vae, crop | {"size": builder.size})
        if self.encoder is not None:
            facts = builder.prompts.vision_facts | self.encoder.vision_facts
            found["clip"] = fingerprint(self.encoder.vision_tower, crop | facts)
        return found

    @torch.no_grad()
    def __call__(self, pairs: Sequence[EditPair], device: str) -> dict[str, Tensor]:
        """Name of the file -> features of these pairs; zeros of a source that there is not."""
        builder, found = self.builder, {}
        targets = [builder.picture(pair.target, name=f"target of {pair.key}") for pair in pairs]
        here = torch.tensor([pair.source is not None for pair in pairs])
        sources = [
            target if pair.source is None else builder.picture(pair.source, name=f"source of {pair.key}")
            for pair, target in zip(pairs, targets)
        ]
        if self.codec is not None:
            for name, images in (("vae_source", sources), ("vae_target", targets)):
                pixels = torch.stack([builder.pixels(image) for image in images])
                found[name] = torch.cat(self.codec.moments(pixels.to(device)), dim=1).cpu()
            found["vae_source"] *= here[:, None, None, None]
        if self.encoder is not None:
            clip_pixels = torch.cat([builder.clip_pixels(image) for image in sources])
            seen = self.encoder.image_features(clip_pixels.to(device)).cpu()
            found["clip"] = seen * here[:, None, None]
        return found


def fingerprint(part: nn.Module, settings: dict[str, Any]) -> str:
    """Hash of a part's tensors and of the settings it is used with."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for name, value in sorted(part.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def store_features(
    folder: str | Path, extractor: FeatureExtractor, *, precision: Dtype = "float16",
    batch_size: int = 8, device: str = "cpu", watch: Watch | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Compute and store the features of all splits of a data set; their facts. What is there stays."""
    facts = {"made_by": extractor.identity(), "precision": precision, "pairs": row_hashes(folder)}
    if not facts["made_by"]:
        raise ConfigError("nothing to store: name vae, clip or both.")
    with suppress(DataError):
        found, _ = _read_facts(folder)
        if {name: found.get(name) for name in facts} == facts:
            say(f"the features in {folder} are of these pairs and parts, and stay.")
            return facts | {"reused": True}
    say(f"features of all pairs are stored in {folder}: {', '.join(facts['made_by'])} in {precision}.")
    with whole_folder(Path(folder) / FOLDER, kind="features", hashed=False) as new:
        for split in stored_splits(folder):
            pairs = StoredPairs(folder, split)
            starts = range(0, len(pairs), batch_size)
            for start in watch(starts, f"features of {split}") if watch else starts:
                several = [pairs[index] for index in range(start, min(start + batch_size, len(pairs)))]
                write_features(new / split, extractor(several, device), start, len(pairs), precision)
        files = [about_file(new, path.relative_to(new).as_posix(), 0) for path in sorted(new.glob("*/*.npy"))]
        about = {f.file: {"size": f.bytes, "sha256": f.sha256, "sample": f.sample} for f in files}
        (new / FACTS).write_text(json.dumps(facts | {"files": about}, indent=2) + "\n")
    return facts | {"reused": False}


def write_features(folder: Path, new: dict[str, Tensor], start: int, rows: int, precision: Dtype) -> None:
    """Put the features of the pairs from `start` on into the files of a split that has so many `rows`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, values in new.items():
        bits = values.to(getattr(torch, precision)).contiguous()
        bits = (bits.view(torch.int16) if precision == "bfloat16" else bits).numpy()  # NumPy has no bfloat16
        path, mode = folder / f"{name}.npy", "r+" if start else "w+"
        file = np.lib.format.open_memmap(path, mode=mode, dtype=bits.dtype, shape=(rows, *bits.shape[1:]))
        file[start : start + len(bits)] = bits


def check_features(folder: str | Path, *, sampled: bool = False) -> None:
    """Raise DataError unless stored features, if there are any, are as written (`sampled`: check_files)."""
    if (Path(folder) / FOLDER).exists():
        check_files(Path(folder) / FOLDER, _read_facts(folder)[1], sampled=sampled)


class StoredFeatures(Dataset):
    """The features of one split: `[index]` gives those fields of Example that were stored."""

    def __init__(self, folder: str | Path, split: str, *, kinds: Sequence[Kind] = ("vae", "clip")):
        """Raises DataError where they are missing, or belong to other pairs than those of `folder`."""
        self.folder, self.split, self.kinds = Path(folder), split, tuple(kinds)
        self.facts, _ = _read_facts(folder)
        place, missing = self.folder / FOLDER, sorted(set(kinds) - set(self.facts["made_by"]))
        if missing:
            raise DataError(f"{place} holds no {' and '.join(missing)} features: store them with --store.")
        self._dtype = getattr(torch, self.facts["precision"])
        paths = {FIELDS[n]: place / split / f"{n}.npy" for n in FIELDS if n.partition("_")[0] in kinds}
        try:
            self._files = {field: np.load(path, mmap_mode="c") for field, path in paths.items()}
        except (OSError, EOFError, ValueError) as error:
            wish = "store them again with --store"
            raise DataError(f"{place} holds no features of {split} ({reason(error)}): {wish}.") from error

    def require(self, extractor: FeatureExtractor) -> None:
        """Raise WeightsError unless these parts and settings made the features, DataError where damaged."""
        check_features(self.folder, sampled=True)
        wanted = extractor.identity()
        for kind in self.kinds:
            if self.facts["made_by"][kind] != wanted.get(kind):
                made = "were made by another model, or from pictures prepared otherwise"
                wish = "store them again with --store and this model, or train from pixels (data.features=[])"
                raise WeightsError(f"the {kind} features in {self.folder / FOLDER} {made}: {wish}.")

    def __len__(self) -> int:
        return len(next(iter(self._files.values())))

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        # No copy: "c" maps the files so that nobody can write into them.
        return {name: torch.from_numpy(file[index]).view(self._dtype) for name, file in self._files.items()}

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(StoredFeatures, kinds=self.kinds), (self.folder, self.split)


def stored_kinds(folders: Iterable[str | Path]) -> tuple[Kind, ...]:
    """Kinds of features that all of these data sets have stored. Raises DataError for files that are not
    whole."""
    there = [Path(each) for each in folders]
    if not all((folder / FOLDER / FACTS).is_file() for folder in there):
        return ()
    made = [_read_facts(folder)[0]["made_by"] for folder in there]
    return tuple(kind for kind in get_args(Kind) if all(kind in each for each in made))


def _read_facts(folder: str | Path) -> tuple[dict[str, Any], list[Shard]]:
    """What features.json says, and of which files. Raises DataError, also where it tells of other pairs."""
    place = Path(folder) / FOLDER

    def understand(facts: dict[str, Any]) -> tuple[dict[str, Any], list[Shard]]:
        files = facts["files"].items()
        if not all(map(is_name, facts["files"])) or not {"made_by", "precision", "pairs"} <= set(facts):
            raise ValueError("it is incomplete")
        return facts, [Shard(name, 0, a["size"], a["sha256"], a["sample"]) for name, a in files]

    facts, files = read_json(place / FACTS, understand, "what `mgie prepare --store` writes; store it again")
    if facts["pairs"] != row_hashes(folder):
        raise DataError(f"{place} holds features of other pairs: store them again with --store.")
    return facts, files
