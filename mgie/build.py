"""RunConfig -> objects. The only place that knows both the configuration and the classes."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from diffusers import DDPMScheduler
from torch import Tensor

from llava_patch.processor import Processor
from llava_patch.weights import load_llava
from mgie.config import RunConfig, dump_run, resolve
from mgie.data.batches import Batches
from mgie.data.datasets import OrderConfig, open_sets, with_features
from mgie.data.examples import ExampleBuilder
from mgie.data.mixture import Joined
from mgie.data.orders import aspect_shapes
from mgie.data.stored_features import FeatureBuilder, FeatureExtractor, join_features
from mgie.data.stored_pairs import stored_splits
from mgie.data.streamed import StreamedPairs
from mgie.errors import ConfigError, WeightsError
from mgie.models.codec import Codec
from mgie.models.denoisers.unet import UNetDenoiser
from mgie.models.editor import Editor
from mgie.models.encoders.clip_text import ClipTextEncoder
from mgie.models.encoders.edit_head import EditHead
from mgie.models.encoders.llava import LlavaEncoder
from mgie.tokens import visual_tokens
from mgie.weights import checkpoint
from mgie.weights.checkpoint import TrainState
from mgie.weights.diffusers_parts import load_diffusion, load_sampler, load_text_model
from mgie.weights.release import INDEX, Release, read_release


@dataclass(frozen=True, kw_only=True)
class Parts:
    """An editor and what belongs to it but is no weight."""

    editor: Editor
    processor: Processor
    scheduler: DDPMScheduler
    """The training schedule; samplers are built from its configuration."""


def build_editor(run: RunConfig, *, dtype: torch.dtype = torch.float32, progress: bool = False) -> Parts:
    """Load both sides of the editor from what the run names; edit head and visual tokens' rows are new.

    The sides are built separately, so that no later initialiser touches what a file held
    (docs/coming-from-ml-mgie.md, Q1).
    """
    config = run.model
    folder = resolve(config.llava)
    llava, _ = load_llava(folder, dtype=dtype, attn_implementation=config.attention, progress=progress)
    processor = Processor.from_pretrained(folder, template=config.template)
    unet, vae, scheduler = load_diffusion(resolve(config.diffusion), progress=progress)
    names = visual_tokens(config.edit_head.visual_tokens)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.seed)
        llava.grow(processor.tokenizer.add_tokens(names))
        edit_head = EditHead(
            config.edit_head, d_in=llava.config.language.hidden_size, e_out=unet.config.cross_attention_dim
        )
    if run.train.gradient_checkpointing:
        llava.language_model.activation_checkpointing_enable()
    ids = tuple(processor.tokenizer.id_of(name) for name in names)
    encoder = LlavaEncoder(llava, edit_head, visual_ids=ids, compat=run.compat)
    editor = Editor(encoder=encoder, denoiser=UNetDenoiser(unet), codec=Codec(vae))
    return Parts(editor=editor.to(dtype), processor=processor, scheduler=scheduler)


def first_checkpoint(where: str) -> str:
    """What `model.start` means by a folder: of a run its newest checkpoint; a checkpoint or a release itself.

    Raises WeightsError where it is none of these, or damaged.
    """
    place = Path(where)
    if (place / "checkpoints").is_dir() and (found := checkpoint.latest(place)):
        return str(found)
    if (place / "state.json").is_file():
        checkpoint.check(place)
    elif not (place / INDEX).is_file():
        raise WeightsError(
            f"model.start is {where}: expected the folder of a run that has a checkpoint, of a checkpoint, "
            "or of a release (`mgie extract` writes one)."
        )
    return where


def _read_start(where: str) -> dict[str, Tensor]:
    """What a checkpoint or a release can give a run to begin with, by the names of an editor's parameters."""
    if not (Path(where) / INDEX).is_file():
        return checkpoint.load_begun(Path(where)) | checkpoint.load_tensors(Path(where))
    release = read_release(where)
    if release.edit_head.own_embeddings is not None:
        raise WeightsError(
            f"{where} has rows of visual tokens beside its language model's, which no run can begin with: "
            "take a release that `mgie train` made."
        )
    encoder = LlavaEncoder(release.llava, release.edit_head, visual_ids=())
    editor = Editor(encoder=encoder, denoiser=UNetDenoiser(release.unet), codec=Codec(release.vae))
    return {name: parameter.detach() for name, parameter in editor.named_parameters()}


def begin_run(run: RunConfig, parts: Parts, data: str) -> tuple[TrainState, dict[str, Tensor]]:
    """A new run's state, and the tensors of `model.start`, put in, that it leaves as they are then.

    Those of them that its parts have just so are not among them. Raises WeightsError for tensors that the
    editor has no place for.
    """
    if run.model.start is None:
        return TrainState(data=data), {}
    tensors, editor = _read_start(run.model.start), dict(parts.editor.named_parameters())
    left = {
        name: tensor
        for name, tensor in tensors.items()
        if name in editor and not editor[name].requires_grad and not torch.equal(tensor, editor[name])
    }
    checkpoint.load_into(tensors, editor, where=run.model.start, every=False)
    return TrainState(data=data), left


