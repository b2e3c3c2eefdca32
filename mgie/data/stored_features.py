"""What frozen parts would compute again in every epoch, kept beside the pairs.

    DIR/features/features.json
                  what made them: hashes of the models, of the preprocessing, of the pairs, of the files
    DIR/features/train/vae_source.npy, vae_target.npy
                  posterior moments, not samples: n x 2c x h x w, mean then deviation
    DIR/features/train/clip.npy
                  the vision tower's patch features: n x p x dv

The files are memory-mapped. Features belong to one model, one preprocessing and one data set; with any
other they are an error, not garbage.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from llava_patch.folders import whole_folder
from mgie.data.examples import ExampleBuilder
from mgie.data.shards import about_file, check_files
from mgie.data.stored_pairs import Shard, StoredPairs, read_facts, stored_splits
from mgie.data.validation import is_name
from mgie.errors import ConfigError, DataError, WeightsError
from mgie.models.codec import Codec
from mgie.models.encoders.base import AbstractInstructionEncoder
from mgie.types import EditPair

Kind = Literal["vae", "clip"]
Precision = Literal["float32", "float16", "bfloat16"]
FOLDER = "features"
FACTS = "features.json"
FIELDS = {"vae_source": "source_moments", "vae_target": "target_moments", "clip": "clip_features"}
"""File -> field of Example. A file's name begins with its kind."""
PREPROCESSING = 1
"""Raised when the same settings begin to mean other pixels."""


@dataclass(frozen=True)
class FeatureExtractor:
    """The frozen parts, and the builder that prepares pictures for them. A kind without its part is not
    stored."""

    builder: ExampleBuilder
    codec: Codec | None = None
    encoder: AbstractInstructionEncoder | None = None

    def identity(self) -> dict[str, str]:
        """Kind -> hash of everything that its features depend on, besides the pairs."""
        if self.builder.shapes:
            raise ConfigError(
                "features of pictures in several shapes cannot be stored: train from pixels, or in squares."
            )
        crop = {"preprocessing": PREPROCESSING, "compat": self.builder.compat}
        found = {}
        if self.codec is not None:
            found["vae"] = fingerprint(self.codec.vae, crop | {"size": self.builder.size})
        if self.encoder is not None:
            facts = self.builder.prompts.vision_facts | self.encoder.vision_facts
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
    folder: str | Path,
    extractor: FeatureExtractor,
    *,
    precision: Precision = "float16",
    batch_size: int = 8,
    device: str = "cpu",
    watch: Callable[[Iterable[Any], str], Iterable[Any]] | None = None,
) -> dict[str, Any]:
    """Compute and store the features of all splits of a data set; their facts. What is there stays."""
    facts = {"made_by": extractor.identity(), "precision": precision, "pairs": _hashes(folder)}
    if not facts["made_by"]:
        raise ConfigError("nothing to store: name vae, clip or both.")
    path = Path(folder) / FOLDER / FACTS
    if path.is_file():
        found = json.loads(path.read_text())
        if {name: found.get(name) for name in facts} == facts:
            return facts | {"reused": True}
    with whole_folder(path.parent, kind="features", hashed=False) as new:
        for split in stored_splits(folder):
            pairs = StoredPairs(folder, split)
            starts = range(0, len(pairs), batch_size)
            for start in watch(starts, f"features of {split}") if watch else starts:
                several = [pairs[index] for index in range(start, min(start + batch_size, len(pairs)))]
                write_features(new / split, extractor(several, device), start, len(pairs), precision)
        files = [about_file(new, each.relative_to(new).as_posix(), 0) for each in sorted(new.glob("*/*.npy"))]
        about = {
            each.file: {"size": each.bytes, "sha256": each.sha256, "sample": each.sample} for each in files
        }
        (new / FACTS).write_text(json.dumps(facts | {"files": about}, indent=2) + "\n")
    return facts | {"reused": False}


