"""Trained controllers on disk: folders beside the parts of a release, or published files.

controllers/layout/config.json         the kind of its blocks ("migc", "migc++"), their heads, how they paint
controllers/layout/model.safetensors   the tensors, by their published names (migc.py)
controllers/layout/text_encoder, tokenizer/   who reads the phrases, where the editor's own encoder does not
controllers/identity/{config.json,model.safetensors}   tokens of looks: their sizes, the tensors
"""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from llava_patch.folders import whole_folder
from llava_patch.loading import Dtypes
from llava_patch.ranges import check_ranges
from llava_patch.shards import read_tensors
from llava_patch.tokenizer import MODEL_FILE, LlavaTokenizer
from mgie.controllers.identity import IdentityBlocks
from mgie.controllers.layout import LayoutBlocks
from mgie.controllers.layout_blocks import SLOTS
from mgie.controllers.layout_learning import KINDS, new_blocks
from mgie.controllers.layout_options import LayoutTraining, LayoutWay
from mgie.errors import ConfigError, WeightsError
from mgie.models.editor import Editor, vision_width
from mgie.models.encoders.clip_text import ClipTextEncoder
from mgie.models.encoders.phrases import PhraseReader
from mgie.prompts import AbstractPrompts, LlavaPrompts
from mgie.weights.clip_part import TEXT_ENCODER, TOKENIZER, read_tokenizer
from mgie.weights.diffusers_parts import load_text_model
from mgie.weights.migc import PUBLISHED_HEADS, published_names, read_blocks, write_blocks
from mgie.weights.models import read_json
from mgie.weights.parts import dtype_of, resolve

CONTROLLERS, LAYOUT, IDENTITY = "controllers", "layout", "identity"
CONTROLLER = "controller"
"""Kind of a folder that holds one alone."""
CONFIG, WEIGHTS = "config.json", "model.safetensors"
MOST = {kind: SLOTS - 1 - int(block.with_background) for kind, block in KINDS.items()}
"""How many regions a picture may have."""


def read_controllers(
    folder: Path, *, controller: str | Path | None = None, dtype: Dtypes = torch.float32
) -> dict[str, nn.Module]:
    """Those of a release's folder; `controller`, a published file or such a folder, takes the layout's place.

    Raises WeightsError.
    """
    own, known = folder / CONTROLLERS / LAYOUT, folder / CONTROLLERS / IDENTITY
    found: dict[str, nn.Module] = {}
    if known.is_dir():
        found[IDENTITY] = _read_identity(known, dtype_of(dtype, IDENTITY))
    if controller is not None or own.is_dir():
        found[LAYOUT] = _read_layout(own if controller is None else Path(controller), dtype)
    return found


def _read_layout(where: Path, dtype: Dtypes) -> LayoutBlocks:
    kind = dtype_of(dtype, LAYOUT)
    if not where.is_dir():
        return LayoutBlocks(read_blocks(where, dtype=kind))
    config = _config(where)
    blocks = read_blocks(where / WEIGHTS, heads=config["heads"], dtype=kind)
    if strange := [site for site, block in blocks.items() if type(block) is not KINDS[config["kind"]]]:
        raise WeightsError(
            f"{where / CONFIG} says {config['kind']}, and the block of {strange[0]} in {WEIGHTS} is of the "
            "other kind: use files that belong together."
        )
    reader = None
    if (where / TEXT_ENCODER).is_dir():
        reader = _reader(where, _tokenizer(where / TOKENIZER), pooled=config["pooled"], dtype=kind)
    return LayoutBlocks(blocks, way=config["way"], reader=reader)


def write_controllers(controllers: Mapping[str, Any], folder: Path) -> None:
    """Write each into its own folder of a new release; nothing where there are none. Raises ConfigError for
    blocks that the published files have no names for."""
    for name, controller in controllers.items():
        write = _write_identity if name == IDENTITY else _write
        write(controller, folder / CONTROLLERS / name)


def write_controller(controller: LayoutBlocks, out: str | Path) -> Path:
    """Write blocks for layouts into a folder of their own, whole or not at all, over an older one: what
    `controller` of `read_controllers` may be. Raises ConfigError as `write_controllers` does."""
    with whole_folder(out, kind=CONTROLLER) as partial:
        _write(controller, partial)
    return Path(out)


