"""Published names of weights <-> ours, strictly. LLaVA-v1, Vicuna and LLaMA folders, both ways."""

import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor

from llava_patch.config import CONFIG_FILE, TOWER_FOLDER, LlavaConfig, resolve_tower
from llava_patch.errors import ConfigError, WeightsError
from llava_patch.folders import whole_folder
from llava_patch.loading import Dtypes, put, renamed, typed
from llava_patch.model import FullPrecisionRotary, Llava, build_parts
from llava_patch.shards import SHARD_BYTES, each_shard, shard_files, write_tensors
from llava_patch.sizes import no_larger_than
from llava_patch.tokenizer import LlavaTokenizer
from llava_patch.tokens import IM_PATCH, IMAGE_TOKENS, ImageTokens

_LLAVA_NAMES = (
    ("model.vision_tower.vision_model.", "vision_tower."),
    ("model.mm_projector.", "projector."),
    ("model.", "language_model.model."),
    ("lm_head.", "language_model.lm_head."),
)
"""Beginnings of names in a LLaVA-v1 folder or training checkpoint, and ours. The first that fits counts."""
_TOWER_NAMES = (("vision_model.", "vision_tower."), ("", "vision_tower."))
"""The same for the folder of a CLIP vision tower; transformers 5 saves it without a beginning."""
_TOWER_STRANGERS = ("text_model.", "text_projection.", "visual_projection.", "logit_scale")
"""What a whole CLIP folder has besides its vision tower."""
_CONSTANTS = ("rotary_emb.inv_freq", "position_ids")
"""Buffers in old checkpoints that follow from the configuration."""


def from_published(name: str) -> str | None:
    """Our name of a published tensor. None: a constant that follows from the configuration."""
    return _translate(name, _LLAVA_NAMES)


def to_published(name: str) -> str:
    """The published name of one of our tensors."""
    for published, ours in _LLAVA_NAMES:
        if name.startswith(ours):
            return published + name[len(ours) :]
    raise WeightsError(f"{name} is no tensor of LLaVA, expected vision_tower., projector. or language_model.")


def is_constant(name: str) -> bool:
    """Whether a published tensor is a buffer that follows from the configuration: frequencies, positions."""
    return name.endswith(_CONSTANTS)


def load_llava(
    folder: str | Path,
    *,
    dtype: Dtypes = torch.float32,
    device: torch.device | str = "cpu",
    attn_implementation: str = "sdpa",
    vision_tower: str | Path | None = None,
    progress: bool = True,
) -> tuple[Llava, LlavaTokenizer]:
    """Load a merged LLaVA-v1 folder: every tensor equals the file's, in `dtype`; any surprise is one error.

    Parts may have types of their own: {"": float32, "language_model.model.layers": bfloat16}. Memory: the
    model in these types, and one shard. `vision_tower` overrides the tower that config.json names.
    """
    config = LlavaConfig.from_pretrained(folder, vision_tower=vision_tower)
    tokenizer = LlavaTokenizer.from_pretrained(folder)
    missing = [name for name in IMAGE_TOKENS if name not in tokenizer.added]
    if missing and (config.use_im_start_end or IM_PATCH in missing):
        raise WeightsError(
            f"the tokenizer of {folder} lacks {', '.join(missing)} (it adds "
            f"{list(tokenizer.added) or 'nothing'}); use "
            "the tokenizer files of a LLaVA folder, or start_llava to begin with a language model."
        )
    _check_vocabulary(folder, config, tokenizer)
    tokens = ImageTokens.of(tokenizer, use_im_start_end=config.use_im_start_end)
    with no_larger_than(_files(folder, config), folder):
        model = _empty(config, tokens, dtype=dtype, device=device, attn_implementation=attn_implementation)
    _fill(model, folder, device=device, progress=progress)
    return model, tokenizer


def empty_llava(folder: str | Path, *, attn_implementation: str = "sdpa") -> Llava:
    """A LLaVA without values, on the meta device, by its small files alone: for what only asks for sizes."""
    config, tokenizer = LlavaConfig.from_pretrained(folder), LlavaTokenizer.from_pretrained(folder)
    tokens = ImageTokens.of(tokenizer, use_im_start_end=config.use_im_start_end)
    with torch.device("meta"):
        return Llava(config, tokens, **build_parts(config, attn_implementation=attn_implementation))


def start_llava(
    folder: str | Path,
    *,
    vision_tower: str | Path,
    vision_layer: int,
    use_im_start_end: bool = True,
    seed: int = 0,
    dtype: Dtypes = torch.float32,
    device: torch.device | str = "cpu",
    attn_implementation: str = "sdpa",
    progress: bool = True,
) -> tuple[Llava, LlavaTokenizer]:
    """Begin a LLaVA with a Vicuna or LLaMA folder and a vision tower.

    The projector, and the rows of image tokens that the tokenizer lacked, are random values from `seed`.
    """
    config = LlavaConfig.from_pretrained(
        folder, vision_tower=vision_tower, vision_layer=vision_layer, use_im_start_end=use_im_start_end
    )
    tokenizer = LlavaTokenizer.from_pretrained(folder)
    _check_vocabulary(folder, config, tokenizer)
    tokenizer.add_tokens(IMAGE_TOKENS if use_im_start_end else [IM_PATCH])
    tokens = ImageTokens.of(tokenizer, use_im_start_end=use_im_start_end)
    with no_larger_than(_files(folder, config), folder):
        model = _empty(config, tokens, dtype=dtype, device=device, attn_implementation=attn_implementation)
    model.projector.to_empty(device=device)
    generator = torch.Generator().manual_seed(seed)
    bound = config.vision.hidden_size**-0.5
    for value in model.projector.parameters():
        value.data.copy_(torch.empty(value.shape).uniform_(-bound, bound, generator=generator))
    _fill(model, folder, device=device, progress=progress, fresh=(to_published("projector."),))
    model.grow(max(len(tokenizer) - model.vocabulary, 0), generator=generator)
    return model, tokenizer


