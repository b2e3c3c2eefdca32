"""RunConfig -> objects. The only place that knows both the configuration and the classes."""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from llava_patch.loading import Dtypes
from llava_patch.shards import read_tensors
from mgie.config import RunConfig, dump_run
from mgie.controllers.layout_learning import LayoutLearning
from mgie.diffusion.process import AbstractProcess, predicting
from mgie.errors import ConfigError, WeightsError
from mgie.models.adapters import add_adapters, keep_in_bits, plainly
from mgie.models.editor import Editor
from mgie.models.encoders.base import AbstractInstructionEncoder
from mgie.prompts import AbstractPrompts
from mgie.training.layouts import learning_of
from mgie.weights import checkpoint
from mgie.weights.checkpoint import TrainState
from mgie.weights.controllers import add_identity, add_layout
from mgie.weights.parts import denoiser_part, encoder_part, resolve
from mgie.weights.release import INDEX, Release, read_release, release_identity
from mgie.weights.stable_diffusion import folder_identity, is_stable_diffusion, read_stable_diffusion


@dataclass(frozen=True, kw_only=True)
class Parts:
    """An editor and what belongs to it but is no weight."""

    editor: Editor
    prompts: AbstractPrompts
    process: AbstractProcess


def build_editor(run: RunConfig, *, dtype: Dtypes = torch.float32, progress: bool = False) -> Parts:
    """What the run names: an encoder and a denoiser, each by its kind, or all of a release.

    `dtype` is what weights are read into, of all or of groups by name ("" is the rest).
    Both sides are built separately, so that no later initialiser touches what a file held
    (docs/coming-from-ml-mgie.md, Q1).
    """
    model = run.model
    if model.release is not None:
        opened = partial(read_release, compat=run.compat)
        if is_stable_diffusion(model.release):
            opened = read_stable_diffusion
            if run.compat != "default":
                raise ConfigError(f"compat={run.compat!r} is for MGIE's encoder; leave it out.")
        release = opened(model.release, dtype=dtype, progress=progress)
        return _checked(run, Parts(
            editor=release.editor.train(), prompts=release.prompts, process=release.process,
        ), dtype)  # fmt: skip
    painter, maker = denoiser_part(model.denoiser.kind), encoder_part(model.encoder.kind)
    denoiser, codec, process = painter.build(model.denoiser, dtype=dtype, progress=progress)
    encoder, prompts = maker.build(
        model.encoder,
        condition_width=denoiser.condition_width,
        seed=run.seed,
        compat=run.compat,
        dtype=dtype,
        progress=progress,
    )
    editor = Editor(encoder=encoder, denoiser=denoiser, codec=codec)
    return _checked(run, Parts(editor=editor, prompts=prompts, process=process), dtype)


def _checked(run: RunConfig, parts: Parts, dtype: Dtypes) -> Parts:
    if "layout" in run.train.groups:
        add_layout(parts.editor, parts.prompts, run.train.layout, seed=run.seed, dtype=dtype)
    if "identity" in run.train.groups:
        add_identity(parts.editor, seed=run.seed, dtype=dtype)
    checkpoint_as_asked(run, parts.editor)
    return replace(parts, process=predicting(parts.process, run.train.loss.prediction))


def checkpoint_as_asked(run: RunConfig, editor: Editor) -> None:
    """Let the editor's halves recompute what the run says. Raises ConfigError where they cannot."""
    train = run.train
    # Where only rows of new tokens are trained, the language model keeps few activations anyway.
    layers = {"language_model", "lora_language_model"}
    rows_alone = "new_tokens" in train.groups and not layers & {*train.groups}
    if rows_alone and getattr(run.model.encoder, "packed", None):
        raise ConfigError(
            "model.encoder.packed=true with the group new_tokens alone: there the prompts are read once "
            "without gradients, which saves more than their padding; leave model.encoder.packed out."
        )
    if train.gradient_checkpointing and not rows_alone:
        editor.encoder.checkpoint_activations(every=train.checkpointing_every)
    if train.denoiser_checkpointing != "none":
        editor.denoiser.checkpoint_activations(whole=train.denoiser_checkpointing == "whole")


