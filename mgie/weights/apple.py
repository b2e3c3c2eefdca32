"""Apple's `mgie_7b` (mllm.pt, unet.pt) and the original's checkpoints <-> a release.

    mllm.pt   model.embed_tokens.weight, lm_head.weight, edit_head.*, and `emb`: the visual tokens' rows
    unet.pt   the UNet, its input widened

Both in float16. What they lack comes from a LLaVA-v1 folder (language model, vision tower, tokenizer) and
from a diffusers folder (VAE, scheduler). A run that trained more of the LLaVA than mllm.pt holds has it
beside them, as llava/.
"""

import re
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from llava_patch.folders import whole_folder
from llava_patch.loading import put
from llava_patch.model import Llava
from llava_patch.processor import Processor
from llava_patch.shards import each_shard, read_tensors
from llava_patch.weights import load_llava, write_llava
from mgie.diffusion.process import process_of
from mgie.errors import ConfigError, WeightsError
from mgie.models.codec import Codec
from mgie.models.denoisers.unet import UNetDenoiser
from mgie.models.editor import Editor
from mgie.models.encoders.edit_head import EditHead, EditHeadConfig
from mgie.models.encoders.llava import LlavaEncoder
from mgie.prompts import LlavaPrompts, visual_ids
from mgie.tokens import visual_tokens
from mgie.weights.diffusers_parts import check_fit, empty_unet, load_scheduler, load_vae
from mgie.weights.intact import intact
from mgie.weights.llava_part import QUESTION
from mgie.weights.release import Release

MLLM, UNET, OWN_LLAVA = "mllm.pt", "unet.pt", "llava"
APPLE = "folder of mllm.pt and unet.pt"
"""Kind of the folder."""
LINEAR = "mapper.encoder.layers.0.linear1.weight"
EMBEDDINGS, LM_HEAD, HEAD = "model.embed_tokens.weight", "lm_head.weight", "edit_head."
PUBLISHED_HEADS = 4
SAMPLER = "EulerAncestralDiscreteScheduler"
"""Attention heads of the published edit head: the only size that its tensors do not show."""
SHARDS = "pytorch_model*.bin"
LLAVA, DIFFUSION = "LLaVA-7B-v1", "timbrooks/instruct-pix2pix"
"""What the published files belong to: the name of a folder beside theirs, and a hub id."""


def read_apple(
    folder: str | Path,
    *,
    llava: str | Path | None = None,
    diffusion: str | Path | None = None,
    dtype: torch.dtype = torch.float32,
    heads: int = PUBLISHED_HEADS,
    attention: str = "sdpa",
    progress: bool = True,
    verify: bool = True,
) -> Release:
    """Read mllm.pt and unet.pt over the LLaVA folder and the diffusion side that they were trained on.

    Default: `llava` inside the folder, or LLaVA-7B-v1 beside it; and timbrooks/instruct-pix2pix. With
    `verify` the folder's own files are compared with its manifest, which the published one does not have.
    Raises WeightsError listing what does not fit.
    """
    folder = Path(folder)
    own = folder / OWN_LLAVA
    with intact(folder, kind=APPLE, verify=verify, expected=False):
        return assemble(
            lambda: read_tensors(folder / MLLM),
            lambda: read_tensors(folder / UNET),
            where=folder,
            llava=llava or (own if own.is_dir() else folder.absolute().parent / LLAVA),
            diffusion=diffusion or DIFFUSION,
            dtype=dtype,
            heads=heads,
            attention=attention,
            progress=progress,
        )