def write_features(
    folder: Path, found: dict[str, Tensor], start: int, rows: int, precision: Precision
) -> None:
    """Put the features of the pairs from `start` on into the files of a split that has so many `rows`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, values in found.items():
        bits = values.to(getattr(torch, precision)).contiguous()
        if bits.dtype == torch.bfloat16:  # NumPy has none: the same 16 bits
            bits = bits.view(torch.int16)
        path, shape = folder / f"{name}.npy", (rows, *bits.shape[1:])
        file = (
            np.load(path, mmap_mode="r+")
            if path.exists()
            else np.lib.format.open_memmap(path, mode="w+", dtype=bits.numpy().dtype, shape=shape)
        )
        file[start : start + len(bits)] = bits
        file.flush()


def check_features(folder: str | Path, *, sampled: bool = False) -> None:
    """Raise DataError unless the features of a data set, if it has any, are those that were written;
    `sampled`: of many bytes a sample is."""
    path = Path(folder) / FOLDER / FACTS
    if not path.parent.exists():
        return
    try:
        facts = json.loads(path.read_text())
        files = [
            Shard(name, 0, about["size"], about["sha256"], about["sample"])
            for name, about in facts["files"].items()
        ]
        if not all(is_name(file.file) for file in files):
            raise ValueError("a path leads out of the folder")
        same = facts["pairs"] == _hashes(folder)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path} is not what `mgie prepare --store` writes: store the features again, or remove "
            f"{path.parent}."
        ) from error
    if not same:
        raise DataError(f"{path.parent} holds features of other pairs: store them again with --store.")
    check_files(path.parent, files, sampled=sampled)


class StoredFeatures:
    """The features of one split: `[index]` gives those fields of Example that were stored."""

    def __init__(self, folder: str | Path, split: str, *, kinds: Sequence[Kind] = ("vae", "clip")):
        """Raises DataError where they are missing, or belong to other pairs than those of `folder`."""
        self.folder, self.split, self.kinds = Path(folder), split, tuple(kinds)
        path = self.folder / FOLDER / FACTS
        try:
            self.facts = json.loads(path.read_text())
            missing = set(kinds) - set(self.facts["made_by"])
            same = self.facts["pairs"][split] == _hashes(folder).get(split)
            self._dtype = getattr(torch, self.facts["precision"])
            self._files = {
                field: np.load(path.parent / split / f"{name}.npy", mmap_mode="c")
                for name, field in FIELDS.items()
                if name.partition("_")[0] in kinds and not missing
            }
        except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"{path.parent} holds no features of {split}: `mgie prepare ... --store vae,clip "
                "--model ...` makes them."
            ) from error
        if missing or not same:
            what = f"no {' and '.join(sorted(missing))} features" if missing else "features of other pairs"
            raise DataError(f"{path.parent} holds {what}: store them again with --store.")

    def require(self, extractor: FeatureExtractor) -> None:
        """Raise WeightsError unless exactly these parts and settings made the features, DataError where they
        are no longer what was written."""
        check_features(self.folder, sampled=True)
        wanted = extractor.identity()
        for kind in self.kinds:
            if self.facts["made_by"][kind] != wanted.get(kind):
                raise WeightsError(
                    f"the {kind} features in {self.folder / FOLDER} were made by another model, or from "
                    "pictures prepared otherwise: store them again with --store and this model, or train "
                    "from pixels."
                )

    def __len__(self) -> int:
        return len(next(iter(self._files.values())))

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        # No copy: "c" maps the files so that nobody can write into them.
        return {name: torch.from_numpy(file[index]).view(self._dtype) for name, file in self._files.items()}

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(StoredFeatures, kinds=self.kinds), (self.folder, self.split)


def _hashes(folder: str | Path) -> dict[str, str]:
    """Split -> hash of its rows."""
    return {split: about["sha256"] for split, about in read_facts(folder)["splits"].items()}
