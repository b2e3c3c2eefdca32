"""`mgie evaluate`: a release edits the pictures of a benchmark, is scored, and told of.

mgie evaluate --model _ckpt/tiny --suite toy --seed 2 --out _ckpt/tiny-report
"""

import inspect
import os
import uuid
from collections.abc import Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch

from llava_patch.folders import file_hash
from llava_patch.ranges import in_range
from mgie.compare import compare_reports
from mgie.devices import Dtype, find_device, find_dtype
from mgie.errors import ConfigError, WeightsError
from mgie.evaluation.controlled.suites import CONTROLLED
from mgie.evaluation.judges.kinds import JudgeOptions, check_judged
from mgie.evaluation.judges.pair_rubric import pair_rubric_names
from mgie.evaluation.judges.rubric import rubric_names
from mgie.evaluation.making import Editing, Making
from mgie.evaluation.measures.eyes import Eyes
from mgie.evaluation.measures.sets import CMMD, of_single_pictures
from mgie.evaluation.opening import (
    MAKING,
    OWN_WAY,
    PICTURES,
    check_alone,
    check_asked,
    check_finders_asked,
    controlled,
    cutter,
    published,
)
from mgie.evaluation.pair_suites import PairBenchmark
from mgie.evaluation.people.ab import Asked
from mgie.evaluation.published.pins import ENDING, read_pins, write_pins
from mgie.evaluation.published.protocol import find_protocol, protocol_names
from mgie.evaluation.run_folder import RunFolder, file_sha, sha
from mgie.evaluation.scoring import AbstractBenchmark
from mgie.evaluation.shards import Shard
from mgie.evaluation.stages import Run, Stage, carry_out
from mgie.evaluation.subset import Subset
from mgie.evaluation.suites import Request, find_metrics, find_suite
from mgie.ranges import Count, Few, Number, Scale, Seconds, Seed, Side, Steps


