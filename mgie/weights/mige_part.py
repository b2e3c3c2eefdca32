"""MIGE's parts on disk: encoder and denoiser as releases, and its own file.

image_encoder/ qformer/ text_encoder/ tokenizer/   as transformers writes them
fusion/   what is MIGE's: query tokens, feature fusion, projector, the table that says nothing
transformer/ vae/   as diffusers writes them
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import DDPMScheduler, PixArtTransformer2DModel
from transformers import (
    AutoTokenizer,
    Blip2QFormerConfig,
    Blip2QFormerModel,
    Blip2VisionConfig,
    Blip2VisionModel,
    T5Config,
    T5EncoderModel,
)

from llava_patch.config import CONFIG_FILE, checked
from llava_patch.folders import whole_folder
from llava_patch.loading import Dtypes, Shards, put, typed
from llava_patch.processor import ClipImageConfig
from llava_patch.shards import each_shard, shard_files
from llava_patch.sizes import no_larger_than
from mgie.diffusion.process import AbstractProcess, VarianceProcess, process_of
from mgie.diffusion.solver import UniformDPMSolverScheduler
from mgie.errors import ConfigError, WeightsError
from mgie.instructions import Templates
from mgie.models.codec import Codec
from mgie.models.denoisers.pixart import PixArtDenoiser, settle, widen_pixart
from mgie.models.editor import Editor
from mgie.models.encoders.fusion import FeatureFusion
from mgie.models.encoders.pooling import StatePooling
from mgie.models.encoders.qformer_t5 import QFormerT5Encoder
from mgie.prompts import Compat, MigePrompts
from mgie.weights.diffusers_parts import load_scheduler, load_vae
from mgie.weights.mige import PUBLISHED, Heads, read_mige, tie, write_mige
from mgie.weights.mige_new import NewMige, SaidTeacher, new_encoder, new_prompts, said_teacher
from mgie.weights.models import DIFFUSERS_STEM, codec_kind, empty_model, read_json, read_model
from mgie.weights.parts import AbstractDenoiserPart, AbstractEncoderPart, dtype_of, resolve, save_module
from mgie.weights.release import Release

FILE, MIGE = "model.pth", "mige"
"""The name of the published weights, and the kind of a folder with them."""
DIFFUSION = "PixArt-alpha/PixArt-XL-2-512x512"
"""What the published weights go with: its autoencoder and T5's tokenizer."""
STEMS = (DIFFUSERS_STEM, DIFFUSERS_STEM)
OWN = ("query_tokens", "null", "fusion.", "projector.", "patches.", "pooling.")
"""Beginnings of what lies in fusion/."""
LIBRARY = {
    "vision": ("image_encoder", Blip2VisionModel, Blip2VisionConfig),
    "qformer": ("qformer", Blip2QFormerModel, Blip2QFormerConfig),
    "text": ("text_encoder", T5EncoderModel, T5Config),
}
"""The libraries' parts of an encoder: folders and classes."""
EDITS = {"size": 512, "num_inference_steps": 60, "guidance_scale": 5.0, "image_guidance_scale": 1.0}
"""How the published weights edit (Tian et al. 2025, and the authors' programs)."""


@dataclass(frozen=True, kw_only=True)
class QFormerT5Settings:
    """What a recipe says of it."""

    kind: Literal["qformer_t5"] = "qformer_t5"
    parts: str | None = None
    """Folder with the encoder's parts, such as a release."""
    new: NewMige | None = None
    """Or sizes of new ones, which know nothing yet. One of the two is given."""
    templates: Templates = "train"
    """Words before an instruction: the same in training and in use, or as the authors' programs have it."""

    def __post_init__(self) -> None:
        """Raises ConfigError for none of both, or both, or new sizes that do not go together."""
        if (self.parts is None) == (self.new is None):
            both = "neither" if self.parts is None else "both"
            raise ConfigError(f"model.encoder has {both} of parts and new: expected one of them.")
        if self.new is not None:
            self.new.check()


