"""MIGE's published file <-> an encoder of Q-Former and T5 and a PixArt denoiser.

    {"state_dict": {"visual_encoder.blocks.0.norm1.weight": ..., "blocks.0.attn.qkv.weight": ...}, ...}

One table says what each of its 1451 entries is called in the libraries' modules; it is read from either side.
A pickle of tensors, or safetensors, which have no `state_dict` around them.
"""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import PixArtTransformer2DModel
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import (
    Blip2QFormerConfig,
    Blip2QFormerModel,
    Blip2VisionConfig,
    Blip2VisionModel,
    T5Config,
    T5EncoderModel,
)

from llava_patch.folders import open_to_others, sync
from llava_patch.loading import Dtypes, fitting, put, typed
from llava_patch.shards import read_tensors
from mgie.errors import WeightsError
from mgie.models.denoisers.pixart import PixArtDenoiser, position_table, settle
from mgie.models.encoders.fusion import FeatureFusion
from mgie.models.encoders.qformer_t5 import QFormerT5Encoder
from mgie.weights.parts import dtype_of

STATE = "state_dict"
POSITIONS, IDS = "pos_embed", "Qformer.bert.embeddings.position_ids"
"""Constants in the file: the transformer's table of places, and numbers from 0 on."""
TABLES = ("t5_model.shared.weight", "t5_model.encoder.embed_tokens.weight")
"""T5's words, under two names."""
OPTIONAL = (IDS, TABLES[0])
"""What files may leave out: constants, and what is there twice."""
NEAR = 1e-4
"""How much a file's table of places may differ from ours."""
IMAGE = "visual_encoder.blocks.{n}."
OURS_IMAGE = "encoder.vision.encoder.layers.{n}."
BIASES = (IMAGE + "attn.q_bias", IMAGE + "attn.v_bias", OURS_IMAGE + "self_attn.qkv.bias")
"""A vision layer's biases of queries and values, and ours, which has zeros for the keys between them."""
QUERY = "Qformer.bert.encoder.layer.{n}."
OURS_QUERY = "encoder.qformer.encoder.layer.{n}."
BLOCK, OURS_BLOCK = "blocks.{n}.", "denoiser.transformer.transformer_blocks.{n}."
TIME = "denoiser.transformer.adaln_single."
CAPTION = "denoiser.transformer.caption_projection."
SAME = {
    "query_tokens": "encoder.query_tokens",
    "visual_encoder.cls_token": "encoder.vision.embeddings.class_embedding",
    "visual_encoder.pos_embed": "encoder.vision.embeddings.position_embedding",
    "visual_encoder.patch_embed.proj.{p}": "encoder.vision.embeddings.patch_embedding.{p}",
    IMAGE + "norm1.{p}": OURS_IMAGE + "layer_norm1.{p}",
    IMAGE + "norm2.{p}": OURS_IMAGE + "layer_norm2.{p}",
    IMAGE + "attn.qkv.weight": OURS_IMAGE + "self_attn.qkv.weight",
    IMAGE + "attn.proj.{p}": OURS_IMAGE + "self_attn.projection.{p}",
    IMAGE + "mlp.{r}": OURS_IMAGE + "mlp.{r}",
    "ln_vision.{p}": "encoder.vision.post_layernorm.{p}",
    "Qformer.bert.embeddings.LayerNorm.{p}": "encoder.qformer.layernorm.{p}",
    QUERY + "attention.self.{r}": OURS_QUERY + "attention.attention.{r}",
    QUERY + "crossattention.self.{r}": OURS_QUERY + "crossattention.attention.{r}",
    QUERY + "{r}": OURS_QUERY + "{r}",
    "t5_model.{r}": "encoder.text.{r}",
    "t5_proj.{p}": "encoder.projector.{p}",
    "FFM.{r}": "encoder.fusion.{r}",
    "y_embedder.y_embedding": "encoder.null",
    "x_embedder.proj.{p}": "denoiser.transformer.pos_embed.proj.{p}",
    "t_embedder.mlp.0.{p}": TIME + "emb.timestep_embedder.linear_1.{p}",
    "t_embedder.mlp.2.{p}": TIME + "emb.timestep_embedder.linear_2.{p}",
    "t_block.1.{p}": TIME + "linear.{p}",
    "y_embedder.y_proj.fc1.{p}": CAPTION + "linear_1.{p}",
    "y_embedder.y_proj.fc2.{p}": CAPTION + "linear_2.{p}",
    BLOCK + "scale_shift_table": OURS_BLOCK + "scale_shift_table",
    BLOCK + "attn.proj.{p}": OURS_BLOCK + "attn1.to_out.0.{p}",
    BLOCK + "cross_attn.q_linear.{p}": OURS_BLOCK + "attn2.to_q.{p}",
    BLOCK + "cross_attn.proj.{p}": OURS_BLOCK + "attn2.to_out.0.{p}",
    BLOCK + "mlp.fc1.{p}": OURS_BLOCK + "ff.net.0.proj.{p}",
    BLOCK + "mlp.fc2.{p}": OURS_BLOCK + "ff.net.2.{p}",
    "final_layer.linear.{p}": "denoiser.transformer.proj_out.{p}",
    "final_layer.scale_shift_table": "denoiser.transformer.scale_shift_table",
}
"""What is only called otherwise; where two fit, the first."""
SPLIT = {
    BLOCK + "attn.qkv.{p}": tuple(OURS_BLOCK + f"attn1.to_{one}.{{p}}" for one in "qkv"),
    BLOCK + "cross_attn.kv_linear.{p}": tuple(OURS_BLOCK + f"attn2.to_{one}.{{p}}" for one in "kv"),
}
"""What is one tensor there and several of equal height here."""