def build_teacher(run: RunConfig, parts: Parts) -> ClipTextEncoder | None:
    """The text encoder that the diffusion side was pretrained with, if the run aligns its condition with it.

    It reads the language model's own tokens. Raises ConfigError where it cannot.
    """
    if not run.train.align_weight:
        return None
    tokenizer, head = parts.processor.tokenizer, run.model.edit_head
    text = load_text_model(resolve(run.model.diffusion))
    words, length = len(tokenizer) - head.visual_tokens, text.config.max_position_embeddings
    if text.config.vocab_size != words or head.queries not in (1, length):
        raise ConfigError(
            f"train.align_weight={run.train.align_weight} with {run.model.diffusion}: its text encoder reads "
            f"{text.config.vocab_size} words in {length} places, the language model has {words} and the edit "
            f"head {head.queries} queries: expected the same vocabulary and 1 or {length} queries; use parts "
            "that were made together, or set train.align_weight to 0."
        )
    silent = (*(tokenizer.id_of(name) for name in visual_tokens(head.visual_tokens)), tokenizer.eos_id)
    return ClipTextEncoder(text, silent_ids=silent, pooled=head.queries == 1)


def build_examples(run: RunConfig, processor: Processor) -> ExampleBuilder:
    """What turns a pair into an example for this run's model."""
    data = run.data
    return ExampleBuilder(
        processor,
        question=run.model.question,
        visual_tokens=run.model.edit_head.visual_tokens,
        size=data.size,
        max_length=data.max_length,
        compat=run.compat,
        shapes=aspect_shapes(data.size, step=data.shape_step) if data.buckets == "shape" else None,
    )


def build_batches(
    run: RunConfig, processor: Processor, *, rank: int, world: int, editor: Editor | None = None
) -> Batches:
    """The training data of this run, for one of `world` processes.

    `editor` is whoever will read them: stored features must be those of its parts, and shapes of pictures
    such as it can read. Raises ConfigError, DataError or WeightsError where they are not.
    """
    data, builder = run.data, build_examples(run, processor)
    if editor is None and (data.features or builder.shapes):
        raise ConfigError(
            "stored features and shape buckets are for one editor: give build_batches its editor."
        )
    batches = partial(
        Batches,
        seed=run.seed,
        batch_size=run.train.batch_size,
        micro_batch_size=run.train.micro_batch(world),
        rank=rank,
        world=world,
        workers=data.workers,
    )
    if data.streaming:
        _check_previews(run)
        stream = StreamedPairs(data.path, memory=run.folder / "stream.jsonl", notes=rank == 0)
        return batches(stream, builder)
    arrangement = OrderConfig(
        batch_size=run.train.batch_size,
        last=data.last,
        buckets=data.buckets,
        shapes=builder.shapes or (),
        pair_weights=data.pair_weights,
    )
    stored, order = open_sets(data.shares, arrangement, seed=run.seed)
    _check_previews(run)
    if editor is None:
        return batches(Joined(stored), builder, order=order)
    for width, height in builder.shapes or ():
        editor.codec.latent_shape(height, width)
    if not data.features:
        return batches(Joined(stored), builder, order=order)
    moving = {"vae": "codec", "clip": "vision_tower"}
    for group in (moving[kind] for kind in data.features if moving[kind] in run.train.groups):
        raise ConfigError(
            f"data.features={list(data.features)} with {group} in train.groups: what is trained gives other "
            "features after every step; leave one of them out."
        )
    llava = editor.encoder.llava if "clip" in data.features else None
    extractor = FeatureExtractor(builder, codec=editor.codec if "vae" in data.features else None, llava=llava)  # type: ignore[arg-type]
    pairs = with_features(stored, data.features, extractor)
    return batches(pairs, FeatureBuilder(builder), order=order, join=join_features)


def _check_previews(run: RunConfig) -> None:
    """Refuse now what would fail at the first preview."""
    if run.preview.every and (run.data.streaming or "test" not in stored_splits(run.data.path)):
        raise ConfigError(
            f"previews show pairs of the split 'test' of a data set on disk, and {run.data.path} has none: "
            "set preview.every to 0, or hold pairs out with `mgie prepare ... --test N`."
        )


def build_release(parts: Parts, run: RunConfig) -> Release:
    """What a pipeline or a release folder holds, of the editor as it is now.

    The recipe's sampling becomes its defaults.
    """
    editor = parts.editor
    assert isinstance(editor.encoder, LlavaEncoder)
    assert isinstance(editor.denoiser, UNetDenoiser)
    return Release(
        llava=editor.encoder.llava,
        edit_head=editor.encoder.edit_head,
        unet=editor.denoiser.unet,
        vae=editor.codec.vae,
        scheduler=load_sampler(run.sampling.scheduler, parts.scheduler, steps=run.sampling.steps),
        processor=parts.processor,
        settings={
            "question": run.model.question,
            "size": run.data.size,
            "num_inference_steps": run.sampling.steps,
            "guidance_scale": run.sampling.guidance,
            "image_guidance_scale": run.sampling.image_guidance,
            "max_new_tokens": run.sampling.max_new_tokens,
            "no_repeat_ngram_size": run.sampling.no_repeat_ngram_size,
            "compat": run.compat,
        },
        run_yaml=dump_run(run),
    )
