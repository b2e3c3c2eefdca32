"""The golden folder: outputs of a reference implementation, and the seeded weights that gave them.

`MGIE_GOLDENS=DIR` chooses another folder of the same layout; without it the numbers in tests/golden are used,
and tests that need pictures are skipped. Nothing here knows a size, a seed, a prompt or the name of a case.
"""

import base64
import json
import os
import pickle
import zlib
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import CLIPVisionConfig, LlamaConfig

from llava_patch import ClipImageConfig, Llava, LlavaConfig, LlavaTokenizer, Processor
from llava_patch.tokens import IMAGE_TOKENS, ImageTokens
from llava_patch.weights import to_published

_INSIDE = Path(__file__).parent.parent / "golden"


def golden_folder(system: str) -> Path:
    """The folder of one system's goldens."""
    return Path(os.environ.get("MGIE_GOLDENS") or _INSIDE) / system


@cache
def facts(system: str, name: str) -> dict:
    """The content of one of its JSON files."""
    return json.loads((golden_folder(system) / f"{name}.json").read_text(encoding="utf-8"))


@cache
def arrays(system: str, name: str) -> dict[str, np.ndarray]:
    """All arrays of one of its .npz files."""
    with np.load(golden_folder(system) / f"{name}.npz") as file:
        return {key: file[key] for key in file.files}


def tensor(system: str, name: str, key: str) -> torch.Tensor:
    """One array as a tensor; integers as int64."""
    value = torch.from_numpy(arrays(system, name)[key].copy())
    return value.long() if value.dtype in (torch.int32, torch.int16) else value


def samples_folder(system: str) -> Path:
    """The pictures beside the goldens or the repository; skips the test where there are none."""
    root = os.environ.get("MGIE_GOLDENS")
    near = (Path(root).parent, Path(__file__).parents[3] / "shared") if root else ()
    for folder in (place / "samples" / system for place in near):
        if folder.is_dir():
            return folder
    pytest.skip(
        "needs photographs that are not in the repository: set MGIE_GOLDENS to a folder of goldens that has "
        "samples/ beside it"
    )


@cache
def data_pictures(system: str) -> dict[str, tuple[bytes, bytes]]:
    """Files before and after the edit, by key; skips the test where there are none."""
    folder = golden_folder(system) / "data"
    if not folder.is_dir():
        pytest.skip(
            "needs pictures that are not in the repository: set MGIE_GOLDENS to a folder with mgie/data"
        )
    with (folder / "ipr2pr.pkl").open("rb") as file:
        entries = _PlainUnpickler(file).load()["task"]
    lines = (folder / "ipr2pr.tsv").read_bytes()
    found = {}
    for (entry,) in entries:
        line = lines[entry["lineidx"] :].split(b"\n", 1)[0]
        before, after = (base64.b64decode(part) for part in line.split(b"\t"))
        found[entry["input"]] = (before, after)
    return found


class _PlainUnpickler(pickle.Unpickler):
    """Only dictionaries, lists, texts and numbers."""

    def find_class(self, module: str, name: str) -> object:
        raise pickle.UnpicklingError(f"{module}.{name} is not plain data")


def seeded(name: str, shape: tuple[int, ...], seed: int, scale: float | None = None) -> np.ndarray:
    """The float32 values that (name, shape, seed) determine; without `scale`, one that suits the name."""
    rng = np.random.RandomState((zlib.crc32(name.encode()) ^ (seed * 2654435761)) & 0xFFFFFFFF)
    drawn = rng.standard_normal(int(np.prod(shape, dtype=np.int64))).astype(np.float32).reshape(shape)
    if scale is not None:
        return drawn * np.float32(scale)
    if len(shape) >= 2:
        return drawn * np.float32(1.0 / np.sqrt(max(int(np.prod(shape[1:], dtype=np.int64)), 1)))
    if name.lower().endswith("weight") and "norm" in name.lower():
        return np.float32(1.0) + np.float32(0.02) * drawn
    return drawn * np.float32(0.02)


def relative(ours: torch.Tensor | np.ndarray, reference: torch.Tensor | np.ndarray) -> float:
    """Greatest difference, relative to the reference's greatest value."""
    left, right = (
        np.asarray(torch.as_tensor(value).detach(), dtype=np.float64) for value in (ours, reference)
    )
    assert left.shape == right.shape, f"shapes differ: ours {left.shape}, the reference's {right.shape}"
    return float(np.abs(left - right).max() / np.abs(right).max())


# What follows is MGIE's; other systems have no LLaVA.


def mgie_tokenizer() -> LlavaTokenizer:
    """The tokenizer with all tokens that the reference added, in its order."""
    tokenizer = LlavaTokenizer.from_pretrained(golden_folder("mgie") / "tokenizer")
    added = facts("mgie", "train")["tokenizer"]["added"]
    tokenizer.add_tokens(sorted(added, key=added.__getitem__))
    return tokenizer


def mgie_visual_tokens() -> list[str]:
    """Names of the visual tokens, in order."""
    added = facts("mgie", "train")["tokenizer"]["added"]
    return [name for name in sorted(added, key=added.__getitem__) if name not in IMAGE_TOKENS]


def mgie_llava_config() -> LlavaConfig:
    """Sizes of the goldens' LLaVA."""
    config = facts("mgie", "config")
    language = {name: value for name, value in config["llm"].items() if not name.startswith("vocab_size")}
    return LlavaConfig(
        language=LlamaConfig(**language, vocab_size=facts("mgie", "train")["tokenizer"]["len"]),
        vision=CLIPVisionConfig(**config["clip"]),
        vision_tower="vision_tower",
        vision_layer=config["mm_vision_select_layer"],
        use_im_start_end=True,
    )


def mgie_llava() -> Llava:
    """The goldens' LLaVA with its seeded weights."""
    config = mgie_llava_config()
    model = Llava.from_config(
        config, ImageTokens.of(mgie_tokenizer(), use_im_start_end=config.use_im_start_end)
    )
    for name, value in model.state_dict().items():
        published = to_published(name)
        drawn = seeded(published, tuple(value.shape), facts("mgie", "config")["seed"])
        value.copy_(torch.from_numpy(drawn))
    return model.eval()


def mgie_override(model: Llava) -> None:
    """Put in the rows that make the random language model say the visual tokens."""
    tables = {"embed": model.language_model.model.embed_tokens, "lm": model.language_model.lm_head}
    for name, table in tables.items():
        ids, rows = (tensor("mgie", "infer", f"override_{name}_{part}") for part in ("ids", "rows"))
        table.weight.data[ids] = rows


def mgie_processor() -> Processor:
    """The goldens' prompts and CLIP preprocessing."""
    config, published = mgie_llava_config(), facts("mgie", "config")["clip_processor"]
    clip_pixels = ClipImageConfig(
        size=published["center_crop"],
        edge=published["resize_shortest_edge"],
        mean=tuple(published["mean"]),
        std=tuple(published["std"]),
        resample=ClipImageConfig.clip(published["center_crop"]).resample,
    )
    return Processor(mgie_tokenizer(), clip_pixels, config.patches, "vicuna_v1_1", config.use_im_start_end)


def mgie_turn(prompt: str) -> tuple[str, str | None]:
    """Question and answer of one of the reference's prompts."""
    before, _, rest = prompt.partition("\n<im_start>")
    answer = rest.partition("ASSISTANT:")[2].removesuffix("</s>").strip()
    return before.partition("USER: ")[2], answer or None