class QFormerT5Part(AbstractEncoderPart):
    """The folders image_encoder/, qformer/, fusion/, text_encoder/ and tokenizer/."""

    kind = "qformer_t5"
    settings = QFormerT5Settings
    makes = QFormerT5Encoder
    about = (
        "Instructions may contain pictures, which a Q-Former and the latents describe to T5 (Tian et al.,\n"
        "MIGE: Mutually Enhanced Multimodal Instruction-Based Image Generation and Editing, 2025)."
    )

    def build(
        self,
        settings: QFormerT5Settings,
        *,
        condition_width: int,
        seed: int,
        compat: Compat = "default",
        dtype: Dtypes = torch.float32,
        progress: bool = False,
    ) -> tuple[QFormerT5Encoder, MigePrompts]:
        """All as it is in the folder; or all is new."""
        if settings.new is not None:
            made = new_encoder(settings.new, told=condition_width, seed=seed)
            return made, new_prompts(settings.new, templates=settings.templates)
        folder = Path(resolve(str(settings.parts)))
        facts = read_json(folder / "fusion" / CONFIG_FILE) | {"templates": settings.templates}
        encoder, prompts = self.load(folder, facts, compat=compat, dtype=dtype, progress=progress)
        if encoder.condition_width != condition_width:
            raise WeightsError(
                f"the text encoder of {folder} has width {encoder.condition_width}, and the denoiser takes "
                f"{condition_width}: use parts that were trained together."
            )
        return encoder, prompts

    def save(self, encoder: QFormerT5Encoder, prompts: MigePrompts, folder: Path) -> dict[str, Any]:
        """As the libraries write them; what is MIGE's beside."""
        for name, (place, _, _) in LIBRARY.items():
            getattr(encoder, name).save_pretrained(folder / place)
        prompts.tokenizer.save_pretrained(folder / "tokenizer")
        facts = {"edge": prompts.edge, "mean": list(prompts.mean), "std": list(prompts.std)}
        save_module(
            _Own(encoder), FusionConfig.of(encoder), folder / "fusion", **facts
        )  # the vision tower's view lies with what reads it
        return facts | {"templates": prompts.templates}

    def load(
        self,
        folder: Path,
        facts: dict[str, Any],
        *,
        compat: Compat = "default",
        dtype: Dtypes = torch.float32,
        attention: str = "sdpa",
        progress: bool = False,
    ) -> tuple[QFormerT5Encoder, MigePrompts]:
        """Read strictly."""
        if compat != "default":
            raise ConfigError(f"compat={compat!r} is for MGIE's encoder: MIGE's has no such way.")
        models = {
            name: _read(kind, config, folder / place, dtype_of(dtype, name), attention, progress)
            for name, (place, kind, config) in LIBRARY.items()
        }
        content = read_json(folder / "fusion" / CONFIG_FILE)
        try:
            config = FusionConfig(
                **{name: content[name] for name in FusionConfig.__dataclass_fields__ if name in content}
            )
            with torch.device("meta"):
                fusion = FeatureFusion(
                    models["qformer"].config.hidden_size, config.visual, heads=config.heads,
                    out_norm=config.out_norm,
                )  # fmt: skip
                own = torch.nn.Conv2d(config.own_patches, config.visual, 2, 2) if config.own_patches else None
                width = models["text"].config.d_model
                pooling = StatePooling(width, **config.pooling) if config.pooling else None
                encoder = QFormerT5Encoder(
                    **models, fusion=fusion, queries=config.queries, length=config.length, patches=own,
                    pooling=pooling,
                )  # fmt: skip
            view = {name: facts.get(name, content[name]) for name in ("edge", "mean", "std")}
        except (KeyError, TypeError, ValueError, AssertionError, RuntimeError) as error:
            raise WeightsError(
                f"{folder}/fusion/config.json describes no feature fusion ({type(error).__name__}: {error}): "
                "fetch the folder again."
            ) from error
        mine = _Own(encoder)
        put(
            typed(mine, dtype_of(dtype, "fusion")),
            each_shard(folder / "fusion", progress=False),
            where=folder,
        )
        mine.give(encoder)
        templates: Any = facts.get("templates", "train")
        prompts = MigePrompts(
            _tokenizer(folder, encoder),
            queries=config.queries,
            most=config.length,
            templates=templates,
            **view,
        )
        return encoder.eval(), prompts

    def teacher(self, settings: QFormerT5Settings, prompts: MigePrompts, text_model: Any) -> SaidTeacher:
        """It reads T5's own words. Raises ConfigError where it cannot."""
        states = 0 if settings.new is None else settings.new.states
        return said_teacher(text_model, prompts, states=states)


@dataclass(frozen=True, kw_only=True)
class FusionConfig:
    """Sizes of what lies in fusion/."""

    queries: int
    length: int
    visual: int
    heads: int
    out_norm: bool
    own_patches: int
    """Channels of the latents that its own convolution takes; 0: the denoiser's is used."""
    pooling: dict[str, int] = field(default_factory=dict)
    """Sizes of what pools T5's states; empty without."""

    @classmethod
    def of(cls, encoder: QFormerT5Encoder) -> "FusionConfig":
        """Those of an encoder."""
        fusion = encoder.fusion
        return cls(
            queries=encoder.query_tokens.shape[1], length=len(encoder.null), visual=fusion.visual,
            heads=fusion.clip_attn.num_heads, out_norm=isinstance(fusion.ln_out, torch.nn.LayerNorm),
            own_patches=0 if encoder.patches is None else encoder.patches.in_channels,
            pooling={} if encoder.pooling is None else encoder.pooling.sizes,
        )  # fmt: skip