def frozen_short(run: RunConfig, device: torch.device) -> bool:
    """Whether what is not trained is kept in bfloat16 on this device."""
    chosen = run.train.frozen_dtype
    if chosen is None:
        return run.train.precision == "bf16" and device.type == "cuda"
    return chosen == "bfloat16"


def dtypes_to_read(run: RunConfig, device: torch.device) -> Dtypes:
    """Groups that are trained are read in float32, the others as they are kept.

    All are float32 where the run begins with other weights: these have to be compared with them to the bit.
    """
    if not frozen_short(run, device) or run.model.start is not None:
        return torch.float32
    exact = set(run.train.groups)
    if "new_tokens" in exact:  # rows of both tables
        exact |= {"embeddings", "lm_head"}
    return {"": torch.bfloat16, **dict.fromkeys(exact, torch.float32)}


def needs_whole(run: RunConfig) -> bool:
    """Whether a run begins with what is made of whole parameters: other weights, features, rows, adapters,
    blocks."""
    made = {"new_tokens", "lora_denoiser", "lora_language_model", "layout", "identity"}.intersection(
        run.train.groups
    )
    return run.model.start is not None or bool(run.data.features) or bool(made)


def make_trainable(run: RunConfig, editor: Editor, *, kept: bool = False) -> None:
    """Put into the editor what the groups of the run need beside its own parameters: rows of new tokens by
    themselves, adapters. `kept`: for reading what was trained, so nothing is kept in few bits.

    Raises ConfigError for groups that exclude each other, and for what a part cannot have.
    """
    groups, lora = run.train.groups, run.train.lora
    for inner, outer in (
        ("new_tokens", "embeddings"), ("new_tokens", "lm_head"), ("lora_denoiser", "denoiser"),
        ("lora_language_model", "language_model"),
    ):  # fmt: skip
        if inner in groups and outer in groups:
            raise ConfigError(
                f"train.groups has {inner} and {outer}: the one is trained so that the other can stay as it "
                "is; leave one of them out."
            )
    if "new_tokens" in groups:
        editor.encoder.split_new_tokens()
    if lora.bits is not None and not kept:
        if "lora_language_model" not in groups:
            told = f"train.lora.bits={lora.bits} without the group lora_language_model"
            raise ConfigError(f"{told}: few bits are for a language model with adapters; leave it out.")
        keep_in_bits(editor.encoder.adaptable, lora.bits)
    if "lora_language_model" in groups:
        add_adapters(
            editor.encoder.adaptable, lora, targets=lora.language_model, key="train.lora.language_model",
            seed=run.seed,
        )  # fmt: skip
    if "lora_denoiser" in groups:
        add_adapters(
            editor.denoiser.adaptable, lora, targets=lora.denoiser, key="train.lora.denoiser", seed=run.seed
        )


def first_checkpoint(where: str) -> str:
    """What `model.start` means by a path: of a run its newest checkpoint; a checkpoint, a release or a file
    of tensors itself.

    Raises WeightsError where it is none of these, or damaged.
    """
    place = Path(resolve(where))
    if (place / "checkpoints").is_dir() and (found := checkpoint.latest(place)):
        return str(found)
    if (place / "state.json").is_file():
        checkpoint.check(place)
    elif not (place / INDEX).is_file() and not _holds_tensors(place):
        raise WeightsError(
            f"model.start is {where}: expected the folder of a run that has a checkpoint, of a checkpoint, "
            "or of a release (`mgie extract` writes one), or a .safetensors file of an editor's tensors."
        )
    return where


