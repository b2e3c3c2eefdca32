"""`mgie evaluate`: a release edits the pairs of a benchmark, and is judged in a report.

mgie evaluate --model _ckpt/tiny --suite toy --seed 2 --out _ckpt/tiny-report
"""

import inspect
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from PIL import Image
from tqdm import tqdm

from llava_patch.folders import check_out, whole_folder
from llava_patch.ranges import in_range
from mgie.data.images import decode, fitted_size, resize
from mgie.devices import Dtype, find_device, find_dtype
from mgie.errors import ConfigError, DataError
from mgie.evaluation.benchmark import check_eyes, score_all
from mgie.evaluation.eyes import Eyes
from mgie.evaluation.judges.kinds import JudgeOptions, check_judged
from mgie.evaluation.judges.rubric import rubric_names
from mgie.evaluation.layouts import identity, is_published, outputs_of, read_layout
from mgie.evaluation.protocol import Metric, find_protocol, protocol_names
from mgie.evaluation.report import (
    FEW,
    REPORT,
    Item,
    as_published,
    as_table,
    write_published,
    write_report,
)
from mgie.evaluation.scores import Case, Score, means, score
from mgie.evaluation.suites import Request, caption_of, find_metrics, find_suite
from mgie.ranges import Count, Few, Number, Scale, Seconds, Seed, Side, Steps
from mgie.toy.judge import Verdict, neighbours
from mgie.types import EditPair

PICTURES = "pictures:"
"""What stands before a folder of ready pictures, in place of a model."""


@runtime_checkable
class Edits(Protocol):
    """What an editing system gives back: one entry for each picture."""

    images: list[Image.Image]
    said: list[str]
    forced: list[bool]


@runtime_checkable
class Editing(Protocol):
    """Whatever edits pictures by instructions: MGIEPipeline, or another system to compare it with."""

    size: int
    """Side in pixels that pictures are edited at."""

    def __call__(self, image: list[Image.Image], prompt: list[str], /, *, seed: int, **options: Any) -> Edits:
        """Edit each picture by the instruction at its place."""
        ...


