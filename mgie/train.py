"""Train an editor: the whole story of a run, from its configuration to its last checkpoint.

mgie train --config tiny
torchrun --nproc_per_node=2 -m mgie train --config tiny
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import yaml
from diffusers.training_utils import EMAModel
from PIL import Image
from torch import nn

from mgie.build import Parts, build_batches, build_editor, build_release, build_teacher
from mgie.config import RunConfig, dump_run
from mgie.data.batches import Batches
from mgie.data.images import decode, square
from mgie.data.stored_pairs import StoredPairs
from mgie.errors import ConfigError
from mgie.evaluation.report import Item, sheet
from mgie.pipeline import EditOutput, MGIEPipeline
from mgie.training.draws import draws_for, reference_draws
from mgie.training.log import RunLog
from mgie.training.optim import Groups, build_optimizer, choose_trained, rate_factor, set_rates
from mgie.training.task import EditTask
from mgie.training.world import World, stop_requests
from mgie.types import Batch, Draws, EditPair
from mgie.weights import checkpoint
from mgie.weights.checkpoint import TrainState


def train(run: RunConfig) -> dict[str, Any]:
    """Run, or go on with, the training that `run` describes.

    Its facts: run_dir, steps, samples, seconds, loss_ce, loss_edit. A run folder with checkpoints is resumed;
    one that is complete is left as it is. Raises ConfigError if the folder holds a run of other settings.
    """
    with World(
        run.folder, precision=run.train.precision, trackers=run.log.trackers, threads=run.train.threads,
        strategy=run.train.strategy, batch_size=run.train.batch_size,
        micro_batch_size=run.train.micro_batch_size, clip=run.optim.clip,
    ) as world:  # fmt: skip
        # Everything that can be wrong is wrong now.
        run.validate(world.size)
        check_same_run(run)
        world.start_trackers(run.name)

        # Build.
        parts = build_editor(run, progress=world.is_main)
        task = EditTask(parts.editor, parts.scheduler, drop=run.train.drop, teacher=build_teacher(run, parts))
        batches = build_batches(run, parts.processor, rank=world.rank, world=world.size, editor=parts.editor)
        draw = partial(draw_for, run, parts)
        return fit(run, world, task, parts.editor.groups(), batches, draw, partial(preview, run, parts))


def fit(
    run: RunConfig,
    world: World,
    task: nn.Module,
    groups: Groups,
    batches: Batches,
    draw: Callable[[Batch], Draws],
    look: Callable[[], Image.Image] | None = None,
) -> dict[str, Any]:
    """The loop: `task(batch, draws)` gives Losses, `draw(batch)` its random part, `look()` a preview.

    `task.editor` is what is trained; `groups` are its parameters by name.
    """
    total = run_length(run, batches)
    trained = choose_trained(task.get_submodule("editor"), groups, run.train.groups)
    optimizer = build_optimizer(groups, run.train.groups, run.optim)

    # Resume where the last run stopped, or start. Processes may share out what has been read.
    found = checkpoint.latest(run.folder)
    state, saved = checkpoint.load(found) if found else (TrainState(), None)
    if found and saved:
        checkpoint.put(saved.trained, trained, where=found)
    task, optimizer = world.prepare(task, optimizer)
    held = world.held(trained)
    ema = EMAModel(held, decay=run.train.ema) if run.train.ema else None
    shadow = ema.shadow_params if ema else None
    if saved:
        world.scatter(saved, trained, optimizer, shadow)
        if ema:
            ema.optimization_step = state.steps
    del saved
    log = RunLog(run.folder, world, total=total, done=state.samples, run_yaml=dump_run(run))
    since = torch.zeros(
        4, device=world.device
    )  # sums of loss_ce, spoken, loss_edit, loss_align since the last line
    began, seconds = time.monotonic(), state.seconds

    with stop_requests() as stop:
        for micros in batches.steps(state.samples, total):
            # One optimizer step. Its means are over all processes and micro-batches: no split matters.
            counts = torch.tensor([sum(micro.spoken for micro in micros), len(stop)])
            spoken, stopping = world.sum(counts).unbind()
            set_rates(optimizer, rate_factor(state.samples / total, run.optim))
            for micro in micros:
                batch, draws = micro.to(world.device), draw(micro).to(world.device)
                with world.accumulating(task, last=micro is micros[-1]):
                    with world.autocast():
                        losses = task(batch, draws)
                    edit = (losses.edit + run.train.align_weight * losses.align) / run.train.batch_size
                    world.backward(losses.speak / spoken.clamp(min=1) + run.train.edit_weight * edit)
                since += torch.stack([losses.speak, losses.spoken, losses.edit, losses.align]).detach()
            norm = world.clip(list(trained.values()), run.optim.clip)
            optimizer.step()
            optimizer.zero_grad()
            if ema:
                ema.step(held)
            before = state
            state = state.after_step(run.train.batch_size, seconds + time.monotonic() - began)
            log.advance(run.train.batch_size)

            # Once in a while: say how it goes, look at pictures, save. Reading numbers waits for the device.
            done = state.samples >= total
            if due(run.log.every, before, state) or done:
                done = done or bool(stopping)
                ce, count, edit, align = world.sum(since).tolist()
                since.zero_()
                samples = log.samples_since_line(state.samples)
                state = replace(
                    state, loss_ce=ce / max(count, 1), loss_edit=edit / samples, loss_align=align / samples
                )
                check_finite(state)
                log.step(state, grad_norm=float(norm), lr=optimizer.param_groups[0]["lr"])
            if look and due(run.preview.every, before, state):
                with averaged(ema, held), world.whole(task):
                    if world.is_main:
                        log.picture(f"{state.samples:010d}", look())
            if due(run.save.every, before, state) or done:
                snapshot = world.gather(trained, optimizer, shadow)
                if world.is_main:
                    checkpoint.save(run.folder, state, snapshot, run_yaml=dump_run(run), keep=run.save.keep)
                world.wait()
            if done and state.samples < total:
                log.say(f"stopped at sample {state.samples} of {total}; the same command goes on from here.")
                raise KeyboardInterrupt
    log.close()
    return {
        "run_dir": str(run.folder), "steps": state.steps, "samples": state.samples,
        "seconds": round(state.seconds, 1), "loss_ce": state.loss_ce, "loss_edit": state.loss_edit,
    }  # fmt: skip


def draw_for(run: RunConfig, parts: Parts, batch: Batch) -> Draws:
    """The random part of a batch, as large as its latents; stored moments are of squares."""
    y, x = batch.target.shape[-2:] if batch.target.numel() else (run.data.size, run.data.size)
    shape, steps = parts.editor.codec.latent_shape(y, x), parts.scheduler.config.num_train_timesteps
    if run.compat == "reference":
        return reference_draws(run.seed, batch.positions, latent_shape=shape, steps=steps)
    shift = run.train.timestep_shift
    return draws_for(run.seed, batch.positions, latent_shape=shape, steps=steps, shift=shift)


def preview(run: RunConfig, parts: Parts) -> Image.Image:
    """A few held-out pairs as the editor edits them now: before, after and target, with what it said."""
    held_out = StoredPairs(run.data.path, "test")
    pairs = [held_out[index] for index in range(min(run.preview.count, len(held_out)))]
    pipeline = MGIEPipeline.from_release(build_release(parts, run))
    pipeline.set_progress_bar_config(disable=True)

    def shown(data: bytes, pair: EditPair) -> Image.Image:
        return square(decode(data, name=pair.key), run.data.size)

    sources = [shown(pair.source or pair.target, pair) for pair in pairs]
    targets = [shown(pair.target, pair) for pair in pairs]
    with at_rest(parts.editor):
        edited = pipeline(sources, [pair.instruction for pair in pairs], seed=run.seed)
    assert isinstance(edited, EditOutput)
    items = [
        Item(
            key=pair.key, kind=pair.kind, instruction=pair.instruction, expected=pair.expressive,
            said=edited.said[at], forced=edited.forced[at],
            source=sources[at], output=edited.images[at], target=targets[at],
        )
        for at, pair in enumerate(pairs)
    ]  # fmt: skip
    return sheet(items, run.name)


@contextmanager
def at_rest(model: nn.Module) -> Iterator[None]:
    """Not in training inside: what recomputes activations cannot speak word by word."""
    trained = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in trained:
            module.training = True


@contextmanager
def averaged(ema: EMAModel | None, held: list[nn.Parameter]) -> Iterator[None]:
    """The averaged weights inside, where the run keeps them; the trained ones again after."""
    if ema is None:
        yield
        return
    ema.store(held)
    ema.copy_to(held)
    try:
        yield
    finally:
        ema.restore(held)


def check_finite(state: TrainState) -> None:
    """Stop a run whose numbers mean nothing any more."""
    if not math.isfinite(state.loss_ce + state.loss_edit):
        raise ConfigError(
            f"the losses are {state.loss_ce} and {state.loss_edit} at sample {state.samples}: "
            "training has diverged; lower optim.lr (the last checkpoint is intact)."
        )


def run_length(run: RunConfig, batches: Batches) -> int:
    """Samples of the whole run, a multiple of the batch size. Raises ConfigError for a run of no step."""
    wanted = run.train.samples or round((run.train.epochs or 0) * batches.epoch)
    steps = math.ceil(wanted / run.train.batch_size)
    if steps < 1:
        raise ConfigError(
            f"the run has {wanted} samples: expected at least one; raise train.samples or train.epochs."
        )
    return steps * run.train.batch_size


def due(every: int, before: TrainState, now: TrainState) -> bool:
    """Whether a multiple of `every` samples was reached in the last step."""
    return every > 0 and now.samples // every > before.samples // every


def check_same_run(run: RunConfig) -> None:
    """Refuse to go on with the folder of a run that would learn something else.

    Where it runs, and how often it is saved and looked at, may be another.
    """
    found = checkpoint.latest(run.folder)
    if not found:
        return
    before, now = (_comparable(text) for text in ((found / "run.yaml").read_text(), dump_run(run)))
    changed = [key for key in sorted(before.keys() | now.keys()) if before.get(key) != now.get(key)]
    if changed:
        key = changed[0]
        raise ConfigError(
            f"{run.folder} holds a run with {key}={before.get(key)}, now {key}={now.get(key)} is asked for: "
            "give this run another --name, or remove that folder."
        )


def _comparable(text: str) -> dict[str, Any]:
    """Flat settings that decide what is learnt."""
    free = (
        "out", "data.path", "data.workers", "train.micro_batch_size", "train.threads", "train.strategy",
        "save", "log", "preview", "sampling",
    )  # fmt: skip

    def flat(values: dict, prefix: str = "") -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in values.items():
            name = prefix + key
            if name not in free:
                found |= flat(value, name + ".") if isinstance(value, dict) else {name: value}
        return found

    return flat(yaml.safe_load(text))