class _Own(torch.nn.Module):
    """What of an encoder is MIGE's, under its names."""

    def __init__(self, encoder: QFormerT5Encoder):
        super().__init__()
        self.query_tokens = encoder.query_tokens
        self.register_buffer("null", encoder.null)
        self.null: torch.Tensor
        self.fusion, self.projector, self.patches = encoder.fusion, encoder.projector, encoder.patches
        self.pooling = encoder.pooling

    def give(self, encoder: QFormerT5Encoder) -> None:
        """What has come in its place since, to the encoder: modules are shared already."""
        encoder.query_tokens, encoder.null = self.query_tokens, self.null


@dataclass(frozen=True, kw_only=True)
class PixArtSettings:
    """What a recipe says of it."""

    kind: Literal["pixart"] = "pixart"
    diffusion: str
    """Diffusers folder with transformer/, vae/ and scheduler/."""


class PixArtPart(AbstractDenoiserPart):
    """The folders transformer/ and vae/."""

    kind = "pixart"
    settings = PixArtSettings
    makes = PixArtDenoiser
    about = (
        "A transformer over patches paints, and sees the picture beside (Chen et al., PixArt-alpha: Fast\n"
        "Training of Diffusion Transformer for Photorealistic Text-to-Image Synthesis, ICLR 2024)."
    )

    def build(
        self, settings: PixArtSettings, *, dtype: Dtypes = torch.float32, progress: bool = False
    ) -> tuple[PixArtDenoiser, Codec, AbstractProcess]:
        """A transformer that was made for text alone is widened for the source."""
        folder = Path(resolve(settings.diffusion))
        transformer = widen_pixart(_transformer(folder, dtype_of(dtype, "denoiser"), progress))
        vae = load_vae(folder, dtype=dtype_of(dtype, "codec"), progress=progress)
        codec = Codec(vae, source_scaled=True)
        return PixArtDenoiser(transformer), codec, process_of(load_scheduler(folder))

    def save(self, denoiser: PixArtDenoiser, codec: Codec, folder: Path) -> dict[str, Any]:
        """As diffusers writes them."""
        for name, model in (("transformer", denoiser.transformer), ("vae", codec.vae)):
            model.save_pretrained(folder / name)
        return {"source_scaled": codec.space.source_scaled}

    def load(
        self,
        folder: Path,
        facts: dict[str, Any],
        *,
        dtype: Dtypes = torch.float32,
        progress: bool = False,
    ) -> tuple[PixArtDenoiser, Codec]:
        """Read strictly."""
        transformer = _transformer(folder, dtype_of(dtype, "denoiser"), progress)
        coding = dtype_of(dtype, "codec")
        vae = read_model(codec_kind(folder / "vae"), folder / "vae", dtype=coding, progress=progress)
        return PixArtDenoiser(transformer), Codec(vae, source_scaled=bool(facts.get("source_scaled", True)))

    def empty(self, folder: Path, facts: dict[str, Any]) -> tuple[PixArtDenoiser, Codec]:
        """From the two config.json."""
        del facts
        transformer = empty_model(PixArtTransformer2DModel, folder / "transformer")
        return PixArtDenoiser(transformer), Codec(empty_model(codec_kind(folder / "vae"), folder / "vae"))


def read_published(
    folder: str | Path,
    *,
    diffusion: str | Path | None = None,
    dtype: torch.dtype = torch.float32,
    heads: Heads | None = None,
    progress: bool = True,
) -> Release:
    """MIGE's published model.pth over the autoencoder and the tokenizer of `diffusion` (default: PixArt's).

    It edits as the authors' programs do. Raises WeightsError listing what does not fit.
    """
    folder, diffusion = Path(folder), diffusion or DIFFUSION
    vae = load_vae(diffusion, dtype=dtype, progress=progress)
    encoder, denoiser = read_mige(folder / FILE, heads=heads, dtype=dtype)
    side = encoder.vision.config.image_size
    assert isinstance(side, int)
    view = ClipImageConfig.clip(side)
    prompts = MigePrompts(
        _tokenizer(diffusion, encoder), queries=encoder.query_tokens.shape[1], most=len(encoder.null),
        edge=view.size, mean=view.mean, std=view.std, templates="released",
    )  # fmt: skip
    codec = Codec(vae, source_scaled=True)
    schedule = DDPMScheduler(beta_start=0.0001, beta_end=0.02, beta_schedule="linear", clip_sample=False)
    return Release(
        editor=Editor(encoder=encoder, denoiser=denoiser, codec=codec).eval(), prompts=prompts,
        process=VarianceProcess(schedule), scheduler=UniformDPMSolverScheduler(),
        settings=EDITS | {"size": denoiser.transformer.config.sample_size * codec.space.factor},
    )  # fmt: skip


