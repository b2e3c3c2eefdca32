"""What a LLaVA is, from and to published JSON. Language model, vision tower, and how they meet."""

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from transformers import CLIPVisionConfig, LlamaConfig, PreTrainedConfig

from llava_patch.errors import ConfigError, WeightsError
from llava_patch.tokenizer import read_json

CONFIG_FILE = "config.json"
TOWER_FOLDER = "vision_tower"
"""Where a folder that we write keeps its vision tower."""

_Config = TypeVar("_Config", bound=PreTrainedConfig)
_OUR_KEYS = (
    "mm_vision_tower",
    "mm_vision_select_layer",
    "mm_use_im_start_end",
    "mm_hidden_size",
    "use_mm_proj",
)
_NOT_LANGUAGE = (*_OUR_KEYS, "model_type", "architectures", "transformers_version", "_name_or_path")
_CODE = ("attn_implementation", "experts_implementation", "auto_map", "trust_remote_code", "kernel")
"""Parts of keys that name code to run: whoever loads a folder chooses that, not the folder."""


@dataclass(frozen=True, kw_only=True)
class LlavaConfig:
    """Everything that defines the model's shape."""

    language: LlamaConfig
    vision: CLIPVisionConfig
    vision_tower: str
    """Folder or hub id that holds the tower's weights; a relative folder lies in the LLaVA folder."""
    vision_layer: int
    """Index into the tower's hidden states: -2 is the output of the last but one layer."""
    use_im_start_end: bool
    """Whether pictures stand between <im_start> and <im_end>."""

    def __post_init__(self) -> None:
        """Refuse a tower without sizes, and a layer that it does not have."""
        sizes = (self.vision.image_size, self.vision.patch_size)
        if not all(isinstance(size, int) and size > 0 for size in sizes):
            raise ConfigError(
                f"the vision tower has image_size {sizes[0]} and patch_size {sizes[1]}, expected two "
                "numbers of pixels; fetch its config.json again."
            )
        states = self.vision.num_hidden_layers + 1
        if not -states <= self.vision_layer < states:
            raise ConfigError(
                f"mm_vision_select_layer is {self.vision_layer}, but the vision tower has {states} hidden "
                "states "
                f"(its embeddings and {states - 1} layers); choose one between {-states} and {states - 1}."
            )

    @property
    def patches(self) -> int:
        """Features that the tower gives for one picture: its patches, without the class token."""
        return (self.image_size // int(str(self.vision.patch_size))) ** 2

    @property
    def image_size(self) -> int:
        """Side of the square that the tower takes."""
        return int(str(self.vision.image_size))

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        *,
        vision_tower: str | Path | None = None,
        vision_layer: int | None = None,
        use_im_start_end: bool | None = None,
    ) -> "LlavaConfig":
        """Read a LLaVA-v1 folder, or a Vicuna or LLaMA folder if the arguments say what it does not know."""
        folder = Path(folder)
        published = read_config(folder)
        _refuse_foreign(folder, published)
        given = {"mm_vision_tower": vision_tower, "mm_vision_select_layer": vision_layer}
        given["mm_use_im_start_end"] = use_im_start_end
        facts: dict[str, Any] = {
            name: published.get(name) if value is None else value for name, value in given.items()
        }
        absent = [name for name, value in facts.items() if value is None]
        if absent:
            raise ConfigError(
                f"{folder / CONFIG_FILE} does not say {', '.join(absent)}: it is no LLaVA folder; pass a "
                "LLaVA folder, "
                "or vision_tower, vision_layer and use_im_start_end to start one from a language model."
            )
        tower, layer = str(facts["mm_vision_tower"]), facts["mm_vision_select_layer"]
        if not isinstance(layer, int):
            raise ConfigError(
                f"{folder / CONFIG_FILE} has mm_vision_select_layer {layer!r}, expected a number such as "
                "-2; fetch the file again."
            )
        config = cls(
            language=_language(published),
            vision=_vision(resolve_tower(folder, tower)),
            vision_tower=tower,
            vision_layer=layer,
            use_im_start_end=bool(facts["mm_use_im_start_end"]),
        )
        width = published.get("mm_hidden_size", config.vision.hidden_size)
        if width != config.vision.hidden_size:
            raise ConfigError(
                f"{folder} expects features of width {width} (mm_hidden_size), but the vision tower {tower} "
                "has "
                f"{config.vision.hidden_size}; give the tower that the folder was trained with."
            )
        return config

    def to_published(self) -> dict:
        """The content of a published LLaVA-v1 `config.json`."""
        language = copy.deepcopy(self.language).to_dict()
        rope = language.pop("rope_parameters", None) or {}
        if rope.get("rope_type", "default") == "default":
            language |= {"rope_theta": rope["rope_theta"]} if "rope_theta" in rope else {}
        else:
            language["rope_parameters"] = rope
        language["torch_dtype"] = language.pop("dtype", None)
        return {
            **{name: value for name, value in language.items() if name not in _NOT_LANGUAGE},
            "architectures": ["LlavaLlamaForCausalLM"],
            "model_type": "llava",
            "mm_vision_tower": self.vision_tower,
            "mm_vision_select_layer": self.vision_layer,
            "mm_use_im_start_end": self.use_im_start_end,
            "mm_hidden_size": self.vision.hidden_size,
            "use_mm_proj": True,
        }


