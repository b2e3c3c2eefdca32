"""MGIE's encoder on disk: a LLaVA-v1 folder, a new edit head, new visual tokens."""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch

from llava_patch.config import CONFIG_FILE, TOWER_FOLDER
from llava_patch.conversation import template as find_template
from llava_patch.loading import Dtypes, put
from llava_patch.processor import CLIP_IMAGE_FILE, Processor
from llava_patch.shards import each_shard, shard_files
from llava_patch.sizes import no_larger_than
from llava_patch.weights import empty_llava, load_llava, write_llava
from mgie.errors import ConfigError, WeightsError
from mgie.models.encoders.clip_text import ClipTextEncoder
from mgie.models.encoders.edit_head import EditHead, EditHeadConfig
from mgie.models.encoders.llava import LlavaEncoder
from mgie.models.encoders.references import References
from mgie.prompts import Compat, LlavaPrompts
from mgie.tokens import visual_tokens
from mgie.weights.models import read_json
from mgie.weights.parts import AbstractEncoderPart, dtype_of, resolve, save_module

QUESTION = "what will this image be like if '{instruction}'"
"""What the published editor is asked."""
PLACES = {
    "embeddings": "language_model.model.embed_tokens",
    "lm_head": "language_model.lm_head",
    "language_model": "language_model",
    "projector": "projector",
    "vision_tower": "vision_tower",
}
"""Where the groups of parameters lie in a LLaVA."""
REFERENCES = "references"
Attention = Literal["auto", "sdpa", "eager", "flash_attention_2", "flash_attention_3"]
MOST_LAYERS = 100
"""Layers of an edit head; the published one has 4."""


@dataclass(frozen=True, kw_only=True)
class LlavaSettings:
    """What a recipe says of it."""

    kind: Literal["llava"] = "llava"
    llava: str
    """Folder of the language side: LLaMA, projector, tokenizer, the name of its vision tower."""
    edit_head: EditHeadConfig
    """The layers between the visual tokens and the denoiser's condition."""
    template: str
    """Conversation template, a name from llava_patch.conversation."""
    question: str
    """What the model is asked; `{instruction}` stands for the user's words."""
    attention: Attention = "auto"
    """Attention kernel of the language model and the vision tower, as transformers names it. auto:
    flash_attention_2 where it is installed and the language model is kept in half precision on a GPU; sdpa
    elsewhere."""
    packed: bool | None = None
    """Whether the conversations of a micro-batch are read one behind the other while learning, instead of
    padded to the longest. None: with flash attention; other kernels keep them apart by a mask of all tokens
    beside all, which costs more than padding does."""
    references: bool = False
    """Whether instructions may contain pictures; what reads them is new, and trained as `references`."""

    def __post_init__(self) -> None:
        """Refuse a question that asks nothing, and an unknown template. Raises ConfigError."""
        find_template(self.template)
        if "{instruction}" not in self.question:
            raise ConfigError(
                f"model.encoder.question={self.question!r} has no {{instruction}}: "
                "write {instruction} where the user's words belong."
            )


