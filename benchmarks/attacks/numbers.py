"""Every number of every verb and recipe, in its range and outside."""

import inspect
import random
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from attacks.laboratory import Found, Try, judge, run
from attacks.world import ALONE, EDIT, EVALUATE, OWN, PREPARE, TRAIN, World

NEVER = ("nan", "inf", "-inf", "much", "1e400")
"""No number of this program may be one of these."""
COUNT = (("1", "7"), ("0", "-1", "1.5", "1e30"))
COUNT_OR_NONE = (("0", "1"), ("-1", "1.5"))
SHARE = (("0", "0.5", "1"), ("-0.1", "1.1", "2"))
WEIGHT = (("0", "0.5"), ("-1", "-1e-3"))
ABOVE_ZERO = (("1e-6", "0.5"), ("0", "-1"))
SEED = (("0", "7"), ("-1", str(2**70), "1.5"))
SCALE = (("0", "1", "7.5"), ("1e38", "-1e38"))
KEYS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "seed": SEED,
    "model.encoder.edit_head.visual_tokens": (("8", "1"), ("0", "-1", "1.5")),
    "model.encoder.edit_head.width": (("128",), ("0", "-1", "1.5")),
    "model.encoder.edit_head.heads": (("1", "4"), ("0", "-1", "3", "1.5")),
    "model.encoder.edit_head.layers": (("1",), ("0", "-1", "1.5")),
    "model.encoder.edit_head.feedforward": (("1", "256"), ("0", "-1", "1.5")),
    "model.encoder.edit_head.queries": (("1",), ("0", "-1", "1.5")),
    "model.encoder.edit_head.initializer_range": (("0.02", "null"), ("-1",)),
    "data.size": (("32", "64"), ("0", "-1", "1.5")),
    "data.max_length": (("128",), ("0", "-1", "1.5")),
    "data.workers": COUNT_OR_NONE,
    "data.crop": (("0.5", "1"), ("0", "-1", "1.5")),
    "data.flip": (("0", "0.5"), ("-1", "1.5")),
    "data.shape_step": (("64",), ("0", "-1", "1.5")),
    "train.samples": (("16",), ("0", "-1", "1.5", "1e30")),
    "train.epochs": ((), ("0", "-1")),
    "train.batch_size": (("4", "8"), ("0", "-4", "1.5")),
    "train.micro_batch_size": (("1", "2"), ("0", "-1", "3", "1.5")),
    "train.edit_weight": WEIGHT,
    "train.align_weight": WEIGHT,
    "train.drop.text": (("0", "0.1"), SHARE[1]),
    "train.drop.both": (("0", "0.1"), SHARE[1]),
    "train.drop.image": (("0", "0.1"), SHARE[1]),
    "train.timestep_shift": (("1", "6"), ("0", "-1")),
    "train.ema": (("0.5", "0.999", "null"), ("-0.1", "1.1", "2")),
    "train.threads": (("1", "null"), ("-1", "0", "1.5")),
    "optim.lr": (("1e-6", "0.5"), ("-1", "-1e-5")),
    "optim.lrs.edit_head": (("1e-6", "1e-3"), ("-1", "0")),
    "optim.betas": (("[0.9,0.99]", "[0,0]"), ("[2,2]", "[1,1]", "[-0.1,0.9]", "[0.9]", "0.9", "[.nan,0.9]")),
    "optim.muon": (("1e-6", "0.02"), ("-1", "0")),
    "optim.eps": (("1e-8",), ("-1", "-1e-8")),
    "optim.weight_decay": WEIGHT,
    "optim.clip": (("0.5", "1"), ("0", "-1")),
    "optim.warmup": (("0", "0.03"), ("-0.1", "5", "1.1")),
    "train.lora.rank": COUNT,
    "train.lora.alpha": ABOVE_ZERO,
    "train.loss.offset_noise": SHARE,
    "train.loss.dco_beta": ABOVE_ZERO,
    "train.loss.mask_floor": SHARE,
    "train.identity.drop": SHARE,
    "train.layout.most": (("1", "6"), ("0", "-1", "29", "1.5")),
    "train.layout.pooled": (("1", "null"), ("0", "-1", "1.5", "4097")),
    "train.layout.drop": SHARE,
    "train.layout.inhibit_weight": WEIGHT,
    "train.layout.way.until": SHARE,
    "train.layout.way.fuse_until": SHARE,
    "train.ema_schedule.after": COUNT_OR_NONE,
    "train.ema_schedule.least": (("0", "0.5"), ("-0.1", "1.1", "2")),
    "train.checkpointing_every": COUNT,
    "train.timeout": (("1", "30"), ("0", "-1")),
    "validation.every": COUNT_OR_NONE,
    "validation.count": COUNT,
    "evaluate.every": COUNT_OR_NONE,
    "evaluate.count": COUNT,
    "evaluate.seed": SEED,
    "evaluate.batch_size": COUNT,
    "save.every": COUNT,
    "save.keep": (("1", "3"), ("-1", "1.5")),
    "log.every": COUNT,
    "preview.every": COUNT_OR_NONE,
    "preview.count": (("1", "4"), ("-1", "1.5")),
    "sampling.steps": (("1", "2"), ("0", "-1", "1.5")),
    "sampling.guidance": SCALE,
    "sampling.image_guidance": SCALE,
    "sampling.max_new_tokens": (("1", "40"), ("0", "-1", "1.5")),
    "sampling.no_repeat_ngram_size": COUNT_OR_NONE,
    "model.encoder.new.edge": (("16", "64"), ("0", "-8", "65", "1.5", "1e9")),
    "model.encoder.new.patch": (("4", "8"), ("0", "-1", "7", "1.5")),
    "model.encoder.new.channels": (("4", "64"), ("0", "-1", "1.5", "1e9")),
    "model.encoder.new.width": (("4", "64"), ("0", "-4", "127", "1.5", "1e9")),
    "model.encoder.new.heads": (("1", "8"), ("0", "-1", "3", "1.5")),
    "model.encoder.new.layers": (("1", "7"), ("0", "-1", "1.5", "1e9")),
    "model.encoder.new.queries": (("1", "7"), ("0", "-1", "1.5", "1e9")),
    "model.encoder.new.states": (("1", "7"), ("0", "-1", "1.5", "1e9")),
    "model.encoder.new.length": (("1", "192"), ("0", "-1", "1.5", "1e9")),
    "data.subjects.segmix.prob": SHARE,
    "data.subjects.segmix.start_step": COUNT_OR_NONE,
    "data.subjects.segmix.least": (("0.5", "1"), ("0", "-1", "1.1")),
    "data.subjects.segmix.margin": (("0.01", "0.5"), ("0", "-1", "0.6")),
    "data.mixture": ((), ('{"data": -1}', '{"data": .nan}', '{"data": 0}', '{"data": 1, "other": -1}')),
}
"""Key -> values that are taken, values that are not. A recipe's number that is missing here is an error."""
SAMPLING = {
    "steps": (("1", "2"), ("0", "-1", "1.5", "1001", "1000000")),
    "guidance": SCALE,
    "image_guidance": SCALE,
    "seed": SEED,
    "size": (("32", "64"), ("0", "-1", "1", "1.5", "1000000", str(2**70))),
}
RECIPES = {
    "model.encoder.new.": ("tiny_mige", ["--data.mixture", "null"]),
    "data.subjects.": ("tiny_subjects", []),
}
"""Beginning of a key -> the recipe that has such keys, and what it needs here."""
PERSONALIZE = [
    "personalize", "things", "--model", "release", "--config", "tiny_subjects", "--out", "adapter",
    "--train.samples", "4", "--train.batch_size", "4", "--train.threads", "1", "--data.workers", "0",
]  # fmt: skip
VERBS: dict[str, tuple[list[str], tuple[str, ...], dict]] = {
    "edit": (EDIT, ("release", "photo.png"), SAMPLING),
    "evaluate": (
        EVALUATE,
        ("release",),
        SAMPLING
        | {
            "count": (("2",), ("0", "-3", "1.5")),
            "batch_size": (("1", "100"), ("0", "-1", "1.5")),
            # Good ones want a suite that is judged.
            "judge_repeats": ((), ("0", "-1", "1.5")),
            "judge_controls": ((), ("-1", "1.5")),
            "judge_budget": ((), ("-1", "1.5")),
            "judge_timeout": ((), ("0", "-1")),
        },
    ),
    "prepare": (
        PREPARE,
        (),
        {
            "seed": SEED,
            "count": (("1", "6"), ("0", "-3", "1.5")),
            "test": (("1", "2"), ("-1", "1.5")),
            "size": (("32", "64"), ("0", "-1", "1.5", "100000000")),
            "express_batch": (("1",), ("0", "-1", "1.5")),
            "max_rejected": SHARE,
            "workers": (("1", "2"), ("-1", "1.5")),
        },
    ),
    "personalize": (PERSONALIZE, ("release", "things"), {"seed": SEED}),
    "own": (OWN, ("pairs",), {"count": (("1", "5"), ("0", "-3")), "test": (("1",), ("-1", "12", "100"))}),
}


