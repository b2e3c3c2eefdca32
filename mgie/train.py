"""`mgie train`: the whole story of a run, from its configuration to its last checkpoint.

mgie train --config tiny
torchrun --nproc_per_node=2 -m mgie train --config tiny
"""

import math
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from mgie.build import (
    Parts,
    begin_run,
    build_editor,
    build_layout,
    build_release,
    build_teacher,
    dtypes_to_read,
    frozen_short,
    make_trainable,
    needs_whole,
)
from mgie.build_data import build_batches
from mgie.config import RunConfig, dump_run
from mgie.data.batches import Batches
from mgie.errors import ConfigError
from mgie.evaluation.in_training import Watch
from mgie.models.adapters import plainly
from mgie.pipeline import MGIEPipeline
from mgie.start import find_start
from mgie.training.cpu import cpu_ways
from mgie.training.ddp import DdpEngine
from mgie.training.deepspeed import ZeroEngine
from mgie.training.draws import draws_for, reference_draws
from mgie.training.engine import AbstractEngine
from mgie.training.fsdp import ShardedEngine
from mgie.training.log import Means, RunLog
from mgie.training.optim import (
    Average,
    Groups,
    LeftOut,
    build_optimizer,
    cast_frozen,
    choose_trained,
    hidden_matrices,
    set_rates,
)
from mgie.training.pace import Pace
from mgie.training.profile import watch_steps
from mgie.training.task import AbstractTask, EditTask
from mgie.training.world import Stopped, World, processes, stop_requests, stopping_at_once
from mgie.types import Batch, Draws
from mgie.watch import BEST, check_shown, held_out_losses, measured, own_photos, preview
from mgie.weights import checkpoint
from mgie.weights.checkpoint import TrainState


def train(run: RunConfig, *, profile: int = 0) -> dict[str, Any]:
    """Run, or go on with, the training that `run` describes; `profile`: so many of its steps are timed.

    Its facts: run_dir, steps, samples, skipped, seconds, and its losses (loss_ce, loss_edit; loss_align where
    the condition is aligned; of words alone loss_ce). A run folder with checkpoints is resumed; one that is
    complete is left as it is. Raises ConfigError if the folder holds a run of other settings or other data.
    """
    run.validate(processes())
    with (
        World(
            run.folder,
            trackers=run.log.trackers,
            threads=run.train.threads,
            timeout=timedelta(minutes=run.train.timeout),
        ) as world,
        stopping_at_once(),
        world.holding(run.folder),
    ):
        # Everything that can be wrong is wrong now.
        engine = build_engine(run, world)
        asked, (run, found, data) = run.data.features, find_start(run, world)
        if run.data.features and asked is None:
            world.say(f"takes stored features: {', '.join(run.data.features)} (data.features=[] for none).")
        own = world.from_main(partial(own_photos, run))
        aside = {"data": run.data.path, "size": run.data.size}
        watch = Watch(run.evaluate, run.folder, **aside) if run.evaluate.every else None
        world.start_trackers(run.name)

        if world.device.type == "cpu":
            for sentence in cpu_ways(bf16=run.train.precision == "bf16"):
                world.say(sentence)

        # Build.
        with engine.reading(whole=needs_whole(run)):
            parts = build_editor(run, dtype=dtypes_to_read(run, world.device), progress=world.is_main)
        check_shown(own, parts)
        make_trainable(run, parts.editor)
        MGIEPipeline.from_release(build_release(parts, run))  # what cannot be extracted is not trained
        measure = partial(measured, run, parts, world, watch) if watch else None
        task = EditTask(
            parts.editor, parts.process, drop=run.train.drop, edit_weight=run.train.edit_weight,
            align_weight=run.train.align_weight, teacher=build_teacher(run, parts),
            loss=run.train.loss, layout=build_layout(run, parts),
            identity=run.train.identity if "identity" in run.train.groups else None,
        )  # fmt: skip
        batches = build_batches(run, parts.prompts, rank=world.rank, world=world.size, editor=parts.editor)
        if profile:
            watch_steps(engine, task, batches, steps=profile, folder=run.folder / "profile", say=world.say)
        return fit(
            run, engine, task, parts.editor.groups(), batches, partial(draw_for, run, parts), found=found,
            begin=partial(begin_run, run, parts, data), look=partial(preview, run, parts, world.device, own),
            validate=partial(held_out_losses, run, parts, task, world.device), measure=measure,
        )  # fmt: skip


