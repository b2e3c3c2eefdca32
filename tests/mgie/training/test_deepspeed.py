"""Without other processes; with them: tests/mgie/test_train_together.py."""

import inspect
import re
import sys
from importlib.metadata import version

import pytest
from packaging.requirements import Requirement

from mgie.errors import ConfigError
from mgie.train import build_engine
from mgie.training import deepspeed as ours
from mgie.training.ddp import DdpEngine
from mgie.training.deepspeed import OffloadConfig, ZeroEngine, deepspeed_config

SIZES = {"stage": 3, "batch_size": 4, "micro_batch_size": 2, "clip": 1.0, "bf16": False}

NAMES = {
    "deepspeed": ("initialize",),
    "deepspeed.utils": (
        "safe_get_full_optimizer_state", "safe_set_full_optimizer_state", "safe_get_local_fp32_param",
        "safe_set_local_optimizer_state", "lazy_init_hp_params_optimizer_state",
    ),
    "deepspeed.runtime.zero": ("unwrap_model_for_generation",),
    "deepspeed.DeepSpeedEngine": (
        "set_gradient_accumulation_boundary", "backward", "step", "get_global_grad_norm",
    ),
}  # fmt: skip
"""All of DeepSpeed that mgie/training/deepspeed.py uses."""

UNDOCUMENTED = {"fp32_partitioned_groups_flat": "deepspeed.runtime.zero.stage3.DeepSpeedZeroOptimizer_Stage3"}
"""And where what its documentation does not speak of is set."""


def deepspeed_s(dotted: str):
    """What DeepSpeed has under this name."""
    pytest.importorskip("deepspeed")
    import deepspeed.runtime.zero.stage3

    found = deepspeed
    for part in dotted.split(".")[1:]:
        found = getattr(found, part)
    return found


def test_the_version_is_one_that_was_tested(root):
    pytest.importorskip("deepspeed")
    (wanted,) = re.findall(r'"(deepspeed[^"]+)"', (root / "pyproject.toml").read_text())
    tested = Requirement(wanted).specifier
    assert {clause.operator for clause in tested} == {">=", "<"}
    assert version("deepspeed") in tested, (
        f"DeepSpeed is {version('deepspeed')}, and mgie/training/deepspeed.py was tested with {tested}: run "
        "`make test-dist` with it, then move the bound in pyproject.toml."
    )


@pytest.mark.parametrize("home", NAMES)
def test_what_is_used_of_deepspeed_is_there(home):
    missing = [name for name in NAMES[home] if not hasattr(deepspeed_s(home), name)]
    assert not missing, (
        f"DeepSpeed {version('deepspeed')} has no {home}.{missing[0]} any more: see deepspeed.py."
    )


def test_what_is_undocumented_is_still_set():
    for name, home in UNDOCUMENTED.items():
        where = inspect.getsource(deepspeed_s(home))
        assert f"self.{name} = " in where, (
            f"{home} of DeepSpeed {version('deepspeed')} has no {name} any more: find another way to "
            "what the optimizer steps (mgie/training/deepspeed.py, _flats)."
        )


def test_nothing_else_that_is_private_is_used():
    source = inspect.getsource(ours)
    assert not re.findall(r"(?<!self)\.(?:_(?!_)|ds_)\w+", source)
    used = {name for names in NAMES.values() for name in names} | set(UNDOCUMENTED)
    assert all(name in source for name in used)
    imported = re.findall(r"from (deepspeed\S*) import (.*)", source)
    assert {name for home, names in imported for name in names.split(", ")} == set(NAMES["deepspeed.utils"])


def test_the_dictionary_follows_from_the_run():
    config = deepspeed_config(2, processes=4, batch_size=32, micro_batch_size=2, clip=0.5)
    assert config["gradient_accumulation_steps"] == 4
    assert (config["train_batch_size"], config["train_micro_batch_size_per_gpu"]) == (32, 2)
    assert config["gradient_clipping"] == 0.5
    assert config["zero_optimization"]["stage"] == 2


def test_what_is_kept_elsewhere_is_told_deepspeed():
    config = pytest.importorskip("deepspeed.runtime.zero.config")
    sizes = {"processes": 1, "batch_size": 8, "micro_batch_size": 2, "clip": 1.0}
    plain = deepspeed_config(3, **sizes, offload=OffloadConfig())
    assert plain == deepspeed_config(3, **sizes)
    assert not any(key.startswith("offload") for key in plain["zero_optimization"])
    far = OffloadConfig(optimizer="cpu", parameters="nvme", nvme="/disk")
    told = deepspeed_config(3, **sizes, offload=far)["zero_optimization"]
    assert told["offload_optimizer"] == {"device": "cpu", "pin_memory": True}
    assert told["offload_param"] == {"device": "nvme", "pin_memory": True, "nvme_path": "/disk"}
    read = config.DeepSpeedZeroConfig(**told)
    assert (read.offload_optimizer.device, read.offload_param.device) == ("cpu", "nvme")
    assert str(read.offload_param.nvme_path) == "/disk"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["optimizer=cpu"], r"train\.strategy=ddp: only zero1, zero2 and zero3"),
        (["optimizer=nvme", "nvme=/disk", "strategy=zero2"], "anything on nvme, want zero3"),
        (["parameters=cpu", "strategy=zero2"], "parameters, and anything on nvme, want zero3"),
        (["optimizer=nvme", "strategy=zero3"], r"train\.offload\.nvme is None: expected the folder"),
        (["optimizer=cpu", "nvme=/disk", "strategy=zero3"], "expected the folder of a disk where"),
        (["optimizer=cpu", "strategy=zero1", "ema=0.5"], r"set train\.ema to null"),
    ],
)
def test_what_cannot_be_kept_elsewhere_is_refused(tiny_run, words, said):
    own = ("ema", "strategy")
    keys = [f"--train.{'' if word.startswith(own) else 'offload.'}{word}" for word in ["ema=null", *words]]
    with pytest.raises(ConfigError, match=said):
        tiny_run(*keys).validate()


def test_a_cpu_has_no_gpu_to_keep_things_off(tiny_run, world):
    pytest.importorskip("deepspeed")
    run = tiny_run("--train.ema=null", "--train.strategy=zero2", "--train.offload.optimizer=cpu")
    run.validate()
    with pytest.raises(ConfigError, match=r"train\.offload on cpu: .*there is none here"):
        build_engine(run, world)


def test_a_missing_deepspeed_is_a_sentence(world, monkeypatch):
    monkeypatch.setitem(sys.modules, "deepspeed", None)
    with pytest.raises(ConfigError, match=r"train\.strategy=zero3 needs DeepSpeed .*mgie\[train\]"):
        ZeroEngine(world, **SIZES)


def test_a_process_by_itself_shares_nothing_out(tiny_run, world, monkeypatch):
    monkeypatch.setitem(sys.modules, "deepspeed", None)
    assert isinstance(build_engine(tiny_run("--train.strategy=zero3"), world), DdpEngine)


def test_several_processes_share_out_as_the_recipe_says(tiny_run, world, monkeypatch):
    pytest.importorskip("deepspeed")
    monkeypatch.setattr(world, "size", 2)
    engine = build_engine(tiny_run("--train.strategy=zero2", "--train.micro_batch_size=1"), world)
    assert isinstance(engine, ZeroEngine)
    assert (engine.stage, engine.config["gradient_accumulation_steps"]) == (2, 2)
    assert isinstance(build_engine(tiny_run(), world), DdpEngine)
