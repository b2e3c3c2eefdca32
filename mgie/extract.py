"""`mgie extract`: a training run -> a release, or a published layout; and one the other.

mgie extract _ckpt/runs/tiny --out _ckpt/tiny
"""

from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from llava_patch.folders import MANIFEST, check_out
from llava_patch.ranges import in_range
from mgie.build import build_editor, build_release, check_parts, make_trainable
from mgie.config import RunConfig, load_run
from mgie.devices import Dtype, find_dtype
from mgie.errors import ConfigError, WeightsError
from mgie.lines import say
from mgie.models.adapters import merge_adapters, plainly
from mgie.training.optim import choose_trained
from mgie.weights import checkpoint as checkpoints
from mgie.weights.apple import (
    APPLE,
    MLLM,
    OWN_LLAVA,
    assemble,
    check_layout,
    is_training_checkpoint,
    published_parts,
    read_apple,
    read_training_checkpoint,
    write_apple,
)
from mgie.weights.controllers import CONTROLLER, published_controller, write_controller
from mgie.weights.llava_part import LlavaSettings
from mgie.weights.mige_part import FILE as MIGE_FILE
from mgie.weights.mige_part import MIGE, read_published, write_published
from mgie.weights.release import INDEX, RELEASE, RUN, Release, read_release, write_release

KINDS = {"release": RELEASE, "apple": APPLE, "mige": MIGE, "controller": CONTROLLER}
"""The kind of folder that each format is."""
WRITTEN = {
    "release": "a release", "apple": "Apple's two files", "mige": "MIGE's model.pth",
    "controller": "blocks for regions",
}  # fmt: skip
"""What each format is called."""
ALONE = "expected the group layout, and nothing beside but phrase_reader; take --format release"
"""What may be written as a controller, which shall fit other editors."""
IN_APPLE = ("embeddings", "lm_head", "edit_head", "denoiser")
"""Groups that mllm.pt and unet.pt have a place for; the language side's others are in a LLaVA folder."""


@in_range
def extract(
    run_dir: str | Path,
    *,
    out: str | Path,
    format: Literal["release", "apple", "mige", "controller"] = "release",
    dtype: Dtype | None = None,
    checkpoint: str = "latest",
    ema: bool = True,
    llava: str | None = None,
    diffusion: str | None = None,
    release: str | None = None,
    sampling: dict[str, Any] | None = None,
    verify: bool = True,
    adapters: Literal["merged", "apart"] = "merged",
) -> dict[str, Any]:
    """Write what a run has trained; the facts: out, format, checkpoint, samples, trained.

    A checkpoint of the original program (pytorch_model-00001-of-00004.bin and so on) is read too, with
    --llava and --diffusion; so is a release, or Apple's mgie_7b, which becomes the other format, and the
    folder of MIGE's model.pth.

    Args:
        run_dir: Folder of a run, of a checkpoint of the original program, or of either format.
        out: Folder to write; one of the same format that stands there is replaced.
        format: release, a diffusers pipeline folder; apple, mllm.pt and unet.pt for the original demo
            (and llava/, unless it is known that nothing else of the language side was trained); mige,
            MIGE's model.pth for its authors' programs; or controller, the blocks for regions alone, which
            `mgie edit --controller` takes beside any editor of the same denoiser; of a published file of
            MIGC or MIGC++ too, with --diffusion.
        dtype: Type of the release's tensors, and of all that is held in memory. Default: float32.
            Apple's files are always float16.
        checkpoint: Which checkpoint of the run: latest, or the name of its folder.
        ema: Take the averaged weights where the run kept them; --ema false for the last ones.
        llava: LLaVA-v1 folder that it was trained on. Default: a run's own; LLaVA-7B-v1 beside Apple's.
        diffusion: Diffusers folder or hub id of the VAE and scheduler (of MIGE: the VAE and T5's tokenizer).
            Default: a run's own, or what the published weights were trained with.
        release: Release that a run was trained over (model.release), where it has moved.
        sampling: How a run's release edits unless a call says otherwise, key by key over what the run says:
            --sampling.scheduler DDIMScheduler --sampling.steps 20.
        verify: Compare a release that is read with its manifest; --verify false to take it as it is.
        adapters: What becomes of a run's low-rank adapters in a release: merged into the weights, or kept
            apart in its folder adapters/ (peft's files), to be merged whenever the release is read.
    """
    run_dir = Path(run_dir)
    if format not in KINDS:
        raise ConfigError(f"--format is {format}: expected {', '.join(KINDS)}.")
    kind = find_dtype(dtype or ("float16" if format == "apple" else "float32"))
    if format == "apple" and kind != torch.float16:
        raise ConfigError(f"--dtype is {dtype}: Apple's files are float16; leave it out.")
    if sampling and (format != "release" or not (run_dir / "checkpoints").is_dir()):
        raise ConfigError("--sampling is for the release of a run: name a run's folder, or leave it out.")
    check_out(out, kind=KINDS[format])
    if format == "controller" and run_dir.is_file():
        return _published(run_dir, Path(out), diffusion)
    shards = next(
        (place for place in (run_dir, run_dir / "checkpoint") if is_training_checkpoint(place)), None
    )
    found = shards or _find(run_dir, checkpoint)
    say(_outlook(found, out, format, kind))
    groups: tuple[str, ...] | None = IN_APPLE
    if shards is not None:
        made, facts = _from_original(shards, llava, diffusion, kind)
    elif (run_dir / MLLM).is_file():
        made, facts = read_apple(run_dir, llava=llava, diffusion=diffusion, dtype=kind, verify=verify), {}
        groups = None if (run_dir / OWN_LLAVA).is_dir() else IN_APPLE
    elif (run_dir / MIGE_FILE).is_file():
        if llava is not None:
            raise ConfigError(f"{run_dir / MIGE_FILE} has no LLaVA: leave --llava out.")
        made, facts = read_published(run_dir, diffusion=diffusion, dtype=kind), {}
        groups = None
    elif (run_dir / INDEX).is_file():
        made, facts = read_release(run_dir, dtype=kind, progress=True, verify=verify), {}
        known = format in ("apple", "mige") and made.run_yaml
        groups = load_run(str(run_dir / RUN)).train.groups if known else None
    else:
        mended = [f"--sampling.{key}={value}" for key, value in (sampling or {}).items()]
        mended += _moved(load_run(str(found / "run.yaml")), llava, diffusion, release)
        run = load_run(str(found / "run.yaml"), mended)
        groups = run.train.groups
        _check_run(run, format, adapters)
        made, facts = _from_run(run, found, ema, kind, apart=adapters == "apart")
    _check_finite(made, run_dir)
    _write(made, out, format, groups, run_dir)
    return {"out": str(out), "format": format, "run_dir": str(run_dir), **facts}