def tries(world: World) -> list[Try]:
    """Every value of every number."""
    _check_complete()
    found = []
    for key, (good, bad) in KEYS.items():
        never = NEVER if key not in ("optim.betas", "data.mixture") else ("much",)
        for value, sensible in [
            *((each, True) for each in good),
            *((each, False) for each in (*bad, *never)),
        ]:

            def attack(
                folder: Path,
                rng: random.Random,  # noqa: ARG001
                key: str = key,
                value: str = value,
                sensible: bool = sensible,
            ) -> Found:
                return dry_run(world, folder, key, value, sensible)

            found.append(Try(what=f"train --{key} {value}", attack=attack))
    for verb, (words, needs, options) in VERBS.items():
        for option, (good, bad) in options.items():
            for value, sensible in [
                *((each, True) for each in good),
                *((each, False) for each in (*bad, *NEVER)),
            ]:

                def attack_verb(
                    folder: Path,
                    rng: random.Random,  # noqa: ARG001
                    words: list[str] = words,
                    needs: tuple[str, ...] = needs,
                    option: str = option,
                    value: str = value,
                    sensible: bool = sensible,
                ) -> Found:
                    return one_option(world, folder, words, needs, option, value, sensible)

                found.append(Try(what=f"{verb} --{option} {value}", attack=attack_verb))
    return found