def save_llava(
    model: Llava,
    tokenizer: LlavaTokenizer,
    folder: str | Path,
    *,
    limit: int = SHARD_BYTES,
    tower: bool = True,
) -> None:
    """Write a LLaVA-v1 folder with published names as safetensors; it appears when all of it is there.

    With `tower` the vision tower goes into the folder too; else config.json names the one it came with.
    """
    with whole_folder(folder, kind="LLaVA", replace=False) as partial:
        write_llava(model, tokenizer, partial, limit=limit, tower=tower)


def write_llava(
    model: Llava, tokenizer: LlavaTokenizer, folder: Path, *, limit: int = SHARD_BYTES, tower: bool = True
) -> None:
    """What `save_llava` writes, into a folder that is being made already."""
    folder.mkdir(exist_ok=True)
    config = replace(model.config, vision_tower=TOWER_FOLDER) if tower else model.config
    _write_json(folder / CONFIG_FILE, config.to_published() | {"torch_dtype": _dtype_name(model.dtype)})
    tokenizer.save_pretrained(folder)
    write_tensors(folder, _named(model, of_tower=False), limit=limit)
    if tower:
        (folder / TOWER_FOLDER).mkdir()
        vision = config.vision.to_dict() | {
            "architectures": ["CLIPVisionModel"],
            "torch_dtype": _dtype_name(model.vision_tower.dtype),
        }
        _write_json(folder / TOWER_FOLDER / CONFIG_FILE, vision)
        write_tensors(folder / TOWER_FOLDER, _named(model, of_tower=True), limit=limit)


def _translate(name: str, table: tuple[tuple[str, str], ...]) -> str | None:
    if is_constant(name):
        return None
    for published, ours in table:
        if name.startswith(published):
            return ours + name[len(published) :]
    return name


def _named(model: Llava, *, of_tower: bool) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in model.state_dict().items():
        if name.startswith("vision_tower.") == of_tower:
            yield (
                _TOWER_NAMES[0][0] + name.removeprefix("vision_tower.") if of_tower else to_published(name),
                tensor,
            )


def _check_vocabulary(folder: str | Path, config: LlavaConfig, tokenizer: LlavaTokenizer) -> None:
    if len(tokenizer) > config.language.vocab_size:
        raise ConfigError(
            f"the tokenizer of {folder} has {len(tokenizer)} tokens, but its config.json a vocabulary of "
            f"{config.language.vocab_size}; the files belong to different models."
        )


def _empty(
    config: LlavaConfig,
    tokens: ImageTokens,
    *,
    dtype: Dtypes,
    device: torch.device | str,
    attn_implementation: str,
) -> Llava:
    """The model on the meta device, but for the constants that follow from the configuration."""
    with torch.device("meta"):
        model = Llava(config, tokens, **build_parts(config, attn_implementation=attn_implementation))
    model = typed(model, dtype)
    model.language_model.model.rotary_emb = FullPrecisionRotary(config.language).to(device)
    embeddings = model.vision_tower.embeddings
    embeddings.register_buffer(
        "position_ids", torch.arange(embeddings.num_positions, device=device)[None], persistent=False
    )
    return model


def _fill(
    model: Llava,
    folder: str | Path,
    *,
    device: torch.device | str,
    progress: bool,
    fresh: tuple[str, ...] = (),
) -> None:
    """Give the model the tensors of the folder and of its tower; one error lists all that does not fit."""
    tower = resolve_tower(folder, model.config.vision_tower)
    shards = chain(
        renamed(each_shard(tower, progress=progress), _of_tower),
        renamed(each_shard(folder, progress=progress), _of_folder),
    )
    where = f"{folder} (vision tower {tower})"
    put(model, shards, where=where, device=device, names=to_published, optional=fresh)


def _of_tower(name: str) -> str | None:
    """What a LLaVA folder would call a tensor of a CLIP folder. None: nothing of the vision tower."""
    ours = _translate(name, _TOWER_NAMES)
    return None if ours is None or name.startswith(_TOWER_STRANGERS) else to_published(ours)


def _of_folder(name: str) -> str | None:
    return None if is_constant(name) else name


def _files(folder: str | Path, config: LlavaConfig) -> list[Path]:
    """All files that the model and its tower are filled from."""
    return [*shard_files(folder), *shard_files(resolve_tower(folder, config.vision_tower))]


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _write_json(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content, indent=2, default=str) + "\n", encoding="utf-8")