def _read_start(where: str) -> dict[str, Tensor]:
    """What a checkpoint, a release or a file can give a run to begin with, by the names of an editor's
    parameters. Raises WeightsError."""
    place = Path(resolve(where))
    if _holds_tensors(place):
        return read_tensors(place)
    if not (place / INDEX).is_file():
        return checkpoint.load_begun(place) | checkpoint.load_tensors(place)
    editor = read_release(place).editor
    if any(name.endswith("own_embeddings") for name, _ in editor.named_buffers()):
        raise WeightsError(
            f"{where} has rows of visual tokens beside its language model's, which no run can begin with: "
            "take a release that `mgie train` made."
        )
    return {name: parameter.detach() for name, parameter in editor.named_parameters()}


def _holds_tensors(place: Path) -> bool:
    return place.suffix == ".safetensors" and place.is_file()


def begin_run(run: RunConfig, parts: Parts, data: str) -> tuple[TrainState, dict[str, Tensor]]:
    """A new run's state, and the tensors of `model.start`, put in, that it leaves as they are then.

    Those of them that its parts have just so are not among them. Raises WeightsError for tensors that the
    editor has no place for.
    """
    state = TrainState(data=data, release=identity_of_parts(run))
    if run.model.start is None:
        return state, {}
    tensors, editor = _read_start(run.model.start), plainly(parts.editor.named_parameters())
    left = {
        name: tensor
        for name, tensor in tensors.items()
        if name in editor and not editor[name].requires_grad and not torch.equal(tensor, editor[name])
    }
    checkpoint.load_into(tensors, editor, where=run.model.start, every=False)
    if not any(name.endswith(".rows") for name in tensors):
        parts.editor.encoder.renew_new_tokens()
    return state, left


def identity_of_parts(run: RunConfig) -> str:
    """Which release a run is read over; nothing of a run whose parts lie in folders of their own."""
    if not run.model.release:
        return ""
    of = folder_identity if is_stable_diffusion(run.model.release) else release_identity
    return of(run.model.release)


def check_parts(run: RunConfig, state: TrainState, where: str | Path) -> None:
    """Refuse to read a checkpoint over another release than the one it was trained over. Raises
    WeightsError."""
    if state.release != (now := identity_of_parts(run)):
        raise WeightsError(
            f"{where} was trained over another release than {run.model.release} is now (identity "
            f"{state.release[:12]}, now {now[:12]}): put back the one that it was trained over."
        )


def build_teacher(run: RunConfig, parts: Parts) -> AbstractInstructionEncoder | None:
    """The text encoder that the denoiser was pretrained with, if painting aligns the condition with it.

    Raises ConfigError where the encoder cannot learn from it.
    """
    model = run.model
    if not run.train.align_weight or not run.train.edit_weight:
        return None
    text_model = denoiser_part(model.denoiser.kind).text_model(model.denoiser)
    return encoder_part(model.encoder.kind).teacher(model.encoder, parts.prompts, text_model)


def build_layout(run: RunConfig, parts: Parts) -> LayoutLearning | None:
    """What the run needs to learn layouts, if it does. Raises ConfigError for losses that teach nothing."""
    if "layout" not in run.train.groups:
        return None
    return learning_of(parts.editor, parts.prompts, run.train.layout)


def build_release(parts: Parts, run: RunConfig) -> Release:
    """What a pipeline or a release folder holds, of the editor as it is now.

    The recipe's sampling becomes its defaults.
    """
    sampling = run.sampling
    return Release(
        editor=parts.editor,
        prompts=parts.prompts,
        process=parts.process,
        scheduler=parts.process.sampler(sampling.scheduler, steps=sampling.steps),
        settings={
            "size": run.data.size,
            "num_inference_steps": sampling.steps,
            "guidance_scale": sampling.guidance,
            "image_guidance_scale": sampling.image_guidance,
            "max_new_tokens": sampling.max_new_tokens,
            "no_repeat_ngram_size": sampling.no_repeat_ngram_size,
            "compat": run.compat,
        },
        run_yaml=dump_run(run),
    )