def dry_run(world: World, folder: Path, key: str, value: str, sensible: bool) -> Found:
    """A recipe with one other number, checked and not run."""
    world.place("data", at=folder)
    more = ["--train.samples", "null"] if key == "train.epochs" else []
    recipe, needs = next((RECIPES[start] for start in RECIPES if key.startswith(start)), ("tiny", []))
    words = list(TRAIN)
    words[words.index("--config") + 1] = recipe
    ran = run([*words, *needs, *ALONE, *more, f"--{key}={value}", "--dry_run"], folder)
    return _expected(judge(ran, "" if sensible else "nonsense was taken"), sensible)


def one_option(
    world: World,
    folder: Path,
    words: list[str],
    needs: tuple[str, ...],
    option: str,
    value: str,
    sensible: bool,
) -> Found:
    """A verb with one other number."""
    world.place(*needs, at=folder)
    words = list(words)
    if f"--{option}" in words:
        at = words.index(f"--{option}")
        del words[at : at + 2]
    if words[0] == "evaluate" and option != "count" and "--count" not in words:
        words += ["--count", "2"]
    ran = run([*words, f"--{option}={value}"], folder)
    return _expected(judge(ran, "" if sensible else "nonsense was taken"), sensible)


def _expected(found: Found, sensible: bool) -> Found:
    if sensible and found.result == "sentence":
        return Found(result="traceback", detail=f"refused, though it is in its range: {found.detail}")
    return found


def _check_complete() -> None:
    """Raises RuntimeError where the recipes or the verbs have a number that nothing is known of."""
    from dataclasses import asdict

    import mgie
    from mgie.config import load_run
    from mgie.verbs import VERBS as STORIES

    def numbers(values: dict[str, Any], prefix: str = "") -> list[str]:
        found = []
        for key, value in values.items():
            if isinstance(value, dict):
                found += numbers(value, f"{prefix}{key}.")
            elif isinstance(value, (int, float)) and not isinstance(value, bool):
                found.append(prefix + key)
        return found

    known = (Path(mgie.__file__).parent / "recipes").glob("*.yaml")
    keys = dict.fromkeys(key for path in known for key in numbers(asdict(load_run(path.stem))))
    apart = ("optim.lrs.", "data.mixture.")
    missing = [key for key in keys if key not in KEYS and not key.startswith(apart)]
    for verb, (words, _, options) in VERBS.items():
        for name, parameter in inspect.signature(resolve_name(STORIES[words[0]].story)).parameters.items():
            kind = str(parameter.annotation)
            if verb != "own" and ("int" in kind or "float" in kind) and name not in (*options, "instruction"):
                missing += [f"{verb} --{name}"] if "Literal" not in kind else []
    if missing:
        raise RuntimeError(f"say in benchmarks/attacks/numbers.py which values are sensible for {missing}")