class LlavaPart(AbstractEncoderPart):
    """The folders llava/ and edit_head/."""

    kind = "llava"
    settings = LlavaSettings
    makes = LlavaEncoder
    about = (
        "A multimodal language model (LLaVA) looks at the picture, says what the edit will look like, and\n"
        "guides what paints it (MGIE: Fu et al., Guiding Instruction-based Image Editing via Multimodal\n"
        "Large Language Models, ICLR 2024)."
    )

    def build(
        self,
        settings: LlavaSettings,
        *,
        condition_width: int,
        seed: int,
        compat: Compat = "default",
        dtype: Dtypes = torch.float32,
        progress: bool = False,
    ) -> tuple[LlavaEncoder, LlavaPrompts]:
        """The LLaVA as it is in its folder; edit head and visual tokens' rows are new.

        No later initialiser touches what a file held (docs/coming-from-ml-mgie.md, Q1).
        """
        folder, count = resolve(settings.llava), settings.edit_head.visual_tokens
        kernel = attention_here(settings.attention, dtype_of(dtype, "language_model"))
        llava, _ = load_llava(folder, dtype=_places(dtype), attn_implementation=kernel, progress=progress)
        processor = Processor.from_pretrained(folder, template=settings.template)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            llava.grow(processor.tokenizer.add_tokens(visual_tokens(count)))
            d_in = llava.config.language.hidden_size
            head = EditHead(settings.edit_head, d_in=d_in, e_out=condition_width)
        more = {"compat": compat, "references": settings.references}
        prompts = LlavaPrompts(processor, question=settings.question, count=count, **more)
        head = head.to(dtype_of(dtype, "edit_head"))
        encoder = LlavaEncoder(
            llava, head, visual_ids=prompts.visual_ids, seed=seed, packed=settings.packed, **more
        )
        return encoder, prompts

    def sizes(self, settings: LlavaSettings, *, condition_width: int) -> LlavaEncoder:
        """From the small files of its folder."""
        llava = empty_llava(resolve(settings.llava))
        count, first = settings.edit_head.visual_tokens, llava.vocabulary
        with torch.device("meta"):
            llava.grow(count)
            head = EditHead(settings.edit_head, d_in=llava.config.language.hidden_size, e_out=condition_width)
        return LlavaEncoder(llava, head, visual_ids=tuple(range(first, first + count)))

    def sizes_of(self, folder: Path) -> LlavaEncoder:
        """From the small files of a release."""
        llava = empty_llava(folder / "llava")
        content = read_json(folder / "edit_head" / CONFIG_FILE)
        d_in, e_out, _ = (content.pop(name, None) for name in ("d_in", "e_out", "own_embeddings"))
        config, words = EditHeadConfig(**content), llava.vocabulary
        with torch.device("meta"):
            head = EditHead(config, d_in=d_in, e_out=e_out)
        return LlavaEncoder(llava, head, visual_ids=tuple(range(words - config.visual_tokens, words)))

    def save(self, encoder: LlavaEncoder, prompts: LlavaPrompts, folder: Path) -> dict[str, Any]:
        """Tokenizer and preprocessing lie in llava/."""
        write_llava(encoder.llava, prompts.processor.tokenizer, folder / "llava")
        prompts.processor.save_pretrained(folder / "llava")
        head = encoder.edit_head
        save_module(
            head,
            head.config,
            folder / "edit_head",
            d_in=head.d_in,
            e_out=head.e_out,
            own_embeddings=head.own_embeddings is not None,
        )
        if encoder.references is None:
            return {"question": prompts.template}
        save_module(encoder.references, _Empty(), folder / REFERENCES, **encoder.references.sizes)
        return {"question": prompts.template, "references": True}

    def load(
        self,
        folder: Path,
        facts: dict[str, Any],
        *,
        compat: Compat = "default",
        dtype: Dtypes = torch.float32,
        attention: str = "sdpa",
        progress: bool = False,
    ) -> tuple[LlavaEncoder, LlavaPrompts]:
        """Read strictly. A LLaVA folder may name a tower elsewhere; a release has all its parts inside."""
        own = folder / "llava"
        read_json(own / CLIP_IMAGE_FILE)
        _check_tower(own)
        processor = Processor.from_pretrained(own)
        llava, _ = load_llava(own, dtype=_places(dtype), attn_implementation=attention, progress=progress)
        head = _read_head(folder / "edit_head", dtype_of(dtype, "edit_head"))
        count, question = head.config.visual_tokens, str(facts.get("question", QUESTION))
        found = _read_references(folder / REFERENCES, head.dtype) if facts.get("references") else False
        prompts = LlavaPrompts(
            processor, question=question, count=count, compat=compat, references=bool(found)
        )
        encoder = LlavaEncoder(llava, head, visual_ids=prompts.visual_ids, compat=compat, references=found)
        return encoder, prompts

    def teacher(self, settings: LlavaSettings, prompts: LlavaPrompts, text_model: Any) -> ClipTextEncoder:
        """It reads the language model's own tokens. Raises ConfigError where it cannot."""
        tokenizer, head = prompts.processor.tokenizer, settings.edit_head
        words, length = len(tokenizer) - head.visual_tokens, text_model.config.max_position_embeddings
        if text_model.config.vocab_size != words or head.queries > length:
            raise ConfigError(
                f"train.align_weight: the text encoder reads {text_model.config.vocab_size} words in "
                f"{length} places, the language model has {words} and the edit head {head.queries} queries: "
                f"expected the same vocabulary and at most {length} queries; use parts that were made "
                "together, or set train.align_weight to 0."
            )
        silent = (*prompts.visual_ids, tokenizer.eos_id)
        return ClipTextEncoder(
            text_model, silent_ids=silent, pooled=head.queries if head.queries < length else None
        )


def attention_here(wanted: Attention, dtype: torch.dtype) -> str:
    """The kernel that `auto` means for weights of this type on this machine; any other name is itself."""
    if wanted != "auto":
        return wanted
    fits = dtype in (torch.bfloat16, torch.float16) and torch.cuda.is_available()
    return "flash_attention_2" if fits and find_spec("flash_attn") else "sdpa"


def _places(dtype: Dtypes) -> dict[str, torch.dtype]:
    """The types of groups, by the names of the modules that they are."""
    return {place: dtype_of(dtype, group) for group, place in PLACES.items()}


def _check_tower(llava: Path) -> None:
    """Refuse a release whose vision tower lies elsewhere."""
    named = read_json(llava / CONFIG_FILE).get("mm_vision_tower")
    if named != TOWER_FOLDER or not (llava / TOWER_FOLDER).is_dir():
        raise WeightsError(
            f"{llava} names the vision tower {named!r}, expected its own {TOWER_FOLDER}: a release has "
            "all its parts inside; extract or fetch it again."
        )


@dataclass(frozen=True)
class _Empty:
    """No settings but the sizes."""


def _read_references(folder: Path, dtype: torch.dtype) -> References:
    """Raises WeightsError."""
    content = read_json(folder / CONFIG_FILE)
    with no_larger_than(shard_files(folder), folder):
        try:
            with torch.device("meta"):
                references = References(**content).to(dtype)
        except Exception as error:  # torch has no one type for sizes that do not go together
            raise WeightsError(
                f"{folder}/config.json describes no references ({error}): fetch the release again."
            ) from error
    return put(references, each_shard(folder, progress=False), where=folder)


def _read_head(folder: Path, dtype: torch.dtype) -> EditHead:
    content = read_json(folder / CONFIG_FILE)
    with no_larger_than(shard_files(folder), folder):
        try:
            d_in, e_out = content.pop("d_in"), content.pop("e_out")
            own, config = content.pop("own_embeddings", False), EditHeadConfig(**content)
            if config.layers > MOST_LAYERS:  # torch copies layers without telling of their parameters
                raise ValueError(f"{config.layers} layers, expected at most {MOST_LAYERS}")
            with torch.device("meta"):
                head = EditHead(config, d_in=d_in, e_out=e_out).to(dtype)
                if own:
                    head.own_embeddings = torch.empty(config.visual_tokens, d_in, dtype=dtype)
        except Exception as error:  # torch has no one type for sizes that do not go together
            raise WeightsError(
                f"{folder}/config.json describes no edit head ({error}): fetch the release again."
            ) from error
    return put(head, each_shard(folder, progress=False), where=folder)