def write_published(release: Release, out: str | Path, *, trained: Collection[str] = ()) -> Path:
    """Write the folder of a model.pth, as the authors' programs read it; `trained` are the groups that no
    longer are as published. Raises ConfigError for an editor that the file does not hold, or does not tell.
    """
    encoder, denoiser, told = release.editor.encoder, release.editor.denoiser, "use --format release."
    if not (isinstance(encoder, QFormerT5Encoder) and isinstance(denoiser, PixArtDenoiser)):
        raise ConfigError(
            f"--format mige holds a Q-Former with T5 and a PixArt, but this editor is a "
            f"{type(encoder).__name__} with a {type(denoiser).__name__}; {told}"
        )
    if encoder.patches is not None or encoder.pooling is not None or "codec" in trained:
        what = "the fusion has patches of its own" if encoder.patches is not None else "the VAE was trained"
        what = what if encoder.pooling is None else "T5's states are pooled"
        raise ConfigError(f"--format mige: {what}, which {FILE} does not hold; {told}")
    if (heads := Heads.of(encoder, denoiser)) != PUBLISHED:
        raise ConfigError(
            f"--format mige: this editor has {heads}, which {FILE} does not tell, and its readers take "
            f"{PUBLISHED}; {told}"
        )
    with whole_folder(out, kind=MIGE) as partial:
        write_mige(encoder, denoiser, partial / FILE)
    return Path(out)


def _transformer(folder: Path, dtype: torch.dtype, progress: bool) -> PixArtTransformer2DModel:
    folder = folder / "transformer"
    model = empty_model(PixArtTransformer2DModel, folder, files=shard_files(folder, stems=STEMS))
    shards = each_shard(folder, progress=progress, stems=STEMS)
    return put(settle(typed(model, dtype)), shards, where=folder).eval()


def _read(kind: Any, config: Any, folder: Path, dtype: torch.dtype, attention: str, progress: bool) -> Any:
    """A model of transformers from its folder: every tensor equals the file's. Raises WeightsError."""
    content = checked(config, read_json(folder / CONFIG_FILE))
    with no_larger_than(shard_files(folder), folder):
        try:
            with torch.device("meta"):
                model = kind._from_config(content, attn_implementation=attention)
        except Exception as error:  # the library has no one type for sizes that do not go together
            raise WeightsError(
                f"{folder}/config.json describes no {kind.__name__} ({error}): fetch the folder again."
            ) from error
        shards = each_shard(folder, progress=progress)
        if kind is T5EncoderModel:
            return tie(put(typed(model, dtype), _both_tables(shards), where=folder)).eval()
        return put(typed(model, dtype), shards, where=folder).eval()


def _both_tables(shards: Shards) -> Iterator[tuple[str | Path, Any]]:
    """T5's table of words under both of its names."""
    for path, tensors in shards:
        if "shared.weight" in tensors:
            tensors.setdefault("encoder.embed_tokens.weight", tensors["shared.weight"])
        yield path, tensors


def _tokenizer(where: str | Path, encoder: QFormerT5Encoder) -> Any:
    """T5's tokenizer of a folder or hub id. Raises WeightsError."""
    try:
        if Path(where).is_dir():
            tokenizer = AutoTokenizer.from_pretrained(Path(where) / "tokenizer", local_files_only=True)
        else:
            tokenizer = AutoTokenizer.from_pretrained(str(where), subfolder="tokenizer")
    except Exception as error:  # the library and its tokenizers have no one type for files that are none
        raise WeightsError(
            f"{where} holds no tokenizer of T5 ({type(error).__name__}: {error}): expected a folder "
            "tokenizer/; fetch it again."
        ) from error
    words = encoder.text.config.vocab_size
    if len(tokenizer) > words or tokenizer.pad_token_id is None or tokenizer.eos_token_id is None:
        raise WeightsError(
            f"the tokenizer of {where} has {len(tokenizer)} tokens, ends with {tokenizer.eos_token} and pads "
            f"with {tokenizer.pad_token}, and the text encoder knows {words}: use parts that belong together."
        )
    return tokenizer