def read_training_checkpoint(
    folder: str | Path, *, progress: bool = True
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The trained tensors of a checkpoint of the original program, in any number of shards: mllm.pt's and
    unet.pt's.

    Its frozen parts are left out, as its own extraction does: they are those of the LLaVA folder, and a VAE
    that an initialiser has touched (docs/coming-from-ml-mgie.md, Q1). Tensors that are kept are held in
    memory. Raises WeightsError.
    """
    mllm: dict[str, Tensor] = {}
    unet: dict[str, Tensor] = {}
    for _, tensors in each_shard(folder, progress=progress):
        for name in list(tensors):
            tensor = tensors.pop(name)
            if re.search(r"embed_tokens|lm_head|edit_head", name):
                mllm[name] = tensor.clone()
            elif "unet" in name:
                unet[name.replace("unet.", "")] = tensor.clone()
    if not mllm or not unet:
        raise WeightsError(
            f"{folder} holds no trained editor ({len(mllm)} tensors of the language side, {len(unet)} of "
            "the UNet): expected the folder of a training checkpoint of the original program."
        )
    return mllm, unet


def is_training_checkpoint(folder: str | Path) -> bool:
    """Whether the folder holds shards as the original program writes them."""
    return any(Path(folder).glob(SHARDS))


def assemble(
    mllm: Callable[[], dict[str, Tensor]],
    unet: Callable[[], dict[str, Tensor]],
    *,
    where: str | Path,
    llava: str | Path,
    diffusion: str | Path,
    dtype: torch.dtype = torch.float32,
    heads: int = PUBLISHED_HEADS,
    attention: str = "sdpa",
    progress: bool = True,
) -> Release:
    """An editor of trained tensors under their published names, over the folders they were trained on.

    What `mllm` and `unet` give is taken out as it finds its place, the one after the other. Of the diffusion
    side's own UNet only the configuration is read.
    """
    # What is small is read first: a wrong folder shows in seconds.
    if not Path(llava).is_dir():
        raise WeightsError(
            f"there is no LLaVA folder {llava}, and {where} needs the merged LLaVA folder that it was "
            "trained on: put it there, or name it (llava)."
        )
    processor = Processor.from_pretrained(llava)
    own, schedule, vae = empty_unet(diffusion), load_scheduler(diffusion), load_vae(diffusion, dtype=dtype)
    check_fit(own, vae, diffusion)
    with tqdm(total=2, desc=f"loading {Path(where).name}", leave=False, disable=not progress) as bar:
        model, edit_head = _language_side(mllm, where, llava, processor, dtype, heads, attention, progress)
        bar.update()
        nn.Module.to(own, dtype)  # its own `to` warns of a list of nothing
        own = put(own, [(UNET, unet())], where=f"{where}/{UNET}").eval()
        bar.update()
    count = edit_head.config.visual_tokens
    prompts = LlavaPrompts(processor, question=QUESTION, count=count)
    encoder = LlavaEncoder(model, edit_head, visual_ids=prompts.visual_ids)
    codec = Codec(vae.eval())
    process = process_of(schedule)
    # The published sampler; DDIM's where the UNet predicts pictures, for which that is not defined.
    sampler = "DDIMScheduler" if schedule.config.prediction_type == "sample" else SAMPLER
    return Release(
        editor=Editor(encoder=encoder, denoiser=UNetDenoiser(own), codec=codec).eval(),
        prompts=prompts,
        process=process,
        scheduler=process.sampler(sampler),
        settings={},
    )


def _language_side(
    read: Callable[[], dict[str, Tensor]],
    where: str | Path,
    llava: str | Path,
    processor: Processor,
    dtype: torch.dtype,
    heads: int,
    attention: str,
    progress: bool,
) -> tuple[Llava, EditHead]:
    """The LLaVA and the edit head, with the trained tensors in place; `processor` learns their tokens."""
    mllm = read()
    emb = mllm.pop("emb", None)
    head = _head(mllm, where, heads)
    model, _ = load_llava(llava, dtype=dtype, attn_implementation=attention, progress=progress)
    width = head["llm2hid.weight"].shape[1]
    if width != model.config.language.hidden_size:
        raise WeightsError(
            f"{where}/{MLLM} is for a language model of width {width}, but {llava} has "
            f"{model.config.language.hidden_size}: use the LLaVA folder that it was trained on."
        )
    names = visual_tokens(_visual_count(mllm, processor, where))
    processor.tokenizer.add_tokens(names)
    model.grow(max(len(processor.tokenizer) - model.vocabulary, 0))
    ids = visual_ids(processor, len(names))

    # The two tables and the head: each exactly the file's.
    tables = {EMBEDDINGS: model.language_model.model.embed_tokens, LM_HEAD: model.language_model.lm_head}
    for name, table in tables.items():
        put(table, [(MLLM, {"weight": mllm.pop(name)})], where=f"{name} of {where}/{MLLM}")
    with torch.device("meta"):
        config = _head_config(head, heads, len(names))
        edit_head = EditHead(config, d_in=width, e_out=head["hid2feat.weight"].shape[0])
    put(edit_head.to(dtype), [(MLLM, head)], where=f"{where}/{MLLM}").eval()
    if emb is not None:
        _keep_embeddings(edit_head, emb, model.language_model.model.embed_tokens.weight[list(ids)], where)
    return model, edit_head


def write_apple(release: Release, out: str | Path, *, llava: bool = False) -> Path:
    """Write mllm.pt, with `emb`, and unet.pt in float16, as the original demo reads them.

    With `llava` the LLaVA folder that they belong to, too: one that is nobody else's. Raises ConfigError for
    an editor that is none of a LLaVA, an edit head and a UNet.
    """
    encoder, denoiser, prompts = published_parts(release)
    mllm = apple_mllm(encoder)
    with whole_folder(out, kind=APPLE) as partial:
        torch.save(mllm, partial / MLLM)
        torch.save(_halved(denoiser.unet.state_dict()), partial / UNET)
        if llava:
            write_llava(encoder.llava, prompts.processor.tokenizer, partial / OWN_LLAVA)
            prompts.processor.save_pretrained(partial / OWN_LLAVA)
    return Path(out)


def published_parts(release: Release) -> tuple[LlavaEncoder, UNetDenoiser, LlavaPrompts]:
    """The parts that Apple's layout has a place for. Raises ConfigError for an editor of others."""
    encoder, denoiser, prompts = release.editor.encoder, release.editor.denoiser, release.prompts
    if (
        isinstance(encoder, LlavaEncoder)
        and isinstance(denoiser, UNetDenoiser)
        and isinstance(prompts, LlavaPrompts)
    ):
        return encoder, denoiser, prompts
    raise ConfigError(
        f"--format apple holds a LLaVA, an edit head and a UNet, but this editor is a "
        f"{type(encoder).__name__} with a {type(denoiser).__name__}; use --format release."
    )


def check_layout(heads: int, groups: Sequence[str]) -> None:
    """Raise ConfigError for what Apple's layout does not tell and its readers take for something else."""
    if heads != PUBLISHED_HEADS or "codec" in groups:
        reason = f"the edit head has {heads} heads" if heads != PUBLISHED_HEADS else "the VAE was trained"
        raise ConfigError(
            f"--format apple: {reason}, which Apple's layout does not hold (its readers take "
            f"{PUBLISHED_HEADS} heads and a published VAE); use --format release."
        )


def apple_mllm(encoder: LlavaEncoder) -> dict[str, Tensor]:
    """The content of mllm.pt."""
    language_model, head = encoder.llava.language_model, encoder.edit_head
    embeddings = language_model.model.embed_tokens.weight
    tensors: dict[str, Tensor] = {EMBEDDINGS: embeddings, LM_HEAD: language_model.lm_head.weight}
    state = head.state_dict()
    own = state.pop("own_embeddings", None)
    tensors |= {HEAD + name: tensor for name, tensor in state.items()}
    tensors["emb"] = (embeddings[list(encoder.visual_ids)] if own is None else own)[None]
    return _halved(tensors)


def _halved(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().half().contiguous().clone() for name, tensor in tensors.items()}


def _head(mllm: dict[str, Tensor], where: str | Path, heads: int) -> dict[str, Tensor]:
    """Take out the edit head's tensors, by its own names; everything else must be a table."""
    names = [name for name in mllm if name.startswith(HEAD)]
    head = {name[len(HEAD) :]: mllm.pop(name) for name in names}
    held = {EMBEDDINGS: 2, LM_HEAD: 2, f"{HEAD}query": 3}
    held |= {HEAD + name: 2 for name in ("llm2hid.weight", "hid2feat.weight", LINEAR)}
    found = mllm | {HEAD + name: tensor for name, tensor in head.items()}
    problems = [f"missing {name}" for name in held if name not in found]
    problems += [
        f"misshapen {name}: {list(found[name].shape)}, expected {axes} axes"
        for name, axes in held.items()
        if name in found and found[name].ndim != axes
    ]
    problems += [f"unexpected {name}" for name in mllm if name not in (EMBEDDINGS, LM_HEAD)]
    if problems:
        raise WeightsError(
            f"{where}/{MLLM} is no mllm.pt of MGIE: {'; '.join(problems[:20])}; fetch the file again."
        )
    if head["query"].shape[-1] % heads:
        raise WeightsError(
            f"the edit head of {where} is {head['query'].shape[-1]} wide, which {heads} heads do not divide."
        )
    return head


def _head_config(head: dict[str, Tensor], heads: int, count: int) -> EditHeadConfig:
    layers = {name.split(".")[3] for name in head if name.startswith("mapper.encoder.layers.")}
    return EditHeadConfig(
        visual_tokens=count,
        width=head["query"].shape[-1],
        heads=heads,
        layers=len(layers),
        feedforward=head[LINEAR].shape[0],
        queries=head["query"].shape[-2],
    )


def _visual_count(mllm: dict[str, Tensor], processor: Processor, where: str | Path) -> int:
    """How many visual tokens the tables have rows for; the LLaVA folder may know them already."""
    tokenizer = processor.tokenizer
    rows, known = mllm[EMBEDDINGS].shape[0], len(tokenizer)
    known -= sum(name in tokenizer.added for name in visual_tokens(known))
    if rows <= known:
        raise WeightsError(
            f"{where}/{MLLM} has {rows} rows of embeddings, but the LLaVA folder's tokenizer has {known} "
            "tokens without the visual ones: use the LLaVA folder that it was trained on."
        )
    return rows - known


def _keep_embeddings(head: EditHead, emb: Tensor, rows: Tensor, where: str | Path) -> None:
    """`emb` is what the head reads; it is worth keeping only where the table has other rows."""
    if tuple(emb.shape) not in (tuple(rows.shape), (1, *rows.shape)):
        raise WeightsError(
            f"emb in {where}/{MLLM} is {list(emb.shape)}: expected {list(rows.shape)}; fetch the file again."
        )
    emb = emb.reshape(rows.shape).to(rows.dtype)
    if not torch.equal(emb, rows):
        warnings.warn(
            f"emb in {where}/{MLLM} differs from the visual tokens' rows of the embedding table; the edit "
            "head reads emb, the language model the table.",
            stacklevel=2,
        )
        head.own_embeddings = emb.clone()