def build_engine(run: RunConfig, world: World) -> AbstractEngine:
    """What trains as `train.strategy` says; a process by itself has nobody to share out with."""
    train, how = run.train, {"clip": run.optim.clip, "bf16": run.train.precision == "bf16"}
    alone = world.size == 1 and not train.offload.any
    if train.strategy != "ddp" and alone:
        world.say(f"one process has nobody to share out with: it trains without {train.strategy}.")
    if train.strategy == "ddp" or alone:
        return DdpEngine(world, **how)
    if train.strategy == "fsdp2":
        return ShardedEngine(world, **how)
    return ZeroEngine(
        world, **how, stage=int(train.strategy[-1]), batch_size=train.batch_size,
        micro_batch_size=train.micro_batch(world.size), offload=train.offload,
    )  # fmt: skip


def fit(
    run: RunConfig,
    engine: AbstractEngine,
    task: AbstractTask,
    groups: Groups,
    batches: Batches,
    draw: Callable[[Batch], Draws],
    *,
    found: Path | None,
    begin: Callable[[], tuple[TrainState, dict[str, Tensor]]] = lambda: (TrainState(), {}),
    look: Callable[[], Image.Image] | None = None,
    validate: Callable[[], dict[str, float]] | None = None,
    measure: Callable[[TrainState], tuple[dict[str, int | float], bool]] | None = None,
) -> dict[str, Any]:
    """The loop: `draw(batch)` gives what is random in a batch, `look()` a preview, `validate()` the losses of
    held-out pairs, `measure(state)` figures of the editor as it is, and whether it is the best one until now.

    `task.editor` is what is trained; `groups` are its parameters by name. It goes on from the checkpoint
    `found`; else `begin()` puts in what a new run begins with, and gives its state and what checkpoints shall
    hold beside what is trained.
    """
    world, total = engine.world, run_length(run, batches)
    trained = choose_trained(task.editor, groups, run.train.groups)
    optimizer = build_optimizer(
        groups, run.train.groups, run.optim, fused=engine.fused, matrices=hidden_matrices(task, groups)
    )

    # Resume where the last run stopped, or start. Processes may share out what has been read.
    if found:
        state, begun = checkpoint.load_state(found), checkpoint.load_begun(found)
        engine.read(found, trained)
        checkpoint.load_into(begun, plainly(task.editor.named_parameters()), where=found, every=False)
    else:
        state, begun = begin()
    if state.samples > total:
        raise ConfigError(
            f"{run.folder} has done {state.samples} samples already, and the run shall have {total}: "
            "expected train.samples (or train.epochs) of more, or another --name."
        )
    if frozen_short(run, world.device):
        cast_frozen(task, torch.bfloat16)
    engine.prepare(task, optimizer, trained)
    held = engine.local_parameters()
    averaged = run.train.ema_schedule.options()
    ema = Average(held, decay=run.train.ema, **averaged) if run.train.ema else None
    shadow = ema.shadow_params if ema else None
    if found:
        engine.resume(found, shadow)
        if ema:
            ema.optimization_step = state.steps
    if state.samples >= total:
        world.say(f"complete: all {total} samples are done.")
    log = RunLog(run.folder, world, total=total, done=state.samples, run_yaml=dump_run(run))
    if state.samples < total:
        log.outlook(state, run.optim, batch_size=run.train.batch_size, epoch=epoch_length(batches))
    unknown = dict.fromkeys(task.weights, math.nan)
    state = replace(state, total=total, losses=unknown | state.losses)
    means = Means(task.weights, world.device)
    left_out = LeftOut(world.device, before=state.skipped)
    began, seconds = time.monotonic(), state.seconds
    pace = Pace(world, done=state.samples, peak=run.log.peak_tflops)

    with stop_requests() as stop:
        for micros in pace.waiting(batches.steps(state.samples, total)):
            # One optimizer step. Its means are over all processes and micro-batches: no split matters.
            counts = total_counts(task, micros, world)
            set_rates(optimizer, state.samples / total, run.optim)
            for micro in micros:
                batch, draws = world.put(micro), world.put(draw(micro))
                with engine.accumulating(last=micro is micros[-1]):
                    with pace.counting(len(micro.keys)):
                        losses = engine(batch, draws)
                    engine.backward(task.weighted(losses, counts))
                means.add(losses)
            # A step whose gradient is not finite is left out, as if it had not been.
            norm, taken = engine.step()
            means.close_step(taken)
            left_out.note(taken)
            if ema:
                ema.step(held, taken)
            before = state
            state = state.after_step(run.train.batch_size, seconds + time.monotonic() - began)
            log.advance(run.train.batch_size)

            # Once in a while: say how it goes, save, look at pictures. Reading numbers waits for the device.
            # Who is asked to stop does it now, whatever is due.
            asked = world.asked_to_stop(stop)
            pace.stepped()
            done, row = bool(asked) or state.samples >= total, 0
            measuring = measure is not None and due(run.evaluate.every, before, state)
            saving = due(run.save.every, before, state)
            if due(run.log.every, before, state) or measuring or saving or done:
                skipped, row = left_out.read(steps=total // run.train.batch_size, folder=run.folder)
                if skipped > state.skipped:
                    log.say(f"{skipped - state.skipped} steps left out: their gradient was not finite.")
                state = replace(state, skipped=skipped)
            if due(run.log.every, before, state) or done:
                state = replace(state, losses=state.losses | means.read(world))
                rates = {group["name"]: group["lr"] for group in optimizer.param_groups}
                log.step(state, grad_norm=float(norm), rates=rates, pace=pace.read(state.samples))
            # Before it is saved: a run that is killed meanwhile measures again.
            if measure and measuring:
                with engine.full_parameters(shadow):
                    figures, best = measure(state)
                log.measured(state, figures)
                if best and not row:
                    snapshot = replace(engine.state_dict(shadow), begun=begun, optimizer={})
                    if world.is_main:
                        checkpoint.save(run.folder / BEST, state, snapshot, run_yaml=dump_run(run), keep=1)
                    world.wait()
            # While steps are left out nothing is saved: what was saved before is better.
            if (saving and not row) or done:
                how = {"begun": begun, "run_yaml": dump_run(run), "keep": run.save.keep}
                engine.save(run.folder, state, shadow, **how)
            if validate and due(run.validation.every, before, state):
                with engine.full_parameters(shadow):
                    if world.is_main:
                        log.held_out(state, validate())
            if look and due(run.preview.every, before, state):
                with engine.full_parameters(shadow):
                    if world.is_main:
                        log.picture(f"{state.samples:010d}", look())
            if done:
                engine.finish_saving()
            if done and state.samples < total:
                log.say(f"saved at sample {state.samples} of {total}; the same command goes on from here.")
                raise Stopped(asked)
    log.close()
    return {
        "run_dir": str(run.folder), "steps": state.steps, "samples": state.samples,
        "skipped": state.skipped, "seconds": round(state.seconds, 1),
        **{f"loss_{name}": loss for name, loss in state.losses.items()},
    }  # fmt: skip


def total_counts(task: AbstractTask, micros: list[Batch], world: World) -> dict[str, int]:
    """What the losses of a step are divided by, over all processes and micro-batches; at least 1."""
    counts = [task.counts(micro) for micro in micros]
    totals = world.totals([sum(each[name] for each in counts) for name in task.weights])
    return {name: max(total, 1) for name, total in zip(task.weights, totals)}


def draw_for(run: RunConfig, parts: Parts, batch: Batch) -> Draws:
    """The random part of a batch, as large as its latents; stored moments are of squares."""
    y, x = batch.target.shape[-2:] if batch.target.numel() else (run.data.size, run.data.size)
    shape, process = parts.editor.codec.latent_shape(y, x), parts.process
    if run.compat == "reference":
        return reference_draws(run.seed, batch.positions, latent_shape=shape, steps=process.length)
    more: dict[str, Any] = {"shift": run.train.timestep_shift, "offset": run.train.loss.offset_noise}
    if batch.controls is not None and (blocks := parts.editor.controllers.for_layout) is not None:
        more["slots"] = blocks.most
    more["looks"] = "identity" in run.train.groups
    if batch.pictures is not None and batch.pictures.pixels is not None:
        y, x = batch.pictures.pixels.shape[-2:]
        more["inside_shape"] = parts.editor.codec.latent_shape(y, x)
        more["inside"] = batch.pictures.at[:, 0].tolist()
    return draws_for(run.seed, batch.positions, latent_shape=shape, process=process, **more)


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


def epoch_length(batches: Batches) -> int | None:
    """Samples of one epoch; None where nobody knows, as of a stream."""
    try:
        return batches.epoch
    except ConfigError:
        return None