@in_range
def evaluate(
    model: str | Path | Editing,
    *,
    suite: str | None = None,
    data: str | Path | None = None,
    out: str | Path,
    count: Number = 200,
    seed: Seed = 1,
    batch_size: Few = 25,
    control: bool = True,
    metrics: Sequence[str] = (),
    clip: str | Path | None = None,
    dino: str | Path | None = None,
    lpips: str | None = None,
    unpinned: bool = False,
    judge: str = "",
    judge_model: str = "",
    judge_key_env: str | None = None,
    judge_repeats: Few | None = None,
    judge_controls: Count = 24,
    judge_budget: Count | None = None,
    judge_prompts: str | Path | None = None,
    judge_answers: str | Path | None = None,
    judge_timeout: Seconds = 180.0,
    steps: Steps | None = None,
    guidance: Scale | None = None,
    image_guidance: Scale | None = None,
    size: Side | None = None,
    device: str | None = None,
    dtype: Dtype = "float32",
    verify: bool = True,
) -> dict[str, Any]:
    """Measure an editor, write a report. Facts: suite, n, seed, right, l1_ratio, control_right, by_kind,
    baselines.

    `right` is the share that the suite's judge calls right. `l1_ratio` is the sum of the outputs' distances
    from their targets over that of the untouched pictures: 1 is as good as doing nothing. `control_right` is
    the share of pictures in which their own edit came out although another pair's instruction was given: 0
    for a model that listens. `baselines` are the figures of giving back the picture before the edit (`copy`)
    and of the target itself (`oracle`). Outputs are measured at their target's own size.

    Args:
        model: Release folder, as `mgie extract` writes it, or a hub id. In Python also a pipeline.
        suite: Benchmark: toy (judged, and made fresh from the seed) or pairs (against the targets of --data).
            Default: pairs where --data is given, else toy. Or a published protocol, such as magicbrush, which
            scores ready pictures: --model pictures:DIR.
        data: Data set that `mgie prepare` wrote; its test split is used instead of fresh pairs. For a
            published protocol its data as they were published.
        out: Folder of the report: results.json, items.jsonl, report.md, report.html, sheet.png; an older
            report there is replaced.
        count: How many pairs at most.
        seed: Seed of the pairs that the suite makes, and of the model's noise.
        batch_size: How many pictures are edited at once.
        control: Edit all pictures a second time, each by another pair's instruction.
        metrics: Further metrics, such as "[l2, psnr, ssim]".
        clip: Local folder of a CLIP model, for CLIP-I, and for CLIP-T where pairs have a caption of
            their target (MagicBrush's local ones, InstructPix2Pix's).
        dino: Local folder of a DINO model, for DINO.
        lpips: Network and local file of its weights, for LPIPS, such as "alex:alexnet-owt-7be5be79.pth".
        unpinned: Let a published protocol measure other data or weights than its own; the figures say so.
        judge: Who scores a judged benchmark, such as gedit: local:DIR (a model of transformers), an
            endpoint's URL (pictures are sent there), replay:FILE (recorded answers), scripted:FILE (tests).
        judge_model: What the endpoint calls its model.
        judge_key_env: Name of the environment variable with the endpoint's key.
        judge_repeats: How often each question is asked. Default: as often as the benchmark says.
        judge_controls: On how many items it is seen whether the judge is usable.
        judge_budget: How many new answers at most; those that came are kept, and a further run goes on.
        judge_prompts: Published prompts, a file or a folder. Default: the benchmark's, worded here.
        judge_answers: File that answers are kept in. Default: beside --out.
        judge_timeout: Seconds that an endpoint may take for one answer.
        steps: Sampling steps. Default: the release's.
        guidance: How strongly the words count. Default: the release's.
        image_guidance: How strongly the picture counts. Default: the release's.
        size: Side in pixels that pictures are edited at. Default: the release's.
        device: Where the model runs, such as cpu or cuda:1. Default: the GPU, where there is one.
        dtype: What it computes in: float32, float16 or bfloat16.
        verify: Compare the release with its manifest; --verify false to take it as it is.
    """
    # A published protocol scores what was made already, and so does a judge.
    suite = suite or ("toy" if data is None else "pairs")
    options = JudgeOptions(
        judge=judge, model=judge_model, key_env=judge_key_env, repeats=judge_repeats,
        controls=judge_controls, budget=judge_budget, prompts=judge_prompts, answers=judge_answers,
        timeout=judge_timeout,
    )  # fmt: skip
    check_judged(options, suite)
    if suite in (*protocol_names(), *rubric_names()):
        asked = {
            "count": count, "seed": seed, "batch_size": batch_size, "control": control,
            "metrics": tuple(metrics), "steps": steps, "guidance": guidance,
            "image_guidance": image_guidance, "size": size, "dtype": dtype, "verify": verify,
        }  # fmt: skip
        usual = inspect.signature(evaluate).parameters
        given = [name for name, value in asked.items() if value != usual[name].default]
        if suite in rubric_names():
            from mgie.evaluation.judges.benchmark import judge_pictures

            given += [name for name, value in (("clip", clip), ("dino", dino), ("lpips", lpips)) if value]
            return judge_pictures(model, suite, data, out, options, device, dtype, given, unpinned=unpinned)
        eyes = partial(Eyes.open, clip, dino, lpips)
        return published(model, suite, data, out, eyes, device, given, unpinned=unpinned)

    # Everything that can be wrong is wrong now.
    bench = find_suite(suite, data)
    if unpinned:
        raise ConfigError(
            f"unpinned is for published protocols, and {suite} is a suite of this program: leave it out."
        )
    check_out(out, kind=REPORT)
    if isinstance(model, (str, Path)):
        from mgie.request import check_request

        place, kind, pictures = find_device(device), find_dtype(dtype), min(count, batch_size)
        check_request(model, [], pictures=pictures, steps=steps, size=size, dtype=kind, device=place)
    eyes = Eyes.open(clip, dino, lpips, find_device(device))
    measures = find_metrics([*bench.metrics, *metrics], eyes)
    started = time.monotonic()

    # The model, and the pairs at the size that it works at, in their own shapes.
    pipeline, name = load(model, device, dtype, verify=verify)
    side = size or pipeline.size
    pairs = bench.pairs(Request(count=count, seed=seed, size=side, data=None if data is None else Path(data)))
    if not pairs:
        raise DataError(f"The suite {suite} found no pair to measure on: choose another --data.")
    sources = [_as_large(decode(pair.source or pair.target, name=pair.key), side) for pair in pairs]
    targets = [
        resize(decode(pair.target, name=pair.key), source.size) for pair, source in zip(pairs, sources)
    ]

    # Edit, by each picture's own instruction and by another's.
    others = neighbours(pairs) if control and bench.judge else []
    asked = {
        "num_inference_steps": steps, "guidance_scale": guidance,
        "image_guidance_scale": image_guidance, "size": size,
    }  # fmt: skip
    options = {key: value for key, value in asked.items() if value is not None} | {"seed": seed}
    with tqdm(total=len(pairs) + len(others), desc=f"evaluate on {suite}", unit="edit") as progress:
        own = [pair.instruction for pair in pairs]
        edited = edit_all(pipeline, sources, own, batch_size, options, progress)
        foreign = [own[other] for other in others]
        misled = edit_all(pipeline, sources[: len(foreign)], foreign, batch_size, options, progress)

    # Measure each output as it was made, and judge it.
    items, copies, oracles = [], [], []
    for pair, source, target, (output, said, forced) in zip(pairs, sources, targets, edited, strict=True):
        found, copied, known = rows(pair, output, measures, eyes)
        copies.append(copied)
        oracles.append(known)
        items.append(
            Item(
                key=pair.key,
                kind=pair.kind,
                instruction=pair.instruction,
                expected=pair.expressive,
                said=said,
                forced=forced,
                source=source,
                output=resize(output, source.size),
                target=target,
                caption=caption_of(pair),
                scores={name: each.value for name, each in found.items() if each.value is not None},
                notes={name: list(each.notes) for name, each in found.items() if each.notes},
            )
        )
    if bench.judge:
        items = [
            judged(item, bench.judge(pair, item.output)) for item, pair in zip(items, pairs, strict=True)
        ]
    if bench.judge and others:
        wrong = [bench.judge(pair, output) for pair, (output, _, _) in zip(pairs, misled, strict=True)]
        items = [
            replace(item, control=words, control_right=verdict.right)
            for item, words, verdict in zip(items, foreign, wrong, strict=True)
        ]

    # Tell.
    kinds = sorted({item.kind for item in items})
    by_kind = {kind: summary([item for item in items if item.kind == kind], measures) for kind in kinds}
    facts = {"model": name, "suite": suite, "seed": seed, "size": side} | summary(items, measures)
    baselines = {
        name: means(measures, scored, {}) for name, scored in (("copy", copies), ("oracle", oracles))
    }
    facts |= {"by_kind": by_kind, "baselines": baselines, "weights": eyes.hashes}
    facts |= {"seconds": round(time.monotonic() - started, 1)}
    if len(items) < FEW:
        facts["warning"] = f"n is {len(items)}: figures from fewer than {FEW} pairs mean little."
    with whole_folder(out, kind=REPORT) as folder:
        write_report(folder, facts, items)
    print(as_table(facts))
    return facts | {"report": str(Path(out, "report.html")), "sheet": str(Path(out, "sheet.png"))}