def published_controller(path: str | Path, diffusion: str | Path) -> LayoutBlocks:
    """Blocks of a published file, whose phrases the text encoder of a diffusers folder reads: for editors
    whose own encoder gives no state for each. Raises WeightsError."""
    blocks, folder = read_blocks(path), Path(diffusion)
    tokenizer = read_tokenizer(folder / TOKENIZER)
    reader = _reader(folder, tokenizer, pooled=None, dtype=torch.float32)
    wide = {block.config.condition_width for block in blocks.values()}
    if wide != {reader.encoder.condition_width}:
        raise WeightsError(
            f"the blocks of {path} hear phrases of {', '.join(map(str, sorted(wide)))}, and the text "
            f"encoder of {diffusion} has width {reader.encoder.condition_width}: use the one that they were "
            "trained with."
        )
    return LayoutBlocks(blocks, reader=reader)


def most_regions(folder: Path, controller: str | Path | None = None) -> int | None:
    """How many regions a picture may have with the layout's blocks of a release, by its small files; None
    where there are none, or only the weights tell. Raises WeightsError."""
    where = folder / CONTROLLERS / LAYOUT if controller is None else Path(controller)
    return MOST[_config(where)["kind"]] if where.is_dir() else None


def add_layout(
    editor: Editor, prompts: AbstractPrompts, training: LayoutTraining, *, seed: int, dtype: Dtypes
) -> None:
    """Give an editor new blocks, beside who reads their phrases; one that has blocks keeps its own.

    Raises ConfigError and WeightsError.
    """
    if editor.controllers.for_layout is not None:
        if training.sites:
            raise ConfigError(
                f"train.layout.sites names {', '.join(training.sites)}, but the release has blocks already, "
                "which are trained further: leave it out, or take a release without blocks."
            )
        return
    if not editor.denoiser.attentions:
        raise ConfigError(
            f"train.groups has layout, but {type(editor.denoiser).__name__} has no attention that blocks "
            "could work in: leave it out, or take a UNet."
        )
    reader = _new_reader(editor, prompts, training, dtype)
    made = new_blocks(editor.denoiser.attentions, editor.denoiser.beside, training, seed=seed)
    published_names(made)  # what cannot be written is not trained
    blocks = LayoutBlocks(made, way=training.way, reader=reader)
    blocks.blocks.to(dtype_of(dtype, LAYOUT))
    editor.take_layout(blocks)


def add_identity(editor: Editor, *, seed: int, dtype: Dtypes) -> None:
    """Give an editor new tokens of looks; one that has some keeps its own. Raises ConfigError for who sees no
    photos, or whose denoiser has no attention to hear in."""
    if editor.controllers.for_identity is not None:
        return
    sites = {name: widths[0] for name, widths in editor.denoiser.attentions.items()}
    if not sites or not editor.denoiser.sees_source:
        raise ConfigError(
            f"train.groups has identity, but {type(editor.denoiser).__name__} sees no photo, or has no "
            "attention that could hear its look: leave it out, or take an editor."
        )
    width = editor.denoiser.condition_width
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = IdentityBlocks(vision=vision_width(editor.encoder), width=width, sites=sites)
    editor.take_identity(made.to(dtype_of(dtype, IDENTITY)))


def _write_identity(controller: IdentityBlocks, place: Path) -> None:
    place.mkdir(parents=True, exist_ok=True)
    (place / CONFIG).write_text(json.dumps(controller.sizes, indent=2) + "\n", encoding="utf-8")
    tensors = {name: value.detach().cpu().contiguous() for name, value in controller.state_dict().items()}
    save_file(tensors, place / WEIGHTS)


def _read_identity(folder: Path, dtype: torch.dtype) -> IdentityBlocks:
    config = read_json(folder / CONFIG)
    try:
        made = IdentityBlocks(**config)
        made.load_state_dict(read_tensors(folder / WEIGHTS))
    except (AttributeError, KeyError, TypeError, RuntimeError) as error:
        raise WeightsError(
            f"{folder} does not hold identity tokens of the sizes that its {CONFIG} says: fetch it again."
        ) from error
    return made.to(dtype)