@in_range
def evaluate(
    model: str | Path | Editing | None = None,
    *,
    reports: Sequence[str] = (),
    ab: str | Path | None = None,
    questions: Asked = "own",
    results: str | Path | None = None,
    pin: str | None = None,
    suite: str | None = None,
    data: str | Path | None = None,
    out: str | Path,
    stage: Stage = "all",
    shard: str | None = None,
    count: Number = 200,
    subset: str | Path | None = None,
    seed: Seed = 1,
    batch_size: Few = 25,
    control: bool = True,
    metrics: Sequence[str] = (),
    clip: str | Path | None = None,
    dino: str | Path | None = None,
    lpips: str | None = None,
    detector: str | Path | None = None,
    segmenter: str | Path | None = None,
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
    """Measure an editor, write a report. Facts of a suite: suite, n, seed, right, l1_ratio, control_right,
    by_kind, baselines; of a published protocol: model, protocol, rows, unpinned.

    `right` is the share that the suite's judge calls right. `l1_ratio` is the sum of the outputs' distances
    from their targets over that of the untouched pictures: 1 is as good as doing nothing. `control_right` is
    the share of pictures in which their own edit came out although another pair's instruction was given: 0
    for a model that listens. `baselines` are the figures of giving back the picture before the edit (`copy`)
    and of the target itself (`oracle`). Outputs are measured at their target's own size.

    Pictures are made, then scored, then told of, each file whole or not there: the same command goes on where
    one was stopped, and ends with the same bytes. Several processes (torchrun) or machines (--shard) share
    the work, and whoever is last writes the report.

    Args:
        reports: Instead of a model, finished reports of one suite and of the same data, to be compared: each
            metric and each difference with its interval, one page, plots. Or pictures:DIR of several systems,
            of which a judge sees two at a time (gedit_v2).
        ab: Beside two reports: folder of a page to be handed out, on which people choose between the outputs
            of at most --count items without knowing whose they are. The key to it stays in --out.
        questions: What that page asks: which edit follows, keeps the rest and looks better (own); or which
            follows, is closer to the target and is better over all (mgie).
        results: Beside the folder of such a comparison: what people answered, a file or a folder of them.
        pin: Instead of a model, a published protocol whose open hashes (weights, and items where --data is
            given) are written into the file --out, which --suite takes from then on.
        model: Release folder, as `mgie extract` writes it, or a hub id; or pictures:DIR, ready pictures that
            have a published benchmark's names. In Python also a pipeline.
        suite: Benchmark: toy (judged, and made fresh from the seed) or pairs (against the targets of --data).
            Default: pairs where --data is given, else toy. Or a published protocol, such as magicbrush; or
            one of controls: regions, coco_mig, coco_position, counting, subjects. Or a file that --pin wrote.
        data: Data set that `mgie prepare` wrote; its test split is used instead of fresh pairs. For a
            published protocol its data as they were published.
        out: Folder of the evaluation: results.json, items.jsonl, report.md and what they rest on. One of the
            same model, data and settings is gone on with; another one is refused.
        stage: Only generate the pictures, only score them, or only report; all of it by default.
        shard: Part of the work for one of several machines, such as 2/3 for the second of three.
        count: How many pairs at most.
        subset: Of a published benchmark only the items whose keys this file lists, one on each line. The
            figures' identity says so.
        seed: Seed of the pairs that the suite makes, and of the model's noise; of what a comparison draws.
        batch_size: How many pictures are edited at once.
        control: Edit all pictures a second time, each by another pair's instruction.
        metrics: Further metrics, such as "[l2, psnr, ssim]"; cmmd is one of all outputs together.
        clip: Local folder of a CLIP model, for CLIP-I, and for CLIP-T where pairs have a caption of
            their target (MagicBrush's local ones, InstructPix2Pix's).
        dino: Local folder of a DINO model, for DINO.
        lpips: Network and local file of its weights, for LPIPS, such as "alex:alexnet-owt-7be5be79.pth".
        detector: Local folder of OWLv2 or Grounding DINO, for suites that look for things in pictures:
            coco_mig, coco_position, counting, subjects, migebench.
        segmenter: Local folder of SAM, for coco_mig and migebench.
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
    # Finished reports are compared, and ready pictures of several systems side by side.
    asked = dict(locals()) | {"metrics": tuple(metrics)}
    usual = inspect.signature(evaluate).parameters
    every = [name for name in usual if asked[name] not in (usual[name].default, ())]
    options = JudgeOptions(
        judge=judge, model=judge_model, key_env=judge_key_env, repeats=judge_repeats,
        controls=judge_controls, budget=judge_budget, prompts=judge_prompts, answers=judge_answers,
        timeout=judge_timeout,
    )  # fmt: skip
    if suite in pair_rubric_names():
        from mgie.evaluation.judges.pair_report import judge_pairs

        return judge_pairs(
            reports, suite, data, out, options, every, device=device, dtype=dtype,
            subset=Subset.read(subset) if subset else None, unpinned=unpinned, seed=seed,
        )  # fmt: skip
    if reports:
        return compare_reports(
            reports, out, every, ab=ab, results=results, questions=questions, seed=seed, count=count
        )
    if pin is not None:
        place = find_device(device)
        return write_pins(pin, out, every, clip=clip, dino=dino, lpips=lpips, data=data, device=place)
    if model is None:
        raise ConfigError(
            "nothing is named that could be measured: give --model RELEASE, or two or more finished reports."
        )

    # Everything that can be wrong is wrong now.
    check_alone(every)
    given = [name for name in (*MAKING, *OWN_WAY) if asked[name] != usual[name].default]
    suite = suite or ("toy" if data is None else "pairs")
    check_judged(options, suite)
    if suite in rubric_names():
        from mgie.evaluation.judges.benchmark import judge_pictures

        part = Subset.read(subset) if subset else None
        others = [*given, *(name for name in ("clip", "dino", "lpips", "shard") if asked[name])]
        unheeded = [name for name in others if name != "dtype"]
        return judge_pictures(
            model, suite, data, out, options, device, dtype, unheeded, subset=part, unpinned=unpinned
        )
    protocol = find_protocol(suite) if suite in protocol_names() else None
    if suite.endswith(ENDING):
        suite, protocol = read_pins(Path(suite))
    ready = Path(str(model).removeprefix(PICTURES)) if str(model).startswith(PICTURES) else None
    bench = None if protocol or suite in CONTROLLED else find_suite(suite, data)
    check_asked(suite, protocol, ready, given, part=bool(subset), unpinned=unpinned)
    finders = {"detector": detector, "segmenter": segmenter}
    check_finders_asked(suite, finders)
    process, processes = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    mine = Shard.of(shard, process=process, processes=processes)
    folder = RunFolder(out)
    folder.check()
    place = find_device(device or own_gpu())
    if isinstance(model, (str, Path)) and not ready:
        from mgie.request import check_request

        pictures, kind = min(count, batch_size), find_dtype(dtype)
        check_request(model, [], pictures=pictures, steps=steps, size=size, dtype=kind, device=place)
    open_eyes = partial(Eyes.open, clip, dino, lpips, place)
    eyes = Eyes() if stage == "generate" else open_eyes()
    eyes.cutter = None if stage == "generate" else cutter(suite, finders, place)
    system = None if ready else System(model, place, dtype, verify=verify)

    # What is to be made and measured.
    if protocol:
        part = Subset.read(subset) if subset else None
        whole = published(
            suite, protocol, data, ready, eyes, subset=part, unpinned=unpinned, scored=stage != "generate"
        )
        side = None
    elif suite in CONTROLLED:
        whole, side = controlled(suite, data, count, finders, eyes, place, scored=stage != "generate"), None
        if ready:
            whole.check_outputs(ready)
    else:
        assert bench and system
        side = size or system.size
        single = of_single_pictures(metrics, eyes, scored=stage != "generate")
        measures = find_metrics([*bench.metrics, *single], eyes)
        request = Request(count=count, seed=seed, size=side, data=None if data is None else Path(data))
        whole = PairBenchmark(bench, request, measures, eyes, control=control, sets=CMMD in metrics)
    wishes = {
        "num_inference_steps": steps, "guidance_scale": guidance,
        "image_guidance_scale": image_guidance, "size": size,
    }  # fmt: skip
    wished = {name: value for name, value in wishes.items() if value is not None}
    plan = plan_of(whole, system, ready, asked | {"size": side or size}, place)
    told: dict[str, Any] = {"model": system.name if system else str(model)}
    if system:
        told |= {"making": plan | {"weights": system.identity or None}, "settings": system.settings(wished)}
    run = Run(
        folder=folder, bench=whole, plan=plan, told=told, pictures=ready,
        making=Making(seed=seed, batch_size=batch_size, options=wished, side=side),
        system=system and system.load, progress=process == 0,
    )  # fmt: skip

    # Generate, score, report. Of processes that work side by side the first one waits for the others.
    beside = [Shard(mine.index + other, mine.count) for other in range(1, processes)]
    facts, complete = carry_out(run, mine, stage, awaited=None if process else beside)
    if not complete:
        return facts
    print(whole.table(facts))
    written = {"report": "report.html"} | ({"sheet": "sheet.png"} if bench else {})
    return facts | {name: str(folder.out / file) for name, file in written.items()}


def plan_of(
    bench: AbstractBenchmark,
    system: "System | None",
    ready: Path | None,
    asked: dict[str, Any],
    place: torch.device,
) -> dict[str, Any]:
    """What must be the same for an evaluation to go on, beside what the benchmark says of itself."""
    if ready:
        hashes = {job.output: file_sha(ready / job.output) for job in bench.jobs}
        return {"pictures": sha(repr(sorted(hashes.items())).encode()), "batch_size": asked["batch_size"]}
    assert system
    names = ("seed", "batch_size", "steps", "guidance", "image_guidance", "size", "dtype")
    own = {name: asked[name] for name in names}
    weights = system.identity or f"unknown ({system.name} has no `identity`, {uuid.uuid4()})"
    return {"weights": weights, **own, "device": place.type}


class System:
    """What edits: a release, read only if a picture has to be made, or an object."""

    def __init__(self, model: str | Path | Editing, place: torch.device, dtype: Dtype, *, verify: bool):
        """Raises WeightsError where a name leads to no release."""
        self.model, self.place, self.dtype, self.verify = model, place, dtype, verify
        self.name = str(model) if isinstance(model, (str, Path)) else type(model).__name__

    @cached_property
    def folder(self) -> Path | None:
        """Where the release lies; None for an object."""
        from mgie.weights.release import fetch

        return fetch(self.model) if isinstance(self.model, (str, Path)) else None

    @cached_property
    def identity(self) -> str | None:
        """Another one for other weights. An object that tells none is never known again."""
        from mgie.weights.release import release_identity

        if self.folder is None:
            return getattr(self.model, "identity", None)
        try:
            if self.verify:
                return release_identity(self.folder)
        except WeightsError:  # without a manifest, or Apple's
            pass
        files = sorted(path for path in self.folder.rglob("*") if path.is_file())
        told = [(path.relative_to(self.folder).as_posix(), file_hash(path)) for path in files]
        return sha(repr(told).encode())

    @cached_property
    def size(self) -> int:
        """Side in pixels that it edits at. A release's index tells it without its weights."""
        from mgie.weights.release import INDEX, read_index

        if self.folder and (self.folder / INDEX).is_file():
            told = read_index(self.folder).get("size")
            if isinstance(told, int):
                return told
        return self.load().size

    def settings(self, wished: dict[str, Any]) -> dict[str, Any]:
        """How it samples: as is wished, else as it does by itself, where it tells."""
        from mgie.weights.release import INDEX, read_index

        own: Any = getattr(self.model, "config", {})
        if self.folder:
            own = read_index(self.folder) if (self.folder / INDEX).is_file() else {}
        names = ("num_inference_steps", "guidance_scale", "image_guidance_scale")
        found = {name: wished.get(name, own.get(name)) for name in names}
        return {name: value for name, value in found.items() if value is not None}

    def load(self) -> Editing:
        """The pipeline of a release, where it is to run; an object stays where it is."""
        if self.folder is None:
            assert not isinstance(self.model, (str, Path))
            return self.model
        from mgie.pipeline import MGIEPipeline

        kind = find_dtype(self.dtype)
        pipeline = MGIEPipeline.from_pretrained(
            self.folder, torch_dtype=kind, progress=True, verify=self.verify
        )
        pipeline = pipeline.to(self.place)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline


def own_gpu() -> str | None:
    """The GPU of a process among several under torchrun; None where there is no choice."""
    local = os.environ.get("LOCAL_RANK")
    return f"cuda:{local}" if local and torch.cuda.is_available() else None