def published(
    model: str | Path | Editing,
    suite: str,
    data: str | Path | None,
    out: str | Path,
    open_eyes: Callable[[torch.device], Eyes],
    device: str | None,
    given: Sequence[str],
    *,
    unpinned: bool,
) -> dict[str, Any]:
    """The figures of ready pictures by a published protocol, in a report: model, protocol, rows, unpinned.

    `given` are options that were asked for and that no protocol heeds.
    """
    # Everything that can be wrong is wrong now.
    protocol = find_protocol(suite)
    if given:
        raise ConfigError(
            f"{given[0]} has no place here: the protocol {suite} measures ready pictures its own way."
        )
    if not str(model).startswith(PICTURES):
        raise ConfigError(
            f"--model is {model} and the protocol {suite} scores ready pictures: say --model pictures:DIR, "
            "with the official names of files inside."
        )
    if data is None:
        raise ConfigError(f"the protocol {suite} needs its published data: give --data DIR.")
    check_out(out, kind=REPORT)
    started, label = time.monotonic(), str(model)
    views = read_layout(protocol, Path(data), unpinned=unpinned)
    outputs, extra = outputs_of(Path(label.removeprefix(PICTURES)), views)
    eyes = open_eyes(find_device(device))
    open_questions = [f"the weights of {name}" for name in check_eyes(protocol, eyes, unpinned=unpinned)]
    open_questions += [] if is_published(protocol, views) else ["the data"]

    # Score, and tell.
    total = sum(map(len, views.values()))
    with tqdm(total=total, desc=f"score by {protocol.identity}", unit="picture") as progress:
        scored = score_all(protocol, views, outputs, eyes, progress.update)
    facts = {
        "model": label, "suite": suite, "protocol": protocol.identity, "protocol_sha256": protocol.sha256,
        "unpinned": open_questions, "weights": eyes.hashes, "items_sha256": identity(views),
        "not_asked_for": len(extra), "metrics": list(protocol.metrics), "rows": scored.facts,
        "seconds": round(time.monotonic() - started, 1),
    }  # fmt: skip
    with whole_folder(out, kind=REPORT) as folder:
        write_published(folder, facts, scored.items)
    print(as_published(facts))
    return facts | {"report": str(Path(out, "report.md"))}


