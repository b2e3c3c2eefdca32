"""A training run becomes something to edit with: checkpoint -> release folder, or Apple's two files.

mgie extract _ckpt/runs/tiny --out _ckpt/tiny
"""

from pathlib import Path
from typing import Any, Literal

import torch

from mgie.build import build_editor, build_release
from mgie.config import RunConfig, load_run
from mgie.devices import Dtype, find_dtype
from mgie.errors import ConfigError, WeightsError
from mgie.training.optim import choose_trained
from mgie.weights import checkpoint as checkpoints
from mgie.weights.apple import (
    MLLM,
    PUBLISHED_HEADS,
    assemble,
    is_training_checkpoint,
    read_training_checkpoint,
    write_apple,
)
from mgie.weights.release import INDEX, Release, check_out, write_release

LANGUAGE_SIDE = {"language_model", "projector", "vision_tower"}
"""Groups that are in the LLaVA folder beside Apple's two files, not in them."""
MARKS = {"release": INDEX, "apple": MLLM}
"""What a folder of each format has."""


def extract(
    run_dir: str | Path,
    *,
    out: str | Path,
    format: Literal["release", "apple"] = "release",
    dtype: Dtype | None = None,
    checkpoint: str = "latest",
    ema: bool = True,
    llava: str | None = None,
    diffusion: str | None = None,
) -> dict[str, Any]:
    """Write what a run has trained; the facts: out, format, checkpoint, samples, trained.

    A checkpoint of the original program (pytorch_model-00001-of-00004.bin and so on) is read too, with
    --llava and --diffusion.

    Args:
        run_dir: Folder of a run, or of a checkpoint of the original program.
        out: Folder to write; one of the same format that stands there is replaced.
        format: release, a diffusers pipeline folder; or apple, mllm.pt and unet.pt for the original demo
            (and llava/, where the run trained more of the language model than they hold).
        dtype: Type of the release's tensors, and of all that is held in memory: float32, float16 or bfloat16.
            Apple's files are always float16.
        checkpoint: Which checkpoint of the run: latest, or the name of its folder.
        ema: Take the averaged weights where the run kept them; --ema false for the last ones.
        llava: LLaVA-v1 folder that a checkpoint of the original program was trained on.
        diffusion: Diffusers folder or hub id with the VAE and scheduler for it.
    """
    run_dir = Path(run_dir)
    if format not in MARKS:
        raise ConfigError(f"--format is {format}: expected {' or '.join(MARKS)}.")
    kind = find_dtype(dtype or ("float16" if format == "apple" else "float32"))
    if format == "apple" and kind != torch.float16:
        raise ConfigError(f"--dtype is {dtype}: Apple's files are float16; leave it out.")
    check_out(out, replaces=MARKS[format])
    shards = next(
        (place for place in (run_dir, run_dir / "checkpoint") if is_training_checkpoint(place)), None
    )
    if shards is not None:
        groups, (release, facts) = (), _from_original(shards, llava, diffusion, kind)
    else:
        found = _find(run_dir, checkpoint)
        run = load_run(str(found / "run.yaml"))
        groups = run.train.groups
        if format == "apple":
            _check_layout(run)
        release, facts = _from_run(run, found, ema, kind)
    if format == "release":
        write_release(release, out)
    else:
        write_apple(release, out, llava=bool(LANGUAGE_SIDE & set(groups)))
    return {"out": str(out), "format": format, "run_dir": str(run_dir), **facts}


def _from_run(run: RunConfig, found: Path, ema: bool, dtype: torch.dtype) -> tuple[Release, dict[str, Any]]:
    """Build the editor of that run, and put in what was trained."""
    parts = build_editor(run, dtype=dtype)
    trained = choose_trained(parts.editor, parts.editor.groups(), run.train.groups)
    tensors = checkpoints.load_tensors(found, ema=ema)
    checkpoints.put(tensors, trained, where=found)
    parts.editor.eval()
    release, state = build_release(parts, run), checkpoints.load_state(found)
    averaged = ema and (found / "ema.safetensors").is_file()
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
    mllm, unet = read_training_checkpoint(shards)
    facts = {"checkpoint": shards.name, "trained": len(mllm) + len(unet)}
    release = assemble(
        lambda: mllm, lambda: unet, where=shards, llava=llava, diffusion=diffusion, dtype=dtype
    )
    return release, facts


def _check_layout(run: RunConfig) -> None:
    """Refuse what Apple's layout does not tell, and its readers would take for something else."""
    heads = run.model.edit_head.heads
    if heads != PUBLISHED_HEADS or "codec" in run.train.groups:
        reason = "trained the codec" if heads == PUBLISHED_HEADS else f"has an edit head of {heads} heads"
        raise ConfigError(
            f"--format apple: the run {reason}, which Apple's layout does not hold (its readers take "
            f"{PUBLISHED_HEADS} heads and a published VAE); use --format release."
        )


def _find(run_dir: Path, name: str) -> Path:
    if not run_dir.is_dir():
        raise WeightsError(f"there is no run folder {run_dir}: expected one that `mgie train` wrote.")
    if name == "latest":
        found = checkpoints.latest(run_dir)
        if found is None:
            raise WeightsError(
                f"{run_dir} has no whole checkpoint: expected a folder that `mgie train` wrote; train first."
            )
        return found
    there = sorted(path.parent.name for path in run_dir.glob(f"checkpoints/*/{checkpoints.MANIFEST}"))
    if name not in there:
        raise WeightsError(
            f"{run_dir} has no checkpoint {name}: expected latest or one of {', '.join(there)}."
        )
    return run_dir / "checkpoints" / name