@dataclass(frozen=True, kw_only=True)
class Heads:
    """Attention heads, which tensors do not show: as published."""

    vision: int = 16
    qformer: int = 12
    fusion: int = 8
    transformer: int = 16

    @classmethod
    def of(cls, encoder: QFormerT5Encoder, denoiser: PixArtDenoiser) -> "Heads":
        """Those of an editor."""
        return cls(
            vision=encoder.vision.config.num_attention_heads,
            qformer=encoder.qformer.config.num_attention_heads,
            fusion=encoder.fusion.clip_attn.num_heads,
            transformer=denoiser.transformer.config.num_attention_heads,
        )


PUBLISHED = Heads()
"""Those of the published weights."""


def read_mige(
    path: str | Path, *, heads: Heads | None = None, dtype: Dtypes = torch.float32
) -> tuple[QFormerT5Encoder, PixArtDenoiser]:
    """Encoder and denoiser of a published file, each tensor as it is there.

    Raises one WeightsError that lists all that is missing, unexpected or of another shape.
    """
    tensors = read_tensors(path, within=STATE)
    encoder, denoiser = empty_mige({name: tuple(each.shape) for name, each in tensors.items()}, path, heads)
    typed(encoder, dtype_of(dtype, "text_encoder"))
    settle(typed(denoiser, dtype_of(dtype, "denoiser")).transformer)
    both = nn.ModuleDict({"encoder": encoder, "denoiser": denoiser})
    places = published(both.state_dict(), _constants(encoder, denoiser))
    found = dict(fitting(places, [(path, tensors)], where=path, optional=OPTIONAL))
    _check_constants(found, denoiser, path)
    put(both, [(path, dict(ours(found)))], where=path)
    tie(encoder.text)
    encoder.meet(denoiser)
    return encoder.eval(), denoiser.eval()