def read_config(folder: str | Path) -> dict:
    """The content of a folder's `config.json`."""
    path = Path(folder) / CONFIG_FILE
    if not path.is_file():
        raise WeightsError(
            f"{folder} has no {CONFIG_FILE}; expected a folder of weights with its configuration."
        )
    return read_json(path)


def resolve_tower(folder: str | Path, name: str) -> Path:
    """The folder that holds the vision tower: inside the LLaVA folder, else as given, else from the hub."""
    for candidate in (Path(folder) / name, Path(name)):
        if candidate.is_dir():
            return candidate
    # The hub's client is a dependency of transformers; it answers from its cache without a network.
    from huggingface_hub import snapshot_download

    try:
        patterns = ["*.json", "*.safetensors", "pytorch_model*.bin"]
        return Path(snapshot_download(name, allow_patterns=patterns))
    except Exception as error:
        raise WeightsError(
            f"the vision tower {name!r} is neither a folder inside {folder}, nor a folder, nor a hub id "
            "that can be "
            f"fetched ({type(error).__name__}); put the tower's folder there or pass vision_tower."
        ) from error


def _refuse_foreign(folder: Path, published: dict) -> None:
    kind = published.get("model_type")
    if kind not in ("llava", "llama"):
        raise ConfigError(
            f"{folder / CONFIG_FILE} has model_type {kind!r}, expected 'llava' (LLaVA-v1) or 'llama' "
            "(Vicuna, LLaMA)."
        )
    if "text_config" in published:
        raise ConfigError(
            f"{folder} is in the layout of transformers' own LLaVA classes, expected the published LLaVA-v1 "
            "layout "
            "(a flat config.json with mm_vision_tower); fetch the original folder."
        )
    if published.get("use_mm_proj") is False or published.get("mm_projector_type", "linear") != "linear":
        raise ConfigError(
            f"{folder} has the projector {published.get('mm_projector_type')!r} (use_mm_proj "
            f"{published.get('use_mm_proj')}), expected one linear layer as in LLaVA-v1."
        )


def _language(published: dict) -> LlamaConfig:
    content = {name: value for name, value in published.items() if name not in _NOT_LANGUAGE}
    if content.get("tie_word_embeddings"):
        raise ConfigError(
            "config.json ties the two embedding tables (tie_word_embeddings), expected LLaVA-v1's two tables."
        )
    # LLaMA's first conversions wrote -1, which an embedding table would read as its last row.
    if content.get("pad_token_id") == -1:
        content["pad_token_id"] = None
    return checked(LlamaConfig, content)


def _vision(tower: Path) -> CLIPVisionConfig:
    published = read_config(tower)
    content = published.get("vision_config", published)
    kinds = ("clip", "clip_vision_model")
    if published.get("model_type") not in kinds:
        raise ConfigError(
            f"the vision tower {tower} has model_type {published.get('model_type')!r}, expected one of "
            f"{kinds}."
        )
    return checked(CLIPVisionConfig, {name: value for name, value in content.items() if name != "model_type"})


def checked(kind: type[_Config], content: dict) -> _Config:
    """The library's configuration of a file's content, but for what names code. Raises ConfigError."""
    content = {name: value for name, value in content.items() if not any(code in name for code in _CODE)}
    try:
        return kind(**content)
    except Exception as error:  # the library's own types of validation errors differ between versions
        raise ConfigError(f"{CONFIG_FILE} describes no {kind.__name__}: {error}; mend the file.") from error