def phrase_reader(editor: Editor, prompts: Any) -> PhraseReader:
    """Who reads the phrases of an editor's blocks."""
    blocks = editor.controllers.for_layout
    if blocks is None or blocks.reader is None:
        return PhraseReader(editor.encoder, prompts.tokenizer)
    assert isinstance(blocks.reader, PhraseReader)
    return blocks.reader


def _new_reader(
    editor: Editor, prompts: AbstractPrompts, training: LayoutTraining, dtype: Dtypes
) -> PhraseReader | None:
    if isinstance(editor.encoder, ClipTextEncoder):
        if training.words or training.pooled:
            raise ConfigError(
                "train.layout names a text encoder (words, pooled), but the editor's own reads the phrases: "
                "leave both out."
            )
        return None
    if training.words is None:
        raise ConfigError(
            f"train.groups has layout, and {type(editor.encoder).__name__} gives no state for each phrase: "
            "name a diffusers folder whose text encoder reads them in train.layout.words."
        )
    folder = Path(resolve(training.words))
    if (folder / TOKENIZER).is_dir():
        tokenizer = _tokenizer(folder / TOKENIZER)
    elif isinstance(prompts, LlavaPrompts):
        tokenizer = prompts.processor.tokenizer  # as the tiny base's text encoder, which knows no other
    else:
        raise ConfigError(f"train.layout.words is {folder}, which has no tokenizer/: name a whole folder.")
    reader = _reader(folder, tokenizer, pooled=training.pooled, dtype=dtype_of(dtype, "phrase_reader"))
    width = reader.encoder.condition_width
    if width != editor.denoiser.condition_width:
        raise ConfigError(
            f"the text encoder of train.layout.words={training.words} has width {width}, and the denoiser "
            f"takes {editor.denoiser.condition_width}: name the one that it was trained with."
        )
    return reader


def _reader(folder: Path, tokenizer: Any, *, pooled: int | None, dtype: torch.dtype) -> PhraseReader:
    text_model = load_text_model(folder, dtype=dtype)
    marks: dict[str, Any] = {}
    if not isinstance(tokenizer, LlavaTokenizer):
        marks = {
            "begin": tokenizer.bos_token_id,
            "end": tokenizer.eos_token_id,
            "pad": tokenizer.pad_token_id,
        }
    places = text_model.config.max_position_embeddings
    if pooled is not None and pooled >= places:
        raise ConfigError(f"train.layout.pooled is {pooled}: expected fewer than the {places} of {folder}.")
    return PhraseReader(ClipTextEncoder(text_model, silent_ids=(), pooled=pooled, **marks), tokenizer)


def _tokenizer(folder: Path) -> Any:
    return (
        LlavaTokenizer.from_pretrained(folder) if (folder / MODEL_FILE).is_file() else read_tokenizer(folder)
    )


def _write(controller: LayoutBlocks, place: Path) -> None:
    place.mkdir(parents=True, exist_ok=True)
    blocks, reader = controller.by_site, controller.reader
    first = next(iter(blocks.values()))
    kind = next(kind for kind, block in KINDS.items() if type(first) is block)
    facts = {"kind": kind, "heads": first.config.heads, "way": asdict(controller.way)}
    if isinstance(reader, PhraseReader):
        facts["pooled"] = reader.encoder.pooled
        reader.encoder.text_model.save_pretrained(place / TEXT_ENCODER)
        reader.tokenizer.save_pretrained(place / TOKENIZER)
    (place / CONFIG).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    write_blocks(blocks, place / WEIGHTS)


def _config(folder: Path) -> dict[str, Any]:
    config = read_json(folder / CONFIG)
    heads, pooled = config.get("heads", PUBLISHED_HEADS), config.get("pooled")
    try:
        way = LayoutWay(**config.get("way", {}))
        check_ranges(way)
        if config.get("kind") not in KINDS or not isinstance(heads, int) or not 1 <= heads <= 1024:
            raise ValueError("another kind or number of heads")
        if not isinstance(pooled, int | None) or way.around not in ("words", "nothing"):
            raise ValueError("another way")
    except (TypeError, ValueError, ConfigError) as error:
        raise WeightsError(
            f"{folder / CONFIG} says {json.dumps(config)[:100]}: expected a kind, {' or '.join(KINDS)}, "
            "a number of heads and a way to paint; fetch it again."
        ) from error
    return {"kind": config["kind"], "heads": heads, "way": way, "pooled": pooled}