def write_mige(encoder: QFormerT5Encoder, denoiser: PixArtDenoiser, path: str | Path) -> Path:
    """Write the published file: .safetensors, or a pickle of tensors by any other name.

    Raises WeightsError for a vision tower whose keys have a bias, which the file has no place for.
    """
    path = Path(path)
    state = nn.ModuleDict({"encoder": encoder, "denoiser": denoiser}).state_dict()
    held = published(state, _constants(encoder, denoiser))
    tensors = {name: each.detach().cpu().contiguous().clone() for name, each in held.items()}
    partial = path.with_name(f".{path.name}.partial")
    try:
        if path.suffix == ".safetensors":
            save_file(tensors, partial, metadata={"format": "pt"})
        else:
            torch.save({STATE: tensors}, partial)
        open_to_others(partial)
        sync(partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def published(state: Mapping[str, Tensor], constants: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """All entries of the published file, of ours; also of tensors without values.

    Raises WeightsError for what it has no place for.
    """
    left, found = dict(state), dict(constants)
    for name in list(left):
        if name not in left:
            continue  # taken with another
        if values := _matched(BIASES[2], name):
            query, key, value = left.pop(name).chunk(3)
            if not key.is_meta and key.any():
                raise WeightsError(
                    f"{name} has a bias of its keys, and MIGE's file has no place for one: set it to zero."
                )
            found |= {BIASES[0].format(**values): query, BIASES[1].format(**values): value}
            continue
        for theirs, parts in SPLIT.items():
            if values := _matched(parts[0], name):
                together = [left.pop(part.format(**values)) for part in parts]
                found[theirs.format(**values)] = torch.cat(together)
                break
        else:
            for theirs, mine in SAME.items():
                if (values := _matched(mine, name)) is not None:
                    found[theirs.format(**values)] = left.pop(name)
                    break
    if left:
        raise WeightsError(
            f"MIGE's file has no place for {', '.join(sorted(left)[:8])}: expected an encoder of Q-Former "
            "and T5 that looks through its denoiser's patches, and PixArt; write a release instead."
        )
    return found


def ours(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """What a published file's entries are here; constants are left out, and what is left out is there."""
    for name, tensor in tensors.items():
        if name in (POSITIONS, IDS):
            continue
        if values := _matched(BIASES[0], name):
            both = (tensor, torch.zeros_like(tensor), tensors[BIASES[1].format(**values)])
            yield BIASES[2].format(**values), torch.cat(both)
        elif _matched(BIASES[1], name):
            continue
        elif parts := _split(name):
            yield from zip(parts, tensor.chunk(len(parts)))
        else:
            yield (
                next(
                    mine.format(**values)
                    for theirs, mine in SAME.items()
                    if (values := _matched(theirs, name)) is not None
                ),
                tensor,
            )
    if TABLES[0] not in tensors:
        yield "encoder.text.shared.weight", tensors[TABLES[1]]


def empty_mige(
    shapes: Mapping[str, tuple[int, ...]], path: str | Path = "the file", heads: Heads | None = None
) -> tuple[QFormerT5Encoder, PixArtDenoiser]:
    """Encoder and denoiser without values, on the meta device, of the sizes that a file's tensors show.

    Raises WeightsError where they show none.
    """
    heads = heads or PUBLISHED
    try:
        with torch.device("meta"):
            return _encoder(shapes, heads), _denoiser(shapes, heads)
    except (KeyError, IndexError, ValueError, AssertionError, ZeroDivisionError, RuntimeError) as error:
        raise WeightsError(
            f"{path} does not tell the sizes of MIGE's parts ({type(error).__name__}: {error}): expected its "
            f"published file, with {heads}; give another file."
        ) from error


def tie(text: T5EncoderModel) -> T5EncoderModel:
    """Its two tables of words as one again, in place."""
    text.encoder.embed_tokens.weight = text.shared.weight
    return text


def _encoder(shapes: Mapping[str, tuple[int, ...]], heads: Heads) -> QFormerT5Encoder:
    width, places = shapes["visual_encoder.pos_embed"][2], shapes["visual_encoder.pos_embed"][1] - 1
    patch = shapes["visual_encoder.patch_embed.proj.weight"][-1]
    vision = Blip2VisionConfig(
        hidden_size=width, intermediate_size=shapes["visual_encoder.blocks.0.mlp.fc1.weight"][0],
        num_hidden_layers=_count(shapes, IMAGE + "norm1.weight"), num_attention_heads=heads.vision,
        image_size=round(places**0.5) * patch, patch_size=patch,
    )  # fmt: skip
    _, queries, middle = shapes["query_tokens"]
    qformer = Blip2QFormerConfig(
        hidden_size=middle, num_hidden_layers=_count(shapes, QUERY + "attention.self.query.weight"),
        intermediate_size=shapes[(QUERY + "intermediate_query.dense.weight").format(n=0)][0],
        num_attention_heads=heads.qformer, encoder_hidden_size=width,
        max_position_embeddings=shapes.get(IDS, (1, 512))[1],
    )  # fmt: skip
    first = "t5_model.encoder.block.0.layer.0.SelfAttention."
    buckets, count = shapes[first + "relative_attention_bias.weight"]
    inner, told = shapes[first + "q.weight"]
    text = T5Config(
        vocab_size=shapes[TABLES[1]][0], d_model=told, d_kv=inner // count, num_heads=count,
        d_ff=shapes["t5_model.encoder.block.0.layer.1.DenseReluDense.wi_0.weight"][0],
        num_layers=_count(shapes, "t5_model.encoder.block.{n}.layer.0.SelfAttention.q.weight"),
        relative_attention_num_buckets=buckets, feed_forward_proj="gated-gelu",
    )  # fmt: skip
    return QFormerT5Encoder(
        Blip2VisionModel(vision), Blip2QFormerModel(qformer),
        FeatureFusion(middle, shapes["FFM.k_proj_1.0.weight"][1], heads=heads.fusion), T5EncoderModel(text),
        queries=queries, length=shapes["y_embedder.y_embedding"][0],
    )  # fmt: skip


def _denoiser(shapes: Mapping[str, tuple[int, ...]], heads: Heads) -> PixArtDenoiser:
    width, channels, patch, _ = shapes["x_embedder.proj.weight"]
    return PixArtDenoiser(
        PixArtTransformer2DModel(
            num_attention_heads=heads.transformer, attention_head_dim=width // heads.transformer,
            in_channels=channels, out_channels=shapes["final_layer.linear.weight"][0] // patch**2,
            num_layers=_count(shapes, BLOCK + "scale_shift_table"), cross_attention_dim=width,
            sample_size=round(shapes[POSITIONS][1] ** 0.5) * patch, patch_size=patch,
            norm_elementwise_affine=False, norm_eps=1e-6, interpolation_scale=1,
            use_additional_conditions=False,
            caption_channels=shapes["y_embedder.y_proj.fc1.weight"][1],
        )
    )  # fmt: skip


def _count(shapes: Mapping[str, tuple[int, ...]], pattern: str) -> int:
    """How many layers there are, counted from 0 without a gap."""
    number = 0
    while pattern.format(n=number) in shapes:
        number += 1
    return number


def _constants(encoder: QFormerT5Encoder, denoiser: PixArtDenoiser) -> dict[str, Tensor]:
    """The file's entries that are no weights."""
    count = encoder.qformer.config.max_position_embeddings
    return {POSITIONS: position_table(denoiser.transformer), IDS: torch.arange(count)[None]}


def _check_constants(found: Mapping[str, Tensor], denoiser: PixArtDenoiser, path: str | Path) -> None:
    away = (found[POSITIONS].float() - position_table(denoiser.transformer)).abs().max().item()
    if not away <= NEAR:
        raise WeightsError(
            f"{path}: its table of places is {away:.2g} away from the one that the transformer computes: "
            "expected MIGE's of 512 pixels; give another file."
        )
    if TABLES[0] in found and not torch.equal(*(found[name] for name in TABLES)):
        raise WeightsError(
            f"{path}: {TABLES[0]} and {TABLES[1]} differ, and T5 has one table: fetch the file again."
        )


def _split(name: str) -> list[str]:
    """The parts of an entry that is several here."""
    for theirs, parts in SPLIT.items():
        if values := _matched(theirs, name):
            return [part.format(**values) for part in parts]
    return []


def _matched(pattern: str, name: str) -> dict[str, str] | None:
    """What stands in a pattern's places, of a name that it fits."""
    match = re.fullmatch(_regex(pattern), name)
    return None if match is None else match.groupdict()


def _regex(pattern: str) -> str:
    escaped = re.escape(pattern).replace(r"\{", "{").replace(r"\}", "}")
    kinds = {"{n}": r"(?P<n>\d+)", "{p}": r"(?P<p>weight|bias)", "{r}": r"(?P<r>.+)"}
    for place, expression in kinds.items():
        escaped = escaped.replace(place, expression)
    return escaped