def edit_all(
    pipeline: Editing,
    sources: Sequence[Image.Image],
    instructions: Sequence[str],
    batch_size: int,
    options: dict[str, Any],
    progress: tqdm,
) -> list[tuple[Image.Image, str, bool]]:
    """What the pipeline makes of each picture, what it says, and whether the edit was forced."""
    edited: list[tuple[Image.Image, str, bool]] = []
    for start in range(0, len(instructions), batch_size):
        part = slice(start, start + batch_size)
        result = pipeline(list(sources[part]), list(instructions[part]), **options)
        edited += zip(result.images, result.said, result.forced, strict=True)
        progress.update(len(instructions[part]))
    return edited


def load(
    model: str | Path | Editing, device: str | None, dtype: Dtype, *, verify: bool = True
) -> tuple[Editing, str]:
    """The pipeline of a release, and what to call it in the report; a pipeline stays where it is."""
    if not isinstance(model, (str, Path)):
        return model, type(model).__name__
    from mgie.pipeline import MGIEPipeline

    place, kind = find_device(device), find_dtype(dtype)
    pipeline = MGIEPipeline.from_pretrained(str(model), torch_dtype=kind, progress=True, verify=verify)
    pipeline = pipeline.to(place)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline, str(model)


def _as_large(picture: Image.Image, side: int) -> Image.Image:
    """The whole picture with about side x side pixels."""
    return resize(picture, fitted_size(picture.size, side=side))


def rows(
    pair: EditPair, output: Image.Image, measures: dict[str, Metric], eyes: Eyes
) -> tuple[dict[str, Score], dict[str, Score], dict[str, Score]]:
    """The numbers of an output, of the picture before the edit in its place, and of the target, all against
    the pair's pictures at their own size."""
    source = decode(pair.source or pair.target, name=pair.key)
    target = decode(pair.target, name=pair.key)
    whole = Case(output=output, source=source, target=target, caption=caption_of(pair))
    cases = (whole, replace(whole, output=source), replace(whole, output=target))
    found, copied, known = (
        {name: score(metric, case, eyes) for name, metric in measures.items()} for case in cases
    )
    return found, copied, known


def judged(item: Item, verdict: Verdict) -> Item:
    """The item with its verdict."""
    return replace(item, right=verdict.right, why=verdict.why)


def summary(items: Sequence[Item], measures: dict[str, Metric]) -> dict[str, Any]:
    """The figures of some items: their number, shares, sums' ratio and means."""
    facts: dict[str, Any] = {"n": len(items)}
    for share in ("right", "control_right"):
        verdicts = [getattr(item, share) for item in items if getattr(item, share) is not None]
        if verdicts:
            facts[share] = sum(verdicts) / len(verdicts)
    copied = sum(item.scores["copy_l1"] for item in items)
    facts["l1_ratio"] = sum(item.scores["l1"] for item in items) / copied if copied else None
    expected = [item for item in items if item.expected]
    if expected:
        facts["said_exactly"] = sum(item.said.strip() == item.expected for item in expected) / len(expected)
    facts["forced"] = sum(item.forced for item in items) / len(items)
    scored = [
        {name: Score(item.scores.get(name), tuple(item.notes.get(name, ()))) for name in measures}
        for item in items
    ]
    return facts | means(measures, scored, {})