def _outlook(found: Path, out: str | Path, format: str, dtype: torch.dtype) -> str:
    """What will happen, in one line; `found` are weights, or the checkpoint of a run that is taken."""
    told = f"from {found}"
    if (found / "state.json").is_file():
        state = checkpoints.load_state(found)
        told += f", after {state.samples} of {state.total or '?'} samples,"
    told += f" to {WRITTEN[format]} in {str(dtype).removeprefix('torch.')}: {out}"
    return f"{told}, in place of the older one." if Path(out).exists() else f"{told}."


def _published(path: Path, out: Path, diffusion: str | None) -> dict[str, Any]:
    """A published file of blocks as a folder that brings along who reads their phrases."""
    if diffusion is None:
        raise ConfigError(f"{path} tells nobody who reads its phrases: name Stable Diffusion's --diffusion.")
    write_controller(published_controller(path, diffusion), out)
    return {"out": str(out), "format": "controller", "run_dir": str(path)}


def _write(
    made: Release, out: str | Path, format: str, groups: tuple[str, ...] | None, run_dir: Path
) -> None:
    """Write it in its format; `groups` are what was trained of it, where that is known. Raises ConfigError
    for what the format has no place for."""
    if format == "release":
        write_release(made, out)
    elif format == "apple":
        check_layout(published_parts(made)[0].edit_head.config.heads, groups or ())
        write_apple(made, out, llava=groups is None or not set(groups) <= set(IN_APPLE))
    elif format == "mige":
        write_published(made, out, trained=groups or ())
    else:
        blocks = made.editor.controllers.for_layout
        if blocks is None:
            raise ConfigError(f"--format is controller, but {run_dir} has no blocks for regions: train some.")
        write_controller(blocks, out)


def _moved(run: RunConfig, llava: str | None, diffusion: str | None, release: str | None) -> list[str]:
    """Where a run's parts lie now, as options. Raises ConfigError for parts that it does not have."""
    over = run.model.release is not None
    wrong = {"--llava": llava, "--diffusion": diffusion} if over else {"--release": release}
    if given := [name for name, where in wrong.items() if where is not None]:
        has = f"the release {run.model.release}" if over else "parts in folders of their own"
        wish = "--release" if over else "--llava and --diffusion"
        raise ConfigError(f"{given[0]} is given, but the run was trained over {has}: expected {wish}.")
    moved = {"encoder.llava": llava, "denoiser.diffusion": diffusion, "release": release}
    return [f"--model.{key}={where}" for key, where in moved.items() if where is not None]


