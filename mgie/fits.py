"""What a run takes of a GPU's memory, and what would make it fit: `--dry_run --gpu 24GiB`.

No weights are read: the editor is built on the meta device, and one micro-batch is rehearsed on tensors that
have sizes and no values (mgie/training/ledger.py). What is told is memory of tensors; CUDA itself and what
its allocator cannot use take about a gigabyte more.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from mgie.build import checkpoint_as_asked, frozen_short, make_trainable
from mgie.config import RunConfig
from mgie.errors import ConfigError
from mgie.models.adapters import AdapterConfig
from mgie.models.editor import Editor
from mgie.training.groups import spelt_out
from mgie.training.ledger import peak_of
from mgie.training.optim import choose_trained, hidden_matrices
from mgie.types import Condition
from mgie.weights.parts import denoiser_part, encoder_part
from mgie.weights.release import parts_of, read_index

GIB = 1 << 30
UNITS = {"GiB": 1 << 30, "GB": 10**9, "MiB": 1 << 20, "MB": 10**6}
RESERVE = 1 * GIB
"""What CUDA, its libraries and the allocator's gaps take; measured by nobody here."""
LONGEST_ANSWER = 64
"""Labelled tokens that a conversation is rehearsed with."""


@dataclass(frozen=True, kw_only=True)
class Need:
    """Bytes of one process that has everything."""

    frozen: int
    trained: int
    """Of the trained weights in float32."""
    activations: dict[int, int]
    """Micro-batch -> activations and what else comes and goes in a step, without gradients of weights."""
    averaged: bool
    turned: int = 0
    """Of those that Muon trains, which keeps one moment of each and not two."""

    def rows(self, engine: str, processes: int) -> dict[str, int]:
        """Parameters, gradients, optimizer of an engine, of one of so many processes (ZeRO, Rajbhandari et
        al. 2020, figure 1; fsdp2 shares out what zero3 does)."""
        shared = {"ddp": 0, "zero1": 1, "zero2": 2, "zero3": 3, "fsdp2": 3}[engine]

        def part(least: int, size: int) -> int:
            return -(-size // processes) if shared >= least else size

        optimizer = 2 * self.trained - self.turned + self.averaged * self.trained
        # DistributedDataParallel sends gradients from buckets of their own.
        buckets = self.trained if engine == "ddp" and processes > 1 else 0
        return {
            "parameters": part(3, self.frozen + self.trained),
            "gradients": part(2, self.trained) + buckets,
            "optimizer": part(1, optimizer),
        }

    def total(self, engine: str, processes: int, micro: int) -> int:
        """All together."""
        return sum(self.rows(engine, processes).values()) + self.activations[micro]


def fits(run: RunConfig, gpu: str) -> str:
    """A table of what each engine takes on GPUs like `gpu` ("24GiB", or "8x80GiB" for eight processes), by
    micro-batch, and a sentence on what fits or what would.

    Raises ConfigError for another word than these, and where sizes are not told without weights.
    """
    found = re.fullmatch(r"(?:(\d{1,5})x)?(\d{1,6}(?:\.\d+)?)(GiB|GB|MiB|MB)", gpu)
    if not found:
        raise ConfigError(f"--gpu is {gpu!r}: expected memory such as 24GiB, or 8x80GiB for eight GPUs.")
    processes, card = int(found[1] or 1), int(float(found[2]) * UNITS[found[3]])
    if (room := card - RESERVE) <= 0:
        taken = f"CUDA, its libraries and gaps take {RESERVE / GIB:.0f} GiB of it"
        raise ConfigError(f"--gpu is {gpu!r}: {taken}, and nothing is left; expected more, such as 24GiB.")
    run.validate(processes)
    most = max(1, run.train.batch_size // processes)
    micros = [size for size in (1, 2, 4, 8, 16, 32) if size <= most and most % size == 0]
    need = needs(run, tuple(micros))
    shared = processes > 1 and run.optim.muon is None  # Muon needs whole matrices
    engines = ("ddp", "zero1", "zero2", "zero3", "fsdp2") if shared else ("ddp",)
    lines = [
        f"{run.name} on {processes} x {card / GIB:.1f} GiB, of which {RESERVE / GIB:.0f} is left to CUDA "
        "(GiB of one process):",
        "",
        "| engine | micro-batch | parameters | gradients | optimizer | activations | together | fits |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for engine in engines:
        parts = need.rows(engine, processes)
        for micro in micros:
            total = need.total(engine, processes, micro)
            cells = [*parts.values(), need.activations[micro], total]
            told = " | ".join(f"{each / GIB:.2f}" for each in cells)
            lines.append(f"| {engine} | {micro} | {told} | {'yes' if total <= room else 'no'} |")
    return "\n".join([*lines, "", advice(run, need, engines, processes, room)])


def advice(run: RunConfig, need: Need, engines: tuple[str, ...], processes: int, room: int) -> str:
    """Whether the recipe fits as it is, or else the first of the known changes with which it does."""
    micro, strategy = run.train.micro_batch(processes), run.train.strategy if processes > 1 else "ddp"
    asked = need.activations.get(micro) and need.total(strategy, processes, micro) <= room
    if asked:
        return f"It fits as it is: train.strategy={strategy}, train.micro_batch_size={micro}."
    for size in sorted(need.activations, reverse=True):
        for engine in engines:
            if need.total(engine, processes, size) <= room:
                return (
                    f"It does not fit as it is, but with --train.strategy {engine} --train.micro_batch_size "
                    f"{size}."
                )
    changed, words = run, []
    for word, change in CHANGES.items():
        if (more := change(changed)) == changed:
            continue
        changed, words = more, [*words, word]
        less = needs(changed, (1,))
        for engine in engines:
            if (total := less.total(engine, processes, 1)) <= room:
                how = f"--train.strategy {engine} --train.micro_batch_size 1 {' '.join(words)}"
                return f"It does not fit as it is, but with {how}: {total / GIB:.1f} GiB."
    return "It does not fit, nor with any change that is known here: take a larger GPU, or more of them."


def needs(run: RunConfig, micros: tuple[int, ...]) -> Need:
    """What one process takes that has everything, for these micro-batches. Raises ConfigError."""
    editor = sizes(run)
    make_trainable(run, editor, kept=True)
    if "layout" in run.train.groups:
        raise ConfigError(
            "--gpu: blocks for regions are not reckoned with (train.groups has layout); leave it out."
        )
    trained = choose_trained(editor, editor.groups(), run.train.groups)
    turned = hidden_matrices(editor, editor.groups()) if run.optim.muon is not None else []
    checkpoint_as_asked(run, editor)
    short = frozen_short(run, torch.device("cuda"))
    chosen = {id(parameter) for parameter in trained.values()}
    bits = {id(p): run.train.lora.bits for p in _in_bits(run, editor)}
    frozen = 0
    for parameter in editor.parameters():
        if id(parameter) not in chosen:
            width = bits.get(id(parameter)) or (16 if short else 32)
            frozen += parameter.numel() * width // 8
            if short:
                parameter.data = parameter.data.to(torch.bfloat16)
    activations = {}
    if len(micros) > 2:
        # What a step takes grows in a line with the micro-batch, as every tensor of it does, or does not.
        first, second = (rehearsed(run, editor, size) for size in micros[:2])
        slope = (second - first) / (micros[1] - micros[0])
        activations = {size: round(first + slope * (size - micros[0])) for size in micros}
    else:
        activations = {size: rehearsed(run, editor, size) for size in micros}
    return Need(
        frozen=frozen, trained=sum(4 * each.numel() for each in trained.values()), activations=activations,
        averaged=run.train.ema is not None, turned=sum(4 * each.numel() for each in turned),
    )  # fmt: skip


def sizes(run: RunConfig) -> Editor:
    """The editor of a run on the meta device, without its weights. Raises ConfigError, WeightsError."""
    model = run.model
    if model.release is not None:
        folder = Path(model.release)
        (maker, _), (painter, facts) = parts_of(read_index(folder), folder)
        empty = painter.empty(folder, facts)
        if empty is None:
            raise ConfigError(f"--gpu: the denoiser of {folder} tells no sizes; leave it out.")
        editor = Editor(encoder=maker.sizes_of(folder), denoiser=empty[0], codec=empty[1])
        return editor
    denoiser, codec, _ = denoiser_part(model.denoiser.kind).sizes(model.denoiser)
    encoder = encoder_part(model.encoder.kind).sizes(model.encoder, condition_width=denoiser.condition_width)
    return Editor(encoder=encoder, denoiser=denoiser, codec=codec)


def rehearsed(run: RunConfig, editor: Editor, samples: int) -> int:
    """Bytes that come and go in a step of so many samples, beside weights, gradients and moments: as much as
    the peak is above these, for activations are freed while gradients come."""
    gradients = sum(4 * each.numel() for each in editor.parameters() if each.requires_grad)
    return max(0, peak_of(lambda twin: rehearsal(run, twin.train(), samples), editor) - gradients)


def rehearsal(run: RunConfig, editor: Editor, samples: int) -> None:
    """One forward and backward pass on nothing, as EditTask makes them. Gradients are forgotten."""
    size, device = run.data.size, editor.denoiser.device
    features = run.data.features or ()
    with torch.autocast("cpu", torch.bfloat16, enabled=run.train.precision == "bf16"):
        words = min(LONGEST_ANSWER, run.data.max_length // 2)
        condition, loss = editor.encoder.rehearse(samples, length=run.data.max_length, words=words)
        shape = (samples, *editor.codec.latent_shape(size, size))
        target = source = torch.zeros(shape, device=device)
        if "vae" not in features:
            with torch.no_grad():
                pixels = torch.zeros(samples, 3, size, size, device=device)
                target, source = (editor.codec.moments(pixels)[0] for _ in range(2))
        guess = editor.denoiser(
            target, torch.zeros(samples, dtype=torch.long, device=device), source, Condition(tokens=condition)
        )
        whole = loss + (guess.mean.float() - target.float()).square().mean()
    whole.backward()


def _in_bits(run: RunConfig, editor: Editor) -> list[nn.Parameter]:
    """Weights that are kept in few bits."""
    if run.train.lora.bits is None:
        return []
    layers = (m for m in editor.encoder.adaptable.modules() if isinstance(m, nn.Linear))
    found = [layer.weight for layer in layers if not layer.weight.requires_grad]
    return [weight for weight in found if weight.shape[0] != editor.encoder.adaptable.config.vocab_size]  # type: ignore[union-attr]


def _trained_as(**changes: object) -> Callable[[RunConfig], RunConfig]:
    return lambda run: replace(run, train=replace(run.train, **changes))  # type: ignore[arg-type]


def _groups(name: str) -> Callable[[RunConfig], RunConfig]:
    def change(run: RunConfig) -> RunConfig:
        groups, lora = spelt_out((name,)), AdapterConfig(bits=4) if name == "qlora" else run.train.lora
        heavy = {"embeddings", "lm_head", "language_model", "denoiser"} & {*run.train.groups}
        if not heavy and not (name == "qlora" and run.train.lora.bits is None):
            return run
        return replace(run, optim=replace(run.optim, lrs={}, warmups={}, schedules={}),
                       train=replace(run.train, groups=groups, lora=lora, ema=None))  # fmt: skip

    return change


CHANGES: dict[str, Callable[[RunConfig], RunConfig]] = {
    "--train.precision bf16 --train.frozen_dtype bfloat16": _trained_as(
        precision="bf16", frozen_dtype="bfloat16"
    ),
    "--train.gradient_checkpointing true": _trained_as(gradient_checkpointing=True),
    "--train.denoiser_checkpointing whole": _trained_as(denoiser_checkpointing="whole"),
    "--train.groups [new_tokens_only]": _groups("new_tokens_only"),
    "--train.groups [lora]": _groups("lora"),
    "--train.groups [qlora]": _groups("qlora"),
}
"""Changes of a recipe that take less memory, in the order in which they are tried, one upon the other; of
several `train.groups` the last counts."""