def _check_run(run: RunConfig, format: str, adapters: str) -> None:
    """Raises ConfigError where what a run has trained has no place in the format."""
    groups = run.train.groups
    if format == "controller" and not {"layout"} <= set(groups) <= {"layout", "phrase_reader"}:
        raise ConfigError(f"--format is controller, but the run trained {', '.join(groups)}: {ALONE}.")
    if format == "apple" and isinstance(run.model.encoder, LlavaSettings):
        check_layout(run.model.encoder.edit_head.heads, groups)
    adapted = any(name.startswith("lora_") for name in groups)
    if adapters == "apart" and (format in ("apple", "mige") or not adapted):
        told = f"--adapters is apart, but the run trained {', '.join(groups)}"
        raise ConfigError(f"{told}: expected a run with adapters and --format release; leave it out.")


def _from_run(
    run: RunConfig, found: Path, ema: bool, dtype: torch.dtype, *, apart: bool
) -> tuple[Release, dict[str, Any]]:
    """Build the editor of that run, and put in what was trained; `apart`: adapters are left unmerged."""
    state = checkpoints.load_state(found)
    check_parts(run, state, found)
    parts = build_editor(run, dtype=dtype, progress=True)
    make_trainable(run, parts.editor, kept=True)
    trained = choose_trained(parts.editor, parts.editor.groups(), run.train.groups)
    tensors = checkpoints.load_tensors(found, ema=ema)
    checkpoints.load_into(tensors, trained, where=found)
    begun = checkpoints.load_begun(found)
    checkpoints.load_into(begun, plainly(parts.editor.named_parameters()), where=found, every=False)
    parts.editor.encoder.join_new_tokens()
    if not apart:
        merge_adapters(parts.editor)
    parts.editor.eval()
    release = build_release(parts, run)
    averaged = ema and checkpoints.has_average(found)
    facts = {"checkpoint": found.name, "samples": state.samples, "ema": averaged, "trained": len(tensors)}
    return release, facts


def _from_original(
    shards: Path, llava: str | None, diffusion: str | None, dtype: torch.dtype
) -> tuple[Release, dict[str, Any]]:
    if llava is None or diffusion is None:
        raise ConfigError(
            f"{shards} is a checkpoint of the original program: name the LLaVA folder that it was trained on "
            "with --llava, and the diffusers folder of its VAE with --diffusion."
        )
    facts: dict[str, Any] = {"checkpoint": shards.name}

    @cache
    def trained() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        mllm, unet = read_training_checkpoint(shards)
        facts["trained"] = len(mllm) + len(unet)
        return mllm, unet

    release = assemble(
        lambda: trained()[0],
        lambda: trained()[1],
        where=shards,
        llava=llava,
        diffusion=diffusion,
        dtype=dtype,
    )
    return release, facts


def _check_finite(release: Release, where: Path) -> None:
    """Refuse to hand out what diverged, or what does not fit into half precision."""
    for name, part in release.editor.named_children():
        checkpoints.check_finite(part.state_dict().items(), f"the {name} of {where}")


def _find(run_dir: Path, name: str) -> Path:
    """What is taken: the folder itself where it holds weights, or a run's checkpoint of this name."""
    if any((run_dir / file).is_file() for file in (MLLM, MIGE_FILE, INDEX)):
        return run_dir
    if not run_dir.is_dir():
        raise WeightsError(f"there is no run folder {run_dir}: expected one that `mgie train` wrote.")
    if name == "latest":
        found = checkpoints.find(run_dir)
        if found.path is None:
            raise WeightsError(
                f"{run_dir} has no whole checkpoint: expected a folder that `mgie train` wrote, or one of "
                "weights; train first."
            )
        for damaged in found.skipped:
            say(f"skipped {damaged}.")
        return found.path
    there = sorted(path.parent.name for path in run_dir.glob(f"checkpoints/*/{MANIFEST}"))
    if name not in there:
        raise WeightsError(
            f"{run_dir} has no checkpoint {name}: expected latest or one of {', '.join(there)}."
        )
    checkpoints.check(run_dir / "checkpoints" / name)
    return run_dir / "checkpoints" / name
